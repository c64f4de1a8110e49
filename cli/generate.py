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
    force_option,
    guidance_of,
    guidance_option,
    load_backbone,
    model_options,
    notice,
    output_options,
    print_json,
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
def generate(prompt: str, files: tuple[Path, ...], **given: Any) -> None:
    """Make images from a prompt with learned words in it.

    Writes a folder with one PNG for each image, as soon as it is made (with --rank, at the end), prompt and settings in its
    metadata, and all of them as grid.png.

    \b
      sentinv generate "a photo of <cat> on the moon" --concept cat.safetensors
      sentinv generate "a watercolor of <cat>" -c cat.safetensors -n 16 --rank
      sentinv generate "<cat> in a <mug>" -c cat.safetensors -c mug.safetensors
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.concepts.reading import load_concepts

    if was_given("clip") and not given["rank"]:
        raise click.UsageError("--clip has no effect without --rank: leave it out")
    concepts = load_concepts(files, allow_pickle=given["allow_pickle"])
    folder = given["output"] or Path(slug(prompt))
    if folder.exists() and not given["force"]:
        raise SentinvError(f"{folder} exists: give --force to write into it, or choose another --output")
    for concept in concepts:
        if concept.token not in prompt + given["negative"]:
            notice(f"{concept.token} does not occur in the prompt", quiet=given["quiet"])
    tell_toybox(given["model"], quiet=given["quiet"])
    judge = _judge(given) if given["rank"] else None
    with _folder(folder):
        made = _kept(folder, _make(prompt, concepts, given), given)
        if judge is not None:
            made = _ranked(judge, made, prompt, concepts)
        paths = [folder / name for name in _names(made)]
        if judge is not None:
            for path, one in zip(paths, made, strict=True):
                _save(path, one, force=given["force"])
        grid = _save_grid(folder / "grid.png", made, force=given["force"]) if len(made) > 1 else None
    if given["as_json"]:
        images = [
            {"path": str(path), "seed": one.seed, "clip": one.score} for path, one in zip(paths, made, strict=True)
        ]
        print_json({"prompt": prompt, "model": given["model"], "images": images, "grid": grid and str(grid)})
    else:
        click.echo("\n".join(str(path) for path in (*paths, grid) if path))


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


def _make(prompt: str, concepts: list[Concept], given: dict[str, Any]) -> Iterator[Made]:
    """Make the images, batch by batch."""
    from sentinv.generation.generate import GenerateConfig, generate

    backbone = load_backbone(given["model"], given["device"], given["dtype"])
    for side in ("width", "height"):
        if (given[side] or 0) % backbone.vae_scale:
            raise SentinvError(f"--{side}: expected a multiple of {backbone.vae_scale}, got {given[side]}")
    config = GenerateConfig(
        steps=given["steps"],
        guidance_scale=guidance_of(backbone, given),
        negative_prompt=given["negative"],
        batch_size=given["batch_size"],
        width=given["width"],
        height=given["height"],
    )
    settings = {
        "prompt": prompt,
        "negative": config.negative_prompt,
        "concepts": {concept.token: concept.metadata.get("sentinv.initial_text", "") for concept in concepts},
        "model": given["model"],
        "model_hash": backbone.fingerprint,
        "sampler": "DDIM",
        "steps": config.steps,
        "guidance_scale": config.guidance_scale,
    }
    seeds = range(given["seed"], given["seed"] + given["count"])
    batches = [seeds[first : first + config.batch_size] for first in range(0, len(seeds), config.batch_size)]
    with progress("sampling", config.steps * len(batches), quiet=given["quiet"]) as bar:
        for index, batch in enumerate(batches):
            on_step = lambda step, _, done=index * config.steps: bar.at(done + step)  # noqa: E731
            images = generate(
                backbone, prompt, concepts, count=len(batch), seed=batch[0], config=config, on_step=on_step
            )
            for image, seed in zip(images, batch, strict=True):
                yield Made(image, seed, settings | {"seed": seed})


def _judge(given: dict[str, Any]) -> ClipJudge:
    from sentinv.cli.options import quieten_transformers
    from sentinv.evaluation.judges import ClipJudge

    quieten_transformers()
    return ClipJudge.load(given["clip"], base_model=given["model"])


def _ranked(judge: ClipJudge, made: list[Made], prompt: str, concepts: Sequence[Concept]) -> list[Made]:
    """Order images by CLIP, best first. CLIP knows no learned word: it reads the words that the word started from."""
    for concept in concepts:
        known = concept.metadata.get("sentinv.initial_text", "").replace("*", "").strip()
        prompt = prompt.replace(concept.token, known)
    cosines = judge.images([one.image for one in made]) @ judge.texts([" ".join(prompt.split())])[0]
    scored = [replace(one, score=score) for one, score in zip(made, cosines.tolist(), strict=True)]
    return sorted(scored, key=lambda one: -(one.score or 0.0))


def _kept(folder: Path, images: Iterator[Made], given: dict[str, Any]) -> list[Made]:
    """Save images as they are made; those to be ranked only where their making is stopped.

    Raises:
        Interrupted: After Ctrl-C or SIGTERM, if there are any.
    """
    made: list[Made] = []
    try:
        for one in images:
            made.append(one)
            if not given["rank"]:
                _save(folder / f"seed-{one.seed}.png", one, force=given["force"])
    except KeyboardInterrupt as error:
        if not made:
            raise
        for one in made if given["rank"] else ():
            _save(folder / f"seed-{one.seed}.png", one, force=given["force"])
        raise Interrupted(
            f"stopped: {len(made)} of {given['count']} images are in {shown(folder)}",
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


def _save_grid(path: Path, made: Sequence[Made], *, force: bool) -> Path:
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
