"""`sentinv evaluate`: reconstruction and editability of a learned word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import (
    SEED,
    guidance_of,
    guidance_option,
    load_backbone,
    model_options,
    notice,
    output_options,
    print_json,
    tell_toybox,
)
from sentinv.cli.progress import progress

if TYPE_CHECKING:
    from sentinv.evaluation.evaluate import Score
    from sentinv.report.tables import Table

_PATH = click.Path(path_type=Path)


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
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Images at a time.")
@click.option("--steps", type=click.IntRange(1, 1000), default=50, show_default=True, help="DDIM steps.")
@guidance_option
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the first image.")
@click.option("--prompt", "prompts", multiple=True, help="An editing prompt with {}; repeatable.  [default: five]")
@click.option("--caption", help="A person's words for the concept: a third reference row.")
@click.option("--clip", help="CLIP that judges: folder or hub id.  [default: the model's]")
@click.option("--dino", help="DINO that judges: folder or hub id.  [default: facebook/dino-vits16, if it is here]")
@model_options
@output_options
def evaluate(concept: Path, images: tuple[Path, ...], **given: Any) -> None:
    """Measure how well a learned word shows its thing, and how well it can be edited.

    \b
      sentinv evaluate cat.safetensors --images cat.png
      sentinv evaluate cat.safetensors --images cat.png --count 16 --json
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.concepts.reading import load_concept
    from sentinv.evaluation import evaluate as evaluation
    from sentinv.evaluation.judges import ClipJudge
    from sentinv.files.images import read_image
    from sentinv.generation.generate import GenerateConfig

    wrong = next((prompt for prompt in given["prompts"] if "{}" not in prompt), None)
    if wrong is not None:
        raise click.UsageError(f"--prompt needs {{}} where the placeholder goes, got {wrong!r}")
    learned = load_concept([concept])
    real = [read_image(path).image for path in images]
    tell_toybox(given["model"], quiet=given["quiet"])
    backbone = load_backbone(given["model"], given["device"], given["dtype"])
    sampling = GenerateConfig(
        steps=given["steps"], guidance_scale=guidance_of(backbone, given), batch_size=given["batch_size"]
    )
    prompts = given["prompts"] or evaluation.EDITING_PROMPTS
    config = evaluation.EvaluateConfig(count=given["count"], prompts=prompts, sampling=sampling, seed=given["seed"])
    judge = ClipJudge.load(given["clip"], base_model=given["model"], device=backbone.device)
    evaluator = evaluation.Evaluator(real, judge, (backbone.resolution, backbone.resolution), dino=given["dino"])
    total = (len(prompts) + 1) * (2 if given["caption"] is None else 3)
    with progress("evaluate", total, quiet=given["quiet"]) as bar:
        scores = evaluation.evaluate(
            backbone, learned, evaluator, config, human=given["caption"], on_step=lambda done, _: bar.at(done)
        )
    facts = evaluation.describe(scores, config)
    if given["as_json"]:
        print_json({"concept": str(concept), "model": backbone.name, **facts})
        return
    click.echo(_table(scores).markdown())
    for name in ("images per prompt", "seeds", "sampling", "interval"):
        click.echo(f"{name}: {facts[name]}")
    click.echo(f"model: {backbone.name}; judge: {judge.name}")
    for metric, formula in facts["formulas"].items():
        click.echo(f"{metric}: {formula}")
    for note in dict.fromkeys(score.note for score in scores if score.note):
        notice(note, quiet=given["quiet"])


def _table(scores: list[Score]) -> Table:
    from sentinv.report.tables import Table

    rows = []
    for score in scores:
        value = "unavailable" if score.value is None else f"{score.value:.3f}"
        interval = "" if score.low is None else f"[{score.low:.3f}, {score.high:.3f}]"
        rows.append([score.subject, score.metric, score.prompt, value, interval, str(score.n or "")])
    return Table("Evaluation", ["subject", "metric", "prompt", "value", "95 % interval", "n"], rows)
