"""`sentinv tune`: a LoRA around a learned word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.invert import read_pictures, watched
from sentinv.cli.options import FiniteRange, print_json, tell_toybox
from sentinv.cli.training_options import RunOptions, items_option, min_snr_option, picture_options, run_options
from sentinv.report.outputs import TuneOutputs
from sentinv.training.config import TuneConfig

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.files.decoding import Picture
    from sentinv.models.backbone import Backbone
    from sentinv.report.run_page import Report
    from sentinv.training.samples import Samples

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class TuneOptions(RunOptions):
    """What `tune` is told."""

    concept: Path
    words: str | None
    scene_file: Path | None
    learning_rate: float
    rank: int
    target: tuple[str, ...]
    others: int | None
    others_weight: float
    train_rows: bool
    relative_learning_rate: float | None
    rows_learning_rate: float | None
    allow_pickle: bool


@dataclass(frozen=True, kw_only=True)
class TuneJob:
    """What the options of `tune` come to.

    Attributes:
        token: the word.
        outputs: where the files go.
        pictures: with their masks.
        config: of the training.
        words: for the thing; those that the word started from if None.
    """

    token: str
    outputs: TuneOutputs
    pictures: list[Picture]
    config: TuneConfig
    words: str | None = None


@click.command()
@click.argument("concept", type=_PATH)
@click.argument("images", nargs=-1, required=True, type=_PATH, metavar="IMAGE…")
@click.option("-o", "--output", type=_PATH, help="The LoRA's file.  [default: <concept>-lora.safetensors beside it]")
@picture_options(TuneConfig)
@click.option("--words", help="What the thing is, without where it is.  [default: what the word started from]")
@click.option(
    "--scenes", "scene_file", type=_PATH, help="A text file: a place a line, such as: on the moon; styles have a {}."
)
@click.option(
    "--lr",
    "learning_rate",
    type=FiniteRange(0),
    default=TuneConfig.learning_rate,
    show_default=True,
    help="Of the LoRA.",
)
@click.option("--rank", default=TuneConfig.rank, show_default=True, help="Of each layer.")
@click.option(
    "--target",
    multiple=True,
    help="End of the names of modules that get a layer.  [default: attention, feed-forward, convolutions]",
)
@click.option("--batch-size", default=TuneConfig.batch_size, show_default=True, help="Items per step of the picture.")
@items_option(TuneConfig, "blended", "… with a scene or style in the prompt.")
@items_option(TuneConfig, "others", "… with prompts that must not change.")
@click.option(
    "--others-weight",
    type=FiniteRange(0),
    default=TuneConfig.others_weight,
    show_default=True,
    help="How closely these are kept; less makes the thing more like itself.",
)
@min_snr_option(TuneConfig)
@click.option("--train-rows", is_flag=True, help="Let the word learn on too.")
@click.option(
    "--relative-lr",
    "relative_learning_rate",
    type=FiniteRange(0),
    default=TuneConfig.relative_learning_rate,
    show_default=True,
    help="Of the word with --train-rows, as in invert.",
)
@click.option("--rows-lr", "rows_learning_rate", type=FiniteRange(0), help="An absolute one in its place.")
@click.option("--allow-pickle", is_flag=True, help="Read a .pt or .bin concept too.")
@run_options(TuneConfig)
def tune(**given: Any) -> None:
    """Train a LoRA around a learned word, so that it shows its very thing, and scenes and styles stay as they are.

    The model itself is not changed: the LoRA lies beside the word, and is used with it.

    \b
      sentinv tune cat-concept.safetensors cat.png
      sentinv generate "<cat>" -c cat-concept.safetensors \\
        --lora cat-lora.safetensors
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.cli.planning import print_tune_plan
    from sentinv.cli.results import check_end, print_tuned, tuned_facts_of
    from sentinv.concepts.initialization import check_fit
    from sentinv.concepts.reading import load_concept
    from sentinv.models.loading import text_widths
    from sentinv.training.tune import words_of

    options = TuneOptions(**given)
    concept = load_concept([options.concept], allow_pickle=options.allow_pickle)
    check_fit(concept, text_widths(options.model), options.model, None)
    words = words_of(concept, options.words)
    job = TuneJob(
        token=concept.token,
        outputs=TuneOutputs(options.concept, options.output, train_rows=options.train_rows),
        pictures=read_pictures(options.images, options.masks, options.crop, options),
        config=tune_config(options),
        words=words,
    )
    if options.plan_only:
        print_tune_plan(job, options, words)
        return
    job.outputs.check(force=options.force, resume=options.resume)
    tell_toybox(options.model, quiet=options.quiet)
    with job.outputs.held(resume=options.resume):
        report = tune_word(options.load(), concept, job, options)
    if options.as_json:
        print_json(tuned_facts_of(job.outputs, report))
    else:
        print_tuned(job.outputs, report, options)
    check_end(job.outputs, report, "weights", "--lr")


def tune_config(options: TuneOptions) -> TuneConfig:
    """Take the training's options.

    Raises:
        click.UsageError: If a value is out of its range.
        PromptError: If the scenes cannot be used.
    """
    from sentinv.concepts.scenes import read_scenes

    values = options.values_for(TuneConfig)
    if options.target:
        values["targets"] = options.target
    if options.scene_file:
        values["scenes"], values["styles"] = read_scenes(options.scene_file)
    try:
        return TuneConfig(**values)
    except ValueError as error:
        raise click.UsageError(str(error).removeprefix("TuneConfig.")) from error


def tune_word(
    backbone: Backbone, concept: Concept, job: TuneJob, options: TuneOptions, alone: Samples | None = None
) -> Report:
    """Train the LoRA, and write what came of it; of the word there may be images already."""
    from sentinv.cli.results import Clock, tuned_samples_of, word_is_safe
    from sentinv.files.atomic import atomic_write
    from sentinv.report.outputs import write_result
    from sentinv.report.run_page import Report
    from sentinv.training.checkpoint import Checkpoints
    from sentinv.training.tune import tune as train

    clock, outputs, config = Clock(), job.outputs, job.config
    checkpoints = Checkpoints(outputs.checkpoints, resume=options.resume)
    with watched(outputs, config.steps, options) as on_step:
        tuned = train(
            backbone, concept, job.pictures, config, words=job.words, checkpoints=checkpoints, on_step=on_step
        )
    content = tuned.lora.to_bytes()  # that it can be written is seen before anything is
    if outputs.rows is not None:
        tuned.concept.save(outputs.rows, overwrite=options.force)
    atomic_write(outputs.concept, content, overwrite=options.force)
    clock.lap("training")
    report_samples = tuned_samples_of(tuned, backbone, options.samples, quiet=options.quiet, alone=alone)
    clock.lap("images of this page")
    report = Report(learned=tuned, samples=report_samples, seconds=clock.seconds)
    with word_is_safe(outputs.concept):
        write_result(outputs, report)
    return report
