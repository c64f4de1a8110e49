"""`--plan`: what a run would do, told without loading the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import print_json
from sentinv.cli.starting import initializer

if TYPE_CHECKING:
    from sentinv.cli.invert import Job


def print_plan(job: Job) -> None:
    """Print words, tokens, templates, steps, memory and files of a run."""
    plan = _plan(job)
    if job.given["as_json"]:
        print_json(plan)
        return
    size = job.pictures[0].image.size
    images = (
        f"{len(job.pictures)}, the first {size[0]} x {size[1]}" if len(job.pictures) > 1 else f"{size[0]} x {size[1]}"
    )
    examples = ", ".join(repr(prompt) for prompt in plan["templates"][:2])
    config = job.config
    lines = {
        "model": plan["model"],
        "image" if len(job.pictures) == 1 else "images": images + (", with mask" if plan["mask"] else ""),
        "words": f"{plan['text']!r} ({plan['initializer']})",
        "dropped": repr(plan["dropped"]) if plan["dropped"] else "",
        "vectors": f"{plan['vectors']}: {' · '.join(plan['tokens'])}",
        "placeholder": plan["token"],
        "templates": f"{len(plan['templates'])}: {examples} …",
        "training": f"{config.steps} steps x batch {config.batch_size}, learning rate {config.learning_rate:g}, "
        f"{config.schedule}",
        "memory": _memory(plan["memory"]),
        "files": f"{job.outputs.concept}, {job.outputs.folder}/",
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


def _plan(job: Job) -> dict[str, Any]:
    from sentinv.concepts.initialization import check_fit, plan
    from sentinv.concepts.names import check_free
    from sentinv.concepts.prompts import TEMPLATES, fill
    from sentinv.models.loading import load_tokenizers, text_widths
    from sentinv.training.memory import training_memory

    given, config = job.given, job.config
    tokenizer = load_tokenizers(given["model"])[0]
    check_free(job.token, tokenizer.get_vocab())
    said = initializer(job.init, given)(job.pictures[0].image)
    if said.concept and (widths := text_widths(given["model"])):
        check_fit(said.concept, widths, given["model"], given["max_vectors"])
    found = None if said.concept else plan(said.text, tokenizer, given["max_vectors"])
    tokens = found.tokens if found else tuple(said.concept.vector_names)
    return {
        "model": given["model"],
        "images": len(job.pictures),
        "mask": any(picture.mask is not None for picture in job.pictures),
        "initializer": said.source,
        "score": said.score,
        "text": found.text if found else said.text,
        "dropped": found.dropped if found else "",
        "tokens": list(tokens),
        "vectors": len(tokens),
        "token": job.token,
        "templates": [fill(template, job.token) for template in config.templates or TEMPLATES[config.kind]],
        "steps": config.steps,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "memory": training_memory(given["model"], config, given["dtype"], given["device"]),
        "files": [str(job.outputs.concept), str(job.outputs.report), str(job.outputs.metrics)],
    }
