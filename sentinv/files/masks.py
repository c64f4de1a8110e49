"""What somebody gives for a mask, judged: alpha, black and white, two colours, or no mask at all."""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image

from sentinv.errors import SentinvError

BLACK = 8
"""Levels below this are black: what JPEG and soft brushes leave on it."""
_WHITE = 255 - BLACK
_GRAY = 24  # what the channels of a gray pixel may differ by: JPEG's colours are coarse
_OFF_LINE = 40.0  # how far a colour may be from the line between two others and still be a mixture of them
_FIX = "paint white what is meant and black the rest"


def mask_of(image: Image.Image, name: str = "the mask") -> Image.Image:
    """Read a picture as a mask: white is inside, black outside, gray between.

    Where there is alpha, alpha is the mask; if what is opaque is itself black and white, only its white. Two values are black
    and white, the lighter one being white, whatever they are: 0 and 1, or black and red. Gray that reaches neither black nor
    white is stretched to both. The answer, read again, is itself.

    Args:
        image: any size and mode of Pillow.
        name: how to call it in messages.

    Returns:
        Mode L, of the same size.

    Raises:
        SentinvError: If it has other colours, as a picture has that was taken for its mask, or is one plain gray.
    """
    colours, alpha = _parts(image)
    if alpha is None:
        return Image.fromarray(_levels(colours, name))
    visible = colours[alpha >= 128]
    if len(visible) and _is_black_and_white(visible):
        alpha = alpha * (colours.mean(axis=-1) / 255)
    return Image.fromarray(alpha.round().astype(np.uint8))


def tell_about(image: Image.Image, mask: Image.Image, name: str) -> None:
    """Warn of what a mask was read as, where that may surprise its owner.

    Args:
        image: what was given.
        mask: of `mask_of`.
        name: how to call it.
    """
    levels = np.asarray(mask)
    if _parts(image)[1] is not None:
        share = f"{float(levels.mean()) / 255:.0%}"
        warnings.warn(f"{name} has transparent parts: what is opaque, {share} of it, is the mask", stacklevel=3)
    elif (soft := float(((levels >= 64) & (levels <= 191)).mean())) > 0.3:
        warnings.warn(f"{name} is taken for a soft mask: {soft:.0%} of it is neither black nor white", stacklevel=3)


def _parts(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours `[h, w, 3]` and alpha `[h, w]`, float32 in 0..255; no alpha where everything is opaque."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        gray = values * (255 / 65535 if image.mode.startswith("I;16") or values.max() > 255 else 1)
        return np.repeat(gray.clip(0, 255)[..., None], 3, axis=-1).astype(np.float32), None
    if "A" in image.getbands() or "transparency" in image.info:
        both = np.asarray(image.convert("RGBA"), np.float32)
        if both[..., 3].min() < 255:
            return both[..., :3], both[..., 3]
    return np.asarray(image.convert("RGB"), np.float32), None


def _is_black_and_white(pixels: np.ndarray) -> bool:
    """Whether nearly all pixels `[n, 3]` are black or white, and there is a share of both."""
    black, white = ((pixels < 32).all(axis=-1).mean(), (pixels > 223).all(axis=-1).mean())
    return bool(black + white > 0.95 and min(black, white) > 0.001)


def _levels(colours: np.ndarray, name: str) -> np.ndarray:
    """Levels `[h, w]` uint8 of colours without alpha."""
    pixels = colours.reshape(-1, 3)
    gray = bool(np.quantile(np.ptp(pixels, axis=-1), 0.995) <= _GRAY)
    light = pixels @ np.array([0.299, 0.587, 0.114], np.float32) if gray else _along_the_line(pixels, name)
    low, high = float(light.min()), float(light.max())
    if low == high and BLACK <= low < _WHITE:
        raise SentinvError(f"{name} is one plain colour; expected black and white: {_FIX}")
    two_valued = low < high and bool(((light - low < 0.5) | (high - light < 0.5)).all())
    if two_valued or (high >= 4 * BLACK and high - low >= 4 * BLACK and (low >= BLACK or high <= _WHITE)):
        light = (light - low) * (255 / (high - low))
    return light.round().clip(0, 255).astype(np.uint8).reshape(colours.shape[:2])


def _along_the_line(pixels: np.ndarray, name: str) -> np.ndarray:
    """Where each colour lies between two colours that all are mixtures of: 0..255, the lighter end being the larger.

    Raises:
        SentinvError: If there are no such two, or most pixels are mixtures.
    """
    middle = pixels.mean(axis=0)
    spread = np.linalg.eigh(np.cov((pixels - middle).T))[1][:, -1]
    place = (pixels - middle) @ (spread if spread.sum() >= 0 else -spread)
    away = np.linalg.norm(pixels - middle - ((pixels - middle) @ spread)[:, None] * spread, axis=-1)
    low, high = float(place.min()), float(place.max())
    share = (place - low) / max(high - low, 1e-6)
    ends = float(((share < 0.2) | (share > 0.8)).mean())
    if np.quantile(away, 0.99) > _OFF_LINE or ends < 0.8 or high - low < 4 * BLACK:
        raise SentinvError(f"{name} is a picture in colours; expected a mask in black and white: {_FIX}")
    return share * 255
