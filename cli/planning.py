"""`--plan`: what a run would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import print_json

if TYPE_CHECKING:
    from sentinv.cli.invert import InvertOptions, Job
    from sentinv.cli.invert_tune import SecondHalf
    from sentinv.cli.tune import TuneJob, TuneOptions
    from sentinv.training.config import TuneConfig
    from sentinv.training.fitting import Fit
    from sentinv.training.planning import RunPlan


@dataclass(frozen=True, kw_only=True)
class TunePlan:
    """What a run that tunes would do.

    Attributes:
        facts: what `--json` says of it.
        lines: what else is said of it: label → text.
        memory: what it needs.
        fit: whether there is room for it.
    """

    facts: dict[str, Any]
    lines: dict[str, str]
    memory: dict[str, int]
    fit: Fit


def print_plan(job: Job, options: InvertOptions, second: SecondHalf | None) -> None:
    """Print words, tokens, templates, steps, memory and files of a run; memory is what both halves need if there are two."""
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
    lora = None if second is None else second.plan(plan.text, plan.initializer)
    plans: list[RunPlan | TunePlan] = [plan, lora] if lora else [plan]
    most = max(plans, key=lambda one: one.memory["total"])
    outputs = job.outputs
    if options.as_json:
        files = [str(path) for path in (outputs.concept, outputs.report, outputs.metrics)]
        crops = [picture.cut for picture in job.pictures]
        facts = {**asdict(plan), "memory": most.memory, "fit": asdict(most.fit), "crops": crops, "files": files}
        print_json(facts | ({"lora": lora.facts} if lora else {}))
        return
    lines = _lines(job, plan)
    if lora is not None:
        lines |= {
            "then a LoRA": lora.lines["layers"],
            "prompts": lora.lines["prompts"],
            "tuning": lora.lines["training"],
        }
    in_the_way = outputs.in_the_way(force=options.force, resume=options.resume)
    if second is not None:
        in_the_way = in_the_way or second.job.outputs.in_the_way(force=options.force, resume=False)
    written = f"{outputs.concept}, {outputs.folder}/" + (f", {lora.lines['files']}" if lora else "")
    _print_lines(
        {**lines, "memory": _memory(most.memory), "too little": most.fit.told, "files": written, "but": in_the_way}
    )


def _lines(job: Job, plan: RunPlan) -> dict[str, str]:
    """What is said of how a word would be learned."""
    size = job.pictures[0].cut or "{} x {}".format(*job.pictures[0].image.size)
    images = f"{plan.images}, the first {size}" if plan.images > 1 else size
    examples = ", ".join(repr(prompt) for prompt in plan.templates[:2])
    items = f"batch {plan.batch_size}" + (f" + {plan.blended} blended" if plan.blended else "")
    return {
        "model": plan.model,
        "image" if plan.images == 1 else "images": images + (", with mask" if plan.mask else ""),
        "words": f"{plan.text!r} ({plan.initializer})",
        "dropped": repr(plan.dropped) if plan.dropped else "",
        "vectors": f"{plan.vectors}: {' · '.join(plan.tokens)}",
        "placeholder": plan.token,
        "templates": f"{len(plan.templates)}: {examples} …",
        "training": f"{plan.steps} steps x {items}, {plan.learning_rate}, {job.config.schedule}",
    }


def tune_plan(job: TuneJob, options: TuneOptions, thing: str, *, batch: bool = True) -> TunePlan:
    """Plan a run that tunes.

    Args:
        job: the run.
        options: where it would run.
        thing: what the model as it is would be told of the word.
        batch: whether the command that is planned has a say in the batch size.
    """
    from sentinv.training.blend import Blend
    from sentinv.training.fitting import fit
    from sentinv.training.memory import training_memory

    config, outputs = job.config, job.outputs
    images = options.samples > 0
    memory = training_memory(options.place, config, images=images)
    room = fit(options.place, config, memory, batch=batch, images=images)
    blend = Blend.of(config, thing, config.others)
    mask = any(picture.mask is not None for picture in job.pictures)
    facts = {
        "model": options.model,
        "token": job.token,
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
    lines = {
        "model": options.model,
        "word": f"{job.token}, {blend.thing!r} to the model as it is",
        "images": f"{len(job.pictures)}, {'with' if mask else 'without'} mask",
        "prompts": f"{len(blend.scenes)} scenes, {len(blend.styles)} styles: {blend.scenes[0]!r} …",
        "layers": f"rank {config.rank} on {', '.join(config.targets)}",
        "training": f"{config.steps} steps x {_items(config)}, learning rate {config.learning_rate:g}",
        "memory": _memory(memory),
        "too little": room.told,
        "files": f"{outputs.concept}, {outputs.folder}/",
    }
    return TunePlan(facts=facts, lines=lines, memory=memory, fit=room)


def print_tune_plan(job: TuneJob, options: TuneOptions, thing: str) -> None:
    """Print words, prompts, layers, steps, memory and files of a run that tunes."""
    plan = tune_plan(job, options, thing)
    if options.as_json:
        print_json(plan.facts)
    else:
        _print_lines({**plan.lines, "but": job.outputs.in_the_way(force=options.force, resume=options.resume)})


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


def _memory(estimate: dict[str, int]) -> str:
    from sentinv.models.memory import in_bytes

    parts = ", ".join(f"{name} {in_bytes(estimate[name])}" for name in ("weights", "activations", "images"))
    return f"about {in_bytes(estimate['total'])} and what PyTorch itself needs ({parts})"
