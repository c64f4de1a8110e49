"""`sentinv invert`: the main job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import (
    force_option,
    learning_rate_option,
    load_backbone,
    model_options,
    notice,
    output_options,
    schedule_option,
    tell_toybox,
)
from sentinv.cli.outputs import Outputs, name_of
from sentinv.cli.progress import progress
from sentinv.cli.starting import chosen, initializer, starting_options
from sentinv.initializers import INITIALIZERS
from sentinv.training.config import TrainConfig

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.concepts.initialization import Start
    from sentinv.files.decoding import Picture
    from sentinv.models.backbone import Backbone
    from sentinv.training.history import History, StepRecord

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("images", nargs=-1, required=True, type=_PATH, metavar="IMAGE…")
@click.option("--init", type=click.Choice(list(INITIALIZERS)), help="What decides on the start.  [default: caption]")
@starting_options
@click.option("--token", help="The placeholder, such as <cat>.  [default: made of the file's name]")
@click.option("-o", "--output", type=_PATH, help="The concept file.  [default: <name>.safetensors here]")
@click.option("--mask", "masks", multiple=True, type=_PATH, help="White where the thing is; one for each image.")
@click.option("--steps", default=TrainConfig.steps, show_default=True, help="Training steps.")
@click.option(
    "--kind", type=click.Choice(["object", "style"]), default=TrainConfig.kind, show_default=True, help="What it is."
)
@click.option("--templates", type=_PATH, help="A text file with prompts of your own, each with {}.")
@learning_rate_option
@click.option(
    "--batch-size",
    type=int,
    default=TrainConfig.batch_size,
    show_default=True,
    help="Noises, timesteps and templates per step.",
)
@schedule_option
@click.option(
    "--min-snr",
    type=click.FloatRange(0),
    default=TrainConfig.min_snr,
    show_default=True,
    help="Gamma of the loss's weights. Less: composition counts more, fine detail less. 0: all noise levels alike.",
)
@click.option("--no-flip", is_flag=True, help="Do not learn from the mirrored image too.")
@click.option(
    "--stop",
    type=click.Choice(["never", "auto"]),
    default=TrainConfig.stop,
    show_default=True,
    help="auto: when the loss no longer falls.",
)
@click.option("--seed", default=TrainConfig.seed, show_default=True, help="Equal seeds give equal files.")
@click.option("--gradient-checkpointing", is_flag=True, help="Less memory, slower.")
@click.option("--samples", type=click.IntRange(0, 16), default=4, show_default=True, help="Images in the report.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--plan", "plan_only", is_flag=True, help="Show what would happen, and stop.")
@model_options
@force_option
@output_options
def invert(images: tuple[Path, ...], **given: Any) -> None:
    """Learn a word from one image, or from several of one thing.

    Writes a concept file and beside it a folder with report.html and metrics.jsonl.

    \b
      sentinv invert cat.png
      sentinv invert mug.jpg --phrase "a red striped mug" --steps 200
      sentinv invert toy-1.jpg toy-2.jpg --token "<toy>" --stop auto
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.cli.planning import print_plan
    from sentinv.concepts.names import check_token

    init = chosen(given["init"], given)
    config = train_config(given)
    name = name_of(given["output"] or images[0])
    job = Job(
        init=init,
        token=check_token(given["token"] or f"<{name}>"),
        outputs=Outputs(given["output"] or Path(f"{name}.safetensors")),
        pictures=read_pictures(images, given["masks"], quiet=given["quiet"]),
        config=config,
        given=given,
    )
    if given["plan_only"]:
        print_plan(job)
        return
    job.outputs.check(force=given["force"], resume=given["resume"])
    tell_toybox(given["model"], quiet=given["quiet"])
    with job.outputs.held(resume=given["resume"]):
        run(job)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What `invert` was asked to do.

    Attributes:
        init: name of the initializer.
        token: the placeholder.
        outputs: where the files go.
        pictures: with their masks.
        config: of the training.
        given: the other options.
    """

    init: str
    token: str
    outputs: Outputs
    pictures: list[Picture]
    config: TrainConfig
    given: dict[str, Any]


def train_config(given: dict[str, Any]) -> TrainConfig:
    """Take the training's options.

    Raises:
        click.UsageError: If a value is out of its range.
        PromptError: If the templates cannot be used.
    """
    from dataclasses import fields

    from sentinv.concepts.prompts import read_templates

    names = {field.name for field in fields(TrainConfig)} - {"templates"}
    chosen_values = {name: value for name, value in given.items() if name in names and value is not None}
    if chosen_values.get("min_snr") == 0:
        chosen_values["min_snr"] = None
    if given["templates"]:
        chosen_values["templates"] = read_templates(given["templates"])
    try:
        return TrainConfig(**chosen_values, flip=not given["no_flip"])
    except ValueError as error:
        raise click.UsageError(str(error).removeprefix("TrainConfig.")) from error


def read_pictures(paths: Sequence[Path], masks: Sequence[Path], *, quiet: bool) -> list[Picture]:
    """Read the images, and lay the masks over their own.

    Raises:
        SentinvError: If one cannot be read, or a mask has another size than its image.
        click.UsageError: If there are not as many masks as images.
    """
    from dataclasses import replace

    from sentinv.errors import SentinvError
    from sentinv.files.atomic import shown
    from sentinv.files.images import read_image

    if masks and len(masks) != len(paths):
        raise click.UsageError(f"got {len(masks)} --mask for {len(paths)} images: give one for each, in their order")
    pictures = []
    for index, path in enumerate(paths):
        picture = read_image(path)
        for text in picture.notices:
            notice(text, quiet=quiet)
        if masks:
            mask = read_image(masks[index], background=(0, 0, 0)).image.convert("L")
            if mask.size != picture.image.size:
                sizes = f"{mask.width} x {mask.height}, {shown(path)} {picture.image.width} x {picture.image.height}"
                raise SentinvError(f"the mask {shown(masks[index])} has {sizes} pixels: give one of the same size")
            picture = replace(picture, mask=mask)
        pictures.append(picture)
    return pictures


def run(job: Job) -> None:
    """Learn the word, and write and print what came of it."""
    from sentinv.cli.results import Clock, print_result, sample_images, write_result
    from sentinv.concepts.initialization import starting_rows
    from sentinv.concepts.names import check_free
    from sentinv.diffusion.ddim import ddim_steps
    from sentinv.errors import TrainingError
    from sentinv.files.atomic import shown
    from sentinv.report.run_page import Report
    from sentinv.training.loop import WRONG

    given, clock = job.given, Clock()
    initialization = initializer(job.init, given)(job.pictures[0].image)
    clock.lap("finding the words")
    backbone = load_backbone(given["model"], given["device"], given["dtype"])
    ddim_steps(backbone.schedule, 1)  # a schedule that can't be sampled from is told before the training, not after
    clock.lap("loading the model")
    for encoder in backbone.text_encoders:
        check_free(job.token, encoder.vocabulary)
    start = starting_rows(initialization, backbone, given["max_vectors"])
    vectors = "1 vector" if start.count == 1 else f"{start.count} vectors"
    notice(f"{job.token} starts from {job.init}: {start.text!r}, {vectors}", quiet=given["quiet"])
    concept, history = _train(job, backbone, start)
    concept = concept.with_thumbnail(job.pictures[0].image)
    concept.save(job.outputs.concept, overwrite=given["force"])
    clock.lap("training")
    prompt, before, after = sample_images(job, backbone, start, concept)
    clock.lap("images of this page")
    report = Report(
        concept=concept,
        history=history,
        start=start,
        config=job.config,
        images=[picture.image for picture in job.pictures],
        device=str(backbone.device),
        dtype=str(backbone.dtype).removeprefix("torch."),
        prompt=prompt,
        before=before,
        after=after,
        seconds=clock.seconds,
    )
    write_result(job, report)
    print_result(job, report)
    if history.stop in WRONG:
        raise TrainingError(
            f"{WRONG[history.stop]} in step {len(history.records) + 1} of {job.config.steps}: the best rows until then are in "
            f"{shown(job.outputs.concept)}; try a smaller --lr"
        )


def _train(job: Job, backbone: Backbone, start: Start) -> tuple[Concept, History]:
    from sentinv.training.checkpoint import Checkpoints
    from sentinv.training.train import train_concept

    with _watched(job) as on_step:
        return train_concept(
            backbone,
            job.pictures,
            start,
            job.config,
            token=job.token,
            checkpoints=Checkpoints(job.outputs.checkpoints, resume=job.given["resume"]),
            on_step=on_step,
        )


@contextmanager
def _watched(job: Job) -> Iterator[Callable[[StepRecord], None]]:
    """Tell every step twice: on the bar, and as a line of metrics.jsonl."""
    from sentinv.files.json_lines import JsonLines

    evaluation = ""
    with (
        progress("training", job.config.steps, quiet=job.given["quiet"]) as bar,
        JsonLines(job.outputs.metrics) as lines,
    ):

        def on_step(record: StepRecord) -> None:
            nonlocal evaluation
            lines.write(asdict(record))
            if record.evaluation is not None:
                evaluation = f"  grid {record.evaluation:.4f}"
            bar.at(record.step, f"loss {record.loss:.4f}{evaluation}")

        yield on_step
