"""`--plan`: what a run would do."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from sentinv.cli.options import print_json

if TYPE_CHECKING:
    from sentinv.cli.invert import InvertOptions, Job


def print_plan(job: Job, options: InvertOptions) -> None:
    """Print words, tokens, templates, steps, memory and files of a run."""
    from sentinv.training.planning import Place, plan_run

    said = options.initializer(job.init, options.model)(job.pictures[0].image)
    place = Place(model=options.model, device=options.device, dtype=options.dtype)
    plan = plan_run(place, job.pictures, said, job.config, token=job.token, max_vectors=options.max_vectors)
    outputs = job.outputs
    if options.as_json:
        files = [str(path) for path in (outputs.concept, outputs.report, outputs.metrics)]
        print_json({**asdict(plan), "files": files})
        return
    size = "{} x {}".format(*job.pictures[0].image.size)
    images = f"{plan.images}, the first {size}" if plan.images > 1 else size
    examples = ", ".join(repr(prompt) for prompt in plan.templates[:2])
    lines = {
        "model": plan.model,
        "image" if plan.images == 1 else "images": images + (", with mask" if plan.mask else ""),
        "words": f"{plan.text!r} ({plan.initializer})",
        "dropped": repr(plan.dropped) if plan.dropped else "",
        "vectors": f"{plan.vectors}: {' · '.join(plan.tokens)}",
        "placeholder": plan.token,
        "templates": f"{len(plan.templates)}: {examples} …",
        "training": f"{plan.steps} steps x batch {plan.batch_size}, learning rate {plan.learning_rate:g}, "
        f"{job.config.schedule}",
        "memory": _memory(plan.memory),
        "files": f"{outputs.concept}, {outputs.folder}/",
    }
    for label, value in lines.items():
        if value:
            click.echo(f"{label:<12}{value}")


def _memory(estimate: dict[str, int] | None) -> str:
    if estimate is None:
        return "unknown for a single file"
    parts = ", ".join(f"{name} {_bytes(estimate[name])}" for name in ("weights", "activations"))
    return f"about {_bytes(estimate['total'])} and what PyTorch itself needs ({parts})"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"
