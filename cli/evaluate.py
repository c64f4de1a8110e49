"""`sentinv evaluate`: reconstruction and editability of a learned word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.adapting import LoraOptions, lora_option
from sentinv.cli.options import (
    SEED,
    ModelOptions,
    guidance_option,
    model_options,
    output_options,
    print_json,
    tell_toybox,
)
from sentinv.cli.progress import progress

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.evaluation.evaluate import EvaluateConfig, Score
    from sentinv.models.backbone import Backbone
    from sentinv.report.tables import Table

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(LoraOptions, ModelOptions):
    """What `evaluate` is told."""

    concept: Path
    images: tuple[Path, ...]
    count: int
    batch_size: int
    steps: int
    guidance: float | None
    seed: int
    prompts: tuple[str, ...]
    caption: str | None
    clip: str | None
    dino: str | None


@click.command()
@click.argument("concept", type=_PATH)
@click.option(
    "--images",
    "--image",
    "images",
    multiple=True,
    required=True,
    type=_PATH,
    help="A picture of the thing; repeatable.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Images per prompt: on a CPU, take fewer.",
)
@lora_option
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Images at a time.")
@click.option("--steps", type=click.IntRange(1, 1000), default=25, show_default=True, help="DDIM steps.")
@guidance_option
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the first image.")
@click.option("--prompt", "prompts", multiple=True, help="An editing prompt with {}; repeatable.  [default: five]")
@click.option("--caption", help="A person's words for the concept: a third reference row.")
@click.option("--clip", help="CLIP that judges: folder or hub id.  [default: the model's]")
@click.option("--dino", help="DINO that judges: folder or hub id.  [default: facebook/dino-vits16, if it is here]")
@model_options
@output_options
def evaluate(**given: Any) -> None:
    """Measure how well a learned word shows its thing, and how well it can be edited.

    \b
      sentinv evaluate cat-concept.safetensors --images cat.png
      sentinv evaluate cat-concept.safetensors --images cat.png --count 16 --json
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.adapters.fitting import fit
    from sentinv.adapters.install import check_words
    from sentinv.concepts.reading import load_concept
    from sentinv.evaluation.evaluate import Evaluator, describe
    from sentinv.evaluation.evaluate import evaluate as scores_of
    from sentinv.evaluation.judges import ClipJudge

    options = EvaluateOptions(**given)
    wrong = next((prompt for prompt in options.prompts if "{}" not in prompt), None)
    if wrong is not None:
        raise click.UsageError(f"--prompt needs {{}} where the placeholder goes, got {wrong!r}")
    learned = load_concept([options.concept])
    loras, real = options.loras(), _pictures(options)
    check_words([lora for lora, _ in loras], [learned])
    tell_toybox(options.model, quiet=options.quiet)
    backbone = options.load()
    options.tell(fit(lora, backbone) for lora, _ in loras)
    config = _config(backbone, options)
    judge = ClipJudge.load(options.clip, base_model=options.model, device=backbone.device)
    evaluator = Evaluator(real, judge, (backbone.resolution,) * 2, dino=options.dino)
    total = (len(config.prompts) + 1) * (2 if options.caption is None else 3)
    with progress("evaluate", total, quiet=options.quiet) as bar:
        scores = scores_of(
            backbone,
            learned,
            evaluator,
            config,
            loras=loras,
            human=options.caption,
            on_step=lambda done, _: bar.at(done),
        )
    facts = describe(scores, config)
    if options.as_json:
        worn = {"loras": [[str(path), scale] for path, scale in options.lora_files]}
        print_json({"concept": str(options.concept), **worn, "model": backbone.name, **facts})
    else:
        _print(scores, facts, f"{_on(backbone, options)}; judge: {judge.name}")
        for note in dict.fromkeys(score.note for score in scores if score.note):
            options.notice(note)


def _on(backbone: Backbone, options: EvaluateOptions) -> str:
    """The model, and what was on it."""
    return "; LoRA: ".join([f"model: {backbone.name}", *(f"{path}:{scale:g}" for path, scale in options.lora_files)])


def _pictures(options: EvaluateOptions) -> list[Image.Image]:
    """Read the images, and cut the squares that a word is learned from."""
    from sentinv.files.cropping import square
    from sentinv.files.images import read_image

    pictures = [square(read_image(path)) for path in options.images]
    for path, picture in zip(options.images, pictures, strict=True):
        for text in picture.notices:
            told = text.partition("; --crop")[0].replace("trained on", "compared")
            options.notice(told if str(path) in told else f"{path}: {told}")
    return [picture.image for picture in pictures]


def _print(scores: list[Score], facts: Mapping[str, Any], judged: str) -> None:
    click.echo(_table(scores).markdown())
    for name in ("images per prompt", "seeds", "sampling", "interval"):
        click.echo(f"{name}: {facts[name]}")
    click.echo(judged)
    for metric, formula in facts["formulas"].items():
        click.echo(f"{metric}: {formula}")


def _config(backbone: Backbone, options: EvaluateOptions) -> EvaluateConfig:
    from sentinv.evaluation.evaluate import EDITING_PROMPTS, EvaluateConfig
    from sentinv.generation.generate import GenerateConfig

    scale = backbone.guidance_scale if options.guidance is None else options.guidance
    sampling = GenerateConfig(steps=options.steps, guidance_scale=scale, batch_size=options.batch_size)
    prompts = options.prompts or EDITING_PROMPTS
    return EvaluateConfig(count=options.count, prompts=prompts, sampling=sampling, seed=options.seed)


def _table(scores: list[Score]) -> Table:
    from sentinv.report.tables import Table

    rows = []
    for score in scores:
        value = "unavailable" if score.value is None else f"{score.value:.3f}"
        interval = "" if score.low is None else f"[{score.low:.3f}, {score.high:.3f}]"
        rows.append([score.subject, score.metric, score.prompt, value, interval, str(score.n or "")])
    return Table("Evaluation", ["subject", "metric", "prompt", "value", "95 % interval", "n"], rows)
