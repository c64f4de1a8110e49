"""`sentinv generate`: images from a prompt with learned words in it."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import (
    SEED,
    ModelOptions,
    OutputOptions,
    force_option,
    guidance_option,
    model_options,
    output_options,
    print_json,
    quieten_transformers,
    tell_toybox,
    was_given,
)
from sentinv.cli.progress import progress
from sentinv.errors import Interrupted, SentinvError
from sentinv.files.atomic import make_folder, shown
from sentinv.report.contact_sheet import contact_sheet

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.concepts.concept import Concept
    from sentinv.evaluation.judges import ClipJudge
    from sentinv.generation.generate import GenerateConfig
    from sentinv.models.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(ModelOptions, OutputOptions):
    """What `generate` is told."""

    prompt: str
    files: tuple[Path, ...]
    negative: str
    count: int
    seed: int
    steps: int
    guidance: float | None
    width: int | None
    height: int | None
    batch_size: int
    rank: bool
    clip: str | None
    output: Path | None
    allow_pickle: bool
    force: bool


@click.command()
@click.argument("prompt")
@click.option(
    "-c", "--concept", "files", multiple=True, type=click.Path(path_type=Path), help="A learned word; repeatable."
)
@click.option("--negative", default="", help="What to lead away from.")
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=4, show_default=True, help="How many images.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the first image.")
@click.option("--steps", type=click.IntRange(1, 1000), default=50, show_default=True, help="DDIM steps.")
@guidance_option
@click.option("--width", type=click.IntRange(8, 4096), help="In pixels.  [default: the model's]")
@click.option("--height", type=click.IntRange(8, 4096), help="In pixels.  [default: the model's]")
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Images at a time.")
@click.option("--rank", is_flag=True, help="Order by CLIP: how well image and prompt agree.")
@click.option("--clip", help="CLIP for --rank: folder or hub id.  [default: the model's]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder.  [default: made of the prompt]")
@click.option("--allow-pickle", is_flag=True, help="Read .pt and .bin concepts too.")
@model_options
@force_option
@output_options
def generate(**given: Any) -> None:
    """Make images from a prompt with learned words in it.

    Writes a folder with one PNG for each image, as soon as it is made (with --rank, at the end), prompt and settings in its
    metadata, and all of them as grid.png.

    \b
      sentinv generate "a photo of <cat> on the moon" --concept cat.safetensors
      sentinv generate "a watercolor of <cat>" -c cat.safetensors -n 16 --rank
      sentinv generate "<cat> in a <mug>" -c cat.safetensors -c mug.safetensors
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.concepts.concept import Concept
    from sentinv.models.eyes import looking

    options = GenerateOptions(**given)
    if was_given("clip") and not options.rank:
        raise click.UsageError("--clip has no effect without --rank: leave it out")
    concepts = [Concept.load(file, allow_pickle=options.allow_pickle) for file in options.files]
    folder = options.output or Path(slug(options.prompt))
    if folder.exists() and not options.force:
        raise SentinvError(f"{folder} exists: give --force to write into it, or choose another --output")
    for concept in concepts:
        if concept.token not in options.prompt + options.negative:
            options.notice(f"{concept.token} does not occur in the prompt")
    tell_toybox(options.model, quiet=options.quiet)
    judge = _judge(options) if options.rank else None
    with _folder(folder):
        made = _kept(folder, _make(concepts, options), options)
        if judge is not None:
            with looking(judge.model, options.device):
                made = _ranked(judge, made, concepts, options.prompt)
        paths = [folder / name for name in _names(made)]
        if judge is not None:
            for path, one in zip(paths, made, strict=True):
                _save(path, one, force=options.force)
        sheet = _save_sheet(folder / "grid.png", made, force=options.force) if len(made) > 1 else None
    if options.as_json:
        images = [
            {"path": str(path), "seed": one.seed, "clip": one.score} for path, one in zip(paths, made, strict=True)
        ]
        facts = {"prompt": options.prompt, "model": options.model}
        print_json({**facts, "images": images, "grid": sheet and str(sheet)})
    else:
        click.echo("\n".join(str(path) for path in (*paths, sheet) if path))


@dataclass(frozen=True)
class Made:
    """An image that was made.

    Attributes:
        image: what was made.
        seed: of its noise.
        settings: what plain text metadata says about it.
        score: CLIP's cosine between image and prompt; None if it was not asked for.
    """

    image: Image.Image
    seed: int
    settings: dict[str, Any]
    score: float | None = None


def slug(prompt: str) -> str:
    """Make a folder's name of a prompt: "a photo of <cat>!" → "a-photo-of-cat"."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60].rstrip("-") or "images"


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make a folder before any work, so that whoever cannot write there learns it now; an empty one is not left."""
    existed = path.exists()
    make_folder(path)
    try:
        yield
    finally:
        if not existed and not any(path.iterdir()):
            path.rmdir()


def _make(concepts: list[Concept], options: GenerateOptions) -> Iterator[Made]:
    """Make the images, as they come."""
    from sentinv.generation.generate import generate_images

    backbone = options.load()
    config = _config(backbone, options)
    settings = {
        "prompt": options.prompt,
        "negative": config.negative_prompt,
        "concepts": {concept.token: concept.metadata.get("sentinv.initial_text", "") for concept in concepts},
        "model": options.model,
        "model_hash": backbone.fingerprint,
        "sampler": "DDIM",
        "steps": config.steps,
        "guidance_scale": config.guidance_scale,
    }
    total = config.steps * -(-options.count // config.batch_size)
    with progress("sampling", total, quiet=options.quiet) as bar:
        for one in generate_images(
            backbone,
            options.prompt,
            concepts,
            count=options.count,
            seed=options.seed,
            config=config,
            on_step=lambda done, _: bar.at(done),
        ):
            yield Made(one.image, one.seed, settings | {"seed": one.seed})


def _config(backbone: Backbone, options: GenerateOptions) -> GenerateConfig:
    """How to sample.

    Raises:
        SentinvError: If a side does not fit the model.
    """
    from sentinv.generation.generate import GenerateConfig

    for side, pixels in (("width", options.width), ("height", options.height)):
        if (pixels or 0) % backbone.vae_scale:
            raise SentinvError(f"--{side}: expected a multiple of {backbone.vae_scale}, got {pixels}")
    return GenerateConfig(
        steps=options.steps,
        guidance_scale=backbone.guidance_scale if options.guidance is None else options.guidance,
        negative_prompt=options.negative,
        batch_size=options.batch_size,
        width=options.width,
        height=options.height,
    )


def _judge(options: GenerateOptions) -> ClipJudge:
    from sentinv.evaluation.judges import ClipJudge

    quieten_transformers()
    return ClipJudge.load(options.clip, base_model=options.model)


def _ranked(judge: ClipJudge, made: list[Made], concepts: Sequence[Concept], prompt: str) -> list[Made]:
    """Order images by CLIP, best first."""
    from sentinv.evaluation.ranking import prompt_scores, ranking

    scores = prompt_scores(judge, [one.image for one in made], prompt, concepts)
    return [replace(made[index], score=scores[index]) for index in ranking(scores)]


def _kept(folder: Path, images: Iterator[Made], options: GenerateOptions) -> list[Made]:
    """Save images as they are made; those to be ranked only where their making is stopped.

    Raises:
        Interrupted: After Ctrl-C or SIGTERM, if there are any.
    """
    made: list[Made] = []
    try:
        for one in images:
            made.append(one)
            if not options.rank:
                _save(folder / f"seed-{one.seed}.png", one, force=options.force)
    except KeyboardInterrupt as error:
        if not made:
            raise
        for one in made if options.rank else ():
            _save(folder / f"seed-{one.seed}.png", one, force=options.force)
        raise Interrupted(
            f"stopped: {len(made)} of {options.count} images are in {shown(folder)}",
            getattr(error, "signal_number", signal.SIGINT),
        ) from error
    return made


def _names(made: Sequence[Made]) -> list[str]:
    """Name the files of images, by rank if they have one."""
    digits = len(str(len(made)))
    seeds = [f"seed-{one.seed}.png" for one in made]
    return [
        name if one.score is None else f"rank-{rank:0{digits}d}-{name}"
        for rank, (one, name) in enumerate(zip(made, seeds, strict=True), start=1)
    ]


def _save(path: Path, one: Made, *, force: bool) -> Path:
    """Write an image, with what it was made of."""
    from sentinv.files.images import save_png

    text = {"parameters": _parameters(one), "sentinv": json.dumps(one.settings | {"clip": one.score})}
    return save_png(path, one.image, text, overwrite=force)


def _save_sheet(path: Path, made: Sequence[Made], *, force: bool) -> Path:
    """Write the sheet of all images."""
    from sentinv.files.images import save_png

    captions = [f"seed {one.seed}" if one.score is None else f"{one.score:.3f}  seed {one.seed}" for one in made]
    sheet = contact_sheet([one.image for one in made], captions=captions)
    return save_png(path, sheet, {"parameters": _parameters(made[0])}, overwrite=force)


def _parameters(one: Made) -> str:
    """Prompt and settings as image viewers and web UIs show them."""
    settings = one.settings
    negative = f"\nNegative prompt: {settings['negative']}" if settings["negative"] else ""
    size = f"{one.image.width}x{one.image.height}"
    return (
        f"{settings['prompt']}{negative}\nSteps: {settings['steps']}, Sampler: DDIM, "
        f"CFG scale: {settings['guidance_scale']:g}, Seed: {one.seed}, Size: {size}, Model: {settings['model']}"
    )
