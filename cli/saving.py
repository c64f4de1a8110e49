"""The images that `generate` made, and their files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentinv.cli.targets import is_file

if TYPE_CHECKING:
    from PIL import Image


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


def path_of(target: Path, one: Made) -> Path:
    """Where an image goes that has no rank."""
    return target if is_file(target) else target / f"seed-{one.seed}.png"


def names_of(made: Sequence[Made]) -> list[str]:
    """Name the files of images, by rank if they have one."""
    digits = len(str(len(made)))
    seeds = [f"seed-{one.seed}.png" for one in made]
    return [
        name if one.score is None else f"rank-{rank:0{digits}d}-{name}"
        for rank, (one, name) in enumerate(zip(made, seeds, strict=True), start=1)
    ]


def save(path: Path, one: Made, *, force: bool) -> Path:
    """Write an image, with what it was made of."""
    from sentinv.files.images import save_png

    text = {"parameters": _parameters(one), "sentinv": json.dumps(one.settings | {"clip": one.score})}
    return save_png(path, one.image, text, overwrite=force)


def save_sheet(path: Path, made: Sequence[Made], *, force: bool) -> Path:
    """Write the sheet of all images."""
    from sentinv.files.images import save_png
    from sentinv.report.contact_sheet import contact_sheet

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
