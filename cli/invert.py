"""`sentinv invert`: the main job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import OutputOptions, print_json, tell_toybox
from sentinv.cli.progress import progress
from sentinv.cli.starting import StartingOptions, chosen, starting_options
from sentinv.cli.training_options import (
    RunOptions,
    flip_option,
    items_option,
    learning_rate_option,
    min_snr_option,
    picture_options,
    run_options,
    schedule_option,
)
from sentinv.initializers import INITIALIZERS
from sentinv.report.outputs import Outputs, default_file, name_of
from sentinv.training.config import TrainConfig

if TYPE_CHECKING:
    from sentinv.cli.invert_tune import SecondHalf
    from sentinv.files.cropping import Crop
    from sentinv.files.decoding import Picture
    from sentinv.models.backbone import Backbone
    from sentinv.report.run_page import Report
    from sentinv.training.history import StepRecord

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class InvertOptions(StartingOptions, RunOptions):
    """What `invert` is told."""

    init: str | None
    token: str | None
    templates: Path | None
    relative_learning_rate: float | None
    learning_rate: float | None
    max_norm: float | None
    fixed_norms: bool
    schedule: str
    flip: bool
    stop: str
    tune: bool


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the options of `invert` come to.

    Attributes:
        init: name of the initializer.
        token: the placeholder.
        outputs: where the files go.
        pictures: with their masks.
        config: of the training.
    """

    init: str
    token: str
    outputs: Outputs
    pictures: list[Picture]
    config: TrainConfig


@click.command()
@click.argument("images", nargs=-1, required=True, type=_PATH, metavar="IMAGE…")
@click.option("--init", type=click.Choice(list(INITIALIZERS)), help="What decides on the start.  [default: caption]")
@starting_options
@click.option("--token", help="The placeholder, such as <cat>.  [default: made of the file's name]")
@click.option("-o", "--output", type=_PATH, help="The concept file.  [default: <name>-concept.safetensors here]")
@picture_options(TrainConfig)
@click.option("--templates", type=_PATH, help="A text file with prompts of your own, each with {}.")
@learning_rate_option
@click.option(
    "--batch-size",
    type=int,
    help="Noises, timesteps and templates per step.  [default: 4, less those that are --blended]",
)
@schedule_option
@min_snr_option(TrainConfig)
@flip_option
@click.option(
    "--stop",
    type=click.Choice(["never", "auto"]),
    default=TrainConfig.stop,
    show_default=True,
    help="auto: when the loss no longer falls.",
)
@click.option("--tune", is_flag=True, help="Then train a LoRA around the word, as sentinv tune does.")
@items_option(TrainConfig, "blended", "Items per step that name a scene, of which the word is to learn nothing.")
@run_options(TrainConfig)
def invert(**given: Any) -> None:
    """Learn a word from one image, or from several of one thing.

    Writes a concept file and beside it a folder with report.html and metrics.jsonl.

    \b
      sentinv invert cat.png
      sentinv invert mug.jpg --phrase "a red striped mug" --steps 200
      sentinv invert toy-1.jpg toy-2.jpg --token "<toy>" --stop auto
      sentinv invert cat.png --tune
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.cli.invert_tune import SecondHalf
    from sentinv.cli.planning import print_plan
    from sentinv.concepts.names import check_token

    options = InvertOptions(**given)
    name = name_of(options.output or options.images[0])
    job = Job(
        init=chosen(options.init, options),
        config=train_config(options),
        token=check_token(options.token or f"<{name}>"),
        outputs=Outputs(options.output or default_file(name)),
        pictures=read_pictures(options.images, options.masks, options.crop, options),
    )
    second = SecondHalf.of(job, options) if options.tune else None
    if options.plan_only:
        print_plan(job, options, second)
        return
    job.outputs.check(force=options.force, resume=options.resume)
    if second is not None:
        second.job.outputs.check(force=options.force, resume=False)
    tell_toybox(options.model, quiet=options.quiet)
    with job.outputs.held(resume=options.resume):
        backbone, report = run(job, options)
    finish(job, options, backbone, report, second)


def finish(job: Job, options: InvertOptions, backbone: Backbone, report: Report, second: SecondHalf | None) -> None:
    """Tell what came of the word, and of its LoRA if one is asked for: with --json in one object, whatever happens.

    Raises:
        TrainingError: If a run went wrong; what it had by then is written.
        SentinvError: If there is no LoRA; it says how to go on.
    """
    from sentinv.cli.results import check_end, facts_of, print_result, print_tuned, tuned_facts_of

    facts = facts_of(job.outputs, report) | ({} if second is None else {"lora": None})
    try:
        if not options.as_json:
            print_result(job.outputs, report, options, last=second is None)
        check_end(job.outputs, report, "rows", "--relative-lr" if options.learning_rate is None else "--lr")
        if second is not None:
            tuned = second.run(backbone, report.learned.concept, report.samples)
            facts["lora"] = tuned_facts_of(second.job.outputs, tuned)
            if not options.as_json:
                print_tuned(second.job.outputs, tuned, second.options)
            check_end(second.job.outputs, tuned, "weights", "--lr")
    finally:
        if options.as_json:
            print_json(facts)


def train_config(options: InvertOptions) -> TrainConfig:
    """Take the training's options.

    Raises:
        click.UsageError: If a value is out of its range.
        PromptError: If the templates cannot be used.
    """
    from sentinv.concepts.prompts import read_templates

    values = options.values_for(TrainConfig)
    values["templates"] = read_templates(options.templates) if options.templates else None
    try:
        return TrainConfig(**values)
    except ValueError as error:
        raise click.UsageError(str(error).removeprefix("TrainConfig.")) from error


def read_pictures(paths: Sequence[Path], masks: Sequence[Path], crop: Crop, options: OutputOptions) -> list[Picture]:
    """Read the images, lay the masks over their own, and cut the squares that are trained on.

    Raises:
        SentinvError: If one cannot be read, or a mask has another size than its image, is empty or no mask.
        click.UsageError: If there are not as many masks as images.
    """
    from sentinv.errors import SentinvError
    from sentinv.files.atomic import shown
    from sentinv.files.cropping import square
    from sentinv.files.images import read_image, read_mask

    if masks and len(masks) != len(paths):
        raise click.UsageError(f"got {len(masks)} --mask for {len(paths)} images: give one for each, in their order")
    pictures = []
    for index, path in enumerate(paths):
        picture = read_image(path)
        try:
            if masks:
                picture = picture.with_mask(read_mask(masks[index]))
            pictures.append(square(picture, crop))
        except SentinvError as error:
            raise SentinvError(
                f"--mask {shown(masks[index])}: {error}" if masks else f"{shown(path)}: {error}"
            ) from error
        for text in pictures[-1].notices:
            options.notice(text if shown(path) in text else f"{shown(path)}: {text}")
    return pictures


def run(job: Job, options: InvertOptions) -> tuple[Backbone, Report]:
    """Learn the word, and write what came of it; the model is for what follows."""
    from sentinv.cli.results import Clock, samples_of, word_is_safe
    from sentinv.diffusion.ddim import ddim_steps
    from sentinv.report.outputs import write_result
    from sentinv.report.run_page import Report
    from sentinv.training.checkpoint import Checkpoints
    from sentinv.training.invert import find_start, learn
    from sentinv.training.planning import check_run

    clock = Clock()
    said = options.initializer(job.init, options.model, options.device)(job.pictures[0].image)
    clock.lap("finding the words")
    check_run(options.place, said, job.config, token=job.token, max_vectors=options.max_vectors)
    backbone = options.load()
    ddim_steps(backbone.schedule, 1)  # a schedule that can't be sampled from is told before the training, not after
    clock.lap("loading the model")
    start = find_start(backbone, job.pictures, said, options.max_vectors)
    vectors = "1 vector" if start.count == 1 else f"{start.count} vectors"
    options.notice(f"{job.token} starts from {said.source}: {start.text!r}, {vectors}")
    kept = Checkpoints(job.outputs.checkpoints, resume=options.resume)
    with watched(job.outputs, job.config.steps, options) as on_step:
        learned = learn(backbone, job.pictures, start, job.config, token=job.token, checkpoints=kept, on_step=on_step)
    learned.concept.save(job.outputs.concept, overwrite=options.force)
    clock.lap("training")
    report = Report(learned=learned, samples=samples_of(learned, backbone, options), seconds=clock.seconds)
    clock.lap("images of this page")
    with word_is_safe(job.outputs.concept):
        write_result(job.outputs, report)
    return backbone, report


@contextmanager
def watched(outputs: Outputs, steps: int, options: OutputOptions) -> Iterator[Callable[[StepRecord], None]]:
    """Tell every step twice: on the bar, and as a line of metrics.jsonl."""
    from sentinv.files.json_lines import JsonLines

    evaluation = ""
    with (
        progress("training", steps, quiet=options.quiet) as bar,
        JsonLines(outputs.metrics) as lines,
    ):

        def on_step(record: StepRecord) -> None:
            nonlocal evaluation
            lines.write(asdict(record))
            if record.evaluation is not None:
                evaluation = f"  grid {record.evaluation:.4f}"
            bar.at(record.step, f"loss {record.loss:.4f}{evaluation}")

        yield on_step
