"""The square of a picture that a model is trained on: which, and what it leaves out."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from PIL import Image

from sentinv.errors import SentinvError
from sentinv.files.decoding import Picture
from sentinv.files.masks import BLACK

Crop = Literal["auto", "center", "top", "bottom", "left", "right", "none"]
"""Which square: "auto" is that around the mask, the middle one where there is no mask; "none" pads instead of cutting."""

_TOLD = 0.05  # share of a picture that may go without a word
_PLACES = {"top": 0.0, "left": 0.0, "bottom": 1.0, "right": 1.0}


def square(picture: Picture, crop: Crop = "auto") -> Picture:
    """Cut a picture, and its mask with it, to a square of its shorter side, or pad it to one of its longer side.

    What is padded is outside the mask, so that nothing is learned from it. A square picture stays as it is.

    Args:
        picture: any size.
        crop: which square. "top" and "bottom" are for upright pictures, "left" and "right" for wide ones; for the others
            they are the middle.

    Returns:
        The square, with a notice where more than a twentieth of the picture, or some of the mask, is left out.

    Raises:
        SentinvError: If nothing of the mask is left.
    """
    width, height = picture.image.size
    if picture.mask is not None and not _inside(picture.mask).any():
        raise SentinvError("the mask is empty: paint the thing white")
    if width == height:
        return picture
    if crop == "none":
        return _padded(picture)
    side, first = min(width, height), _first(picture, crop)
    box = (first, 0, first + side, side) if width > height else (0, first, side, first + side)
    mask = picture.mask and picture.mask.crop(box)
    lost = 0.0
    if picture.mask is not None and mask is not None:
        all_of_it = _inside(picture.mask).sum()
        lost = 1 - float(_inside(mask).sum() / all_of_it)
        if lost == 1:
            raise SentinvError(
                f"the mask has nothing in the square that is trained on (--crop {crop}): leave --crop out"
            )
    cut = f"the {_place(first, side, width, height)} {side} x {side} of {width} x {height} pixels"
    notices = picture.notices
    if 1 - side / max(width, height) > _TOLD and (picture.mask is None or lost > _TOLD):
        notices += (_notice(cut, width > height, crop, lost),)
    return replace(picture, image=picture.image.crop(box), mask=mask, notices=notices, cut=cut)


def _inside(mask: Image.Image) -> np.ndarray:
    return np.asarray(mask) >= BLACK


def _first(picture: Picture, crop: Crop) -> int:
    """Where the square begins along the longer side."""
    width, height = picture.image.size
    room = abs(width - height)
    usable = ("left", "right") if width > height else ("top", "bottom")
    if crop in usable:
        return round(room * _PLACES[crop])
    if crop != "auto" or picture.mask is None:
        return round(room * 0.5)
    weights = np.where(_inside(picture.mask), np.asarray(picture.mask, np.float64), 0).sum(
        axis=0 if width > height else 1
    )
    sums = np.concatenate([[0.0], np.cumsum(weights)])
    kept = sums[min(width, height) :] - sums[: room + 1]  # of the mask, for each place of the square
    best = np.flatnonzero(kept >= kept.max() * (1 - 1e-9))
    inside = np.flatnonzero(weights)
    wanted = (
        inside[0] + inside[-1] + 1 - min(width, height)
    ) / 2  # the thing in the middle, where that is one of the best
    return int(best[np.abs(best - wanted).argmin()])


def _place(first: int, side: int, width: int, height: int) -> str:
    room = abs(width - height)
    ends = ("left", "right") if width > height else ("top", "bottom")
    if abs(first - room / 2) < max(1, room * 0.02):
        return "middle"
    return ends[0] if first <= room * 0.02 else ends[1] if first >= room * 0.98 else f"{ends[first > room / 2]} middle"


def _notice(cut: str, wide: bool, crop: Crop, lost: float) -> str:
    others = [name for name in (("left", "right") if wide else ("top", "bottom")) if name != crop]
    ways = f"--crop {', '.join(others)} or none"
    what = f", without {lost:.0%} of the mask" if lost else ""
    return f"only {cut} are trained on{what}; {ways} changes that (none keeps all of it)"


def _padded(picture: Picture) -> Picture:
    """Laid in the middle of a square of the picture's mean colour."""
    width, height = picture.image.size
    side = max(width, height)
    place = ((side - width) // 2, (side - height) // 2)
    mean = np.asarray(picture.image, np.float64).reshape(-1, 3).mean(axis=0).round()
    image = Image.new("RGB", (side, side), (int(mean[0]), int(mean[1]), int(mean[2])))
    image.paste(picture.image, place)
    mask = Image.new("L", (side, side), 0)
    mask.paste(picture.mask or Image.new("L", (width, height), 255), place)
    return replace(picture, image=image, mask=mask, cut=f"all of {width} x {height} pixels, padded to a square")
