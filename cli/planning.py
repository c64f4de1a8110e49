"""`--plan`: what a run would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import print_json

if TYPE_CHECKING:
    from sentinv.cli.invert import InvertOptions, Job
    from sentinv.cli.tune import TuneJob, TuneOptions
    from sentinv.training.config import TuneConfig


def print_plan(job: Job, options: InvertOptions) -> None:
    """Print words, tokens, templates, steps, memory and files of a run."""
    from sentinv.training.planning import plan_run

    said = options.initializer(job.init, options.model, options.device)(job.pictures[0].image)
    plan = plan_run(
        options.place,
        job.pictures,
        said,
        job.config,
        token=job.token,
        max_vectors=options.max_vectors,
        images=options.samples > 0,
    )
    outputs = job.outputs
    if options.as_json:
        files = [str(path) for path in (outputs.concept, outputs.report, outputs.metrics)]
        print_json({**asdict(plan), "crops": [picture.cut for picture in job.pictures], "files": files})
        return
    size = job.pictures[0].cut or "{} x {}".format(*job.pictures[0].image.size)
    images = f"{plan.images}, the first {size}" if plan.images > 1 else size
    examples = ", ".join(repr(prompt) for prompt in plan.templates[:2])
    _print_lines(
        {
            "model": plan.model,
            "image" if plan.images == 1 else "images": images + (", with mask" if plan.mask else ""),
            "words": f"{plan.text!r} ({plan.initializer})",
            "dropped": repr(plan.dropped) if plan.dropped else "",
            "vectors": f"{plan.vectors}: {' · '.join(plan.tokens)}",
            "placeholder": plan.token,
            "templates": f"{len(plan.templates)}: {examples} …",
            "training": f"{plan.steps} steps x batch {plan.batch_size}, {plan.learning_rate}, {job.config.schedule}",
            "memory": _memory(plan.memory),
            "too little": plan.fit.told,
            "files": f"{outputs.concept}, {outputs.folder}/",
            "but": outputs.in_the_way(force=options.force, resume=options.resume),
        }
    )


def print_tune_plan(job: TuneJob, options: TuneOptions) -> None:
    """Print words, prompts, layers, steps, memory and files of a run that tunes."""
    from sentinv.training.blend import Blend
    from sentinv.training.fitting import fit
    from sentinv.training.memory import training_memory

    config, outputs = job.config, job.outputs
    memory = training_memory(options.model, config, options.dtype, options.device, images=options.samples > 0)
    room = fit(options.model, config, options.dtype, options.device, memory)
    blend = Blend.of(config, job.words or "", config.others)
    mask = any(picture.mask is not None for picture in job.pictures)
    if options.as_json:
        print_json(
            {
                "model": options.model,
                "token": job.concept.token,
                "thing": blend.thing,
                "images": len(job.pictures),
                "mask": mask,
                "scenes": list(blend.scenes),
                "styles": list(blend.styles),
                **_tuning(config),
                "memory": memory,
                "fit": asdict(room),
                "files": [str(path) for path in (outputs.concept, outputs.report, outputs.metrics)],
            }
        )
        return
    _print_lines(
        {
            "model": options.model,
            "word": f"{job.concept.token}, {blend.thing!r} to the model as it is",
            "images": f"{len(job.pictures)}, {'with' if mask else 'without'} mask",
            "prompts": f"{len(blend.scenes)} scenes, {len(blend.styles)} styles: {blend.scenes[0]!r} …",
            "layers": f"rank {config.rank} on {', '.join(config.targets)}",
            "training": f"{config.steps} steps x {_items(config)}, learning rate {config.learning_rate:g}",
            "memory": _memory(memory),
            "too little": room.told,
            "files": f"{outputs.concept}, {outputs.folder}/",
        }
    )


def _tuning(config: TuneConfig) -> dict[str, Any]:
    """What `--json` says of how a LoRA would be trained."""
    return {
        "rank": config.rank,
        "targets": list(config.targets),
        "steps": config.steps,
        "items": [config.batch_size, config.blended, config.others],
        "learning_rate": config.learning_rate,
    }


def _items(config: TuneConfig) -> str:
    return f"{config.batch_size} + {config.blended} blended + {config.others} other items"


def _print_lines(lines: Mapping[str, str]) -> None:
    """Print what there is to say, each with its label."""
    for label, value in lines.items():
        if value:
            click.echo(f"{label:<12}{value}")


def _memory(estimate: dict[str, int] | None) -> str:
    from sentinv.models.memory import in_bytes

    if estimate is None:
        return "unknown for a single file"
    parts = ", ".join(f"{name} {in_bytes(estimate[name])}" for name in ("weights", "activations", "images"))
    return f"about {in_bytes(estimate['total'])} and what PyTorch itself needs ({parts})"
