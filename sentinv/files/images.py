"""Pictures in and out: reading strangers' files, tensors, PNGs with metadata, grids."""

import io
import math
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin

from sentinv.errors import SentinvError
from sentinv.files.atomic import StrPath, atomic_write, shown
from sentinv.files.decoding import Picture, decode, picture_of

MAX_BYTES = 100_000_000
WHITE = (255, 255, 255)
BLACK = (0, 0, 0)


def read_image(path: StrPath, *, background: tuple[int, int, int] = WHITE) -> Picture:
    """Read a picture from a file that nobody vouches for.

    JPEG, PNG and WebP are recognised by content, whatever the name says. The picture
    is turned upright (EXIF), converted to sRGB (colour profile, CMYK), 16-bit gray is
    scaled, transparent parts are laid on `background` and kept as a mask, and of an
    animation the first frame is taken.

    Args:
        path: A file of at most 100 MB and 50 million pixels, at least 16 pixels on
            each side and at most ten times as long as wide.
        background: RGB colour, 0..255, that shows through transparent parts.

    Returns:
        The picture, its mask if it has transparent parts, and notices.

    Raises:
        SentinvError: For whatever can't be read: one line that names the file. Nothing
            else is raised for any content.
    """
    return decode(_read(path), shown(path), background)


def read_mask(path: StrPath) -> Image.Image:
    """Read a mask from a file, as gray: white is inside, black outside, and so is what is transparent.

    Raises:
        SentinvError: As `read_image`.
    """
    return read_image(path, background=BLACK).image.convert("L")


def crop_resize(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Cut the centre to the shape of `size` (height, width), then scale it to that size."""
    return ImageOps.fit(image, (size[1], size[0]), resample)


def size_in_shape(shape: tuple[int, int], side: int, multiple: int) -> tuple[int, int]:
    """Height and width like those of a picture, with about the area of a square, as SDXL's buckets are (Podell et al. 2023).

    Args:
        shape: Height and width of the picture, ≥ 1.
        side: Of the square, in pixels.
        multiple: What height and width must be multiples of, ≥ 1; of the sizes around that area, the one of the likest shape
            is taken.
    """
    slope = shape[1] / shape[0]
    height, width = (side * share / multiple for share in (1 / math.sqrt(slope), math.sqrt(slope)))
    sizes = [(h, w) for h in _neighbours(height) for w in _neighbours(width)]
    height, width = min(sizes, key=lambda size: abs(math.log(size[1] / size[0] / slope)))
    return height * multiple, width * multiple


def _neighbours(value: float) -> tuple[int, int]:
    """The whole numbers below and above, at least 1; the nearer one first."""
    below, above = max(1, math.floor(value)), max(1, math.ceil(value))
    return (below, above) if value - below <= above - value else (above, below)


def prepare(image: Image.Image, size: tuple[int, int], *, multiple: int = 8) -> torch.Tensor:
    """Centre-crop and resize (Lanczos) a picture for a model.

    Args:
        image: Any size and mode; transparent parts are laid on white.
        size: Height and width in pixels, each a multiple of `multiple`.
        multiple: What the model's sizes must be a multiple of.

    Returns:
        float32 `[1, 3, height, width]` in [-1, 1].

    Raises:
        ValueError: If a side isn't a positive multiple.
    """
    if any(side <= 0 or side % multiple for side in size):
        raise ValueError(f"size must be positive multiples of {multiple}, got {size}")
    cropped = crop_resize(picture_of(image).image, size, Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.asarray(cropped, dtype=np.float32))
    return (pixels / 127.5 - 1).permute(2, 0, 1)[None].contiguous()


def prepare_mask(mask: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """Centre-crop a mask as `prepare` does its picture, and average it over each pixel.

    Args:
        mask: Any size; read as gray, white is 1.
        size: Height and width: of the image, or of its latents.

    Returns:
        float32 `[1, 1, height, width]` in [0, 1].

    Raises:
        ValueError: If a side isn't positive.
    """
    if min(size) <= 0:
        raise ValueError(f"size must be positive, got {size}")
    cropped = crop_resize(mask.convert("L"), size, Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(cropped, dtype=np.float32) / 255)[None, None]


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    """Turn `[batch, 3, height, width]` in [-1, 1], any float dtype, into RGB images.

    Values outside are clamped; NaN becomes black.

    Raises:
        ValueError: If the shape is another.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [batch, 3, height, width], got {list(images.shape)}")
    levels = (images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    pixels = levels.nan_to_num(0).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(one) for one in pixels.contiguous().numpy()]


def save_png(
    path: StrPath,
    image: Image.Image,
    text: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a PNG, whole or not at all, with text in its metadata.

    Args:
        path: The target.
        image: What to write.
        text: Keyword to text, such as prompt and settings; keywords are 1..79 Latin
            characters, texts are anything.
        overwrite: Replace an existing file.

    Returns:
        The path.

    Raises:
        SentinvError: If it can't be written.
        ValueError: If a keyword is not allowed.
    """
    info = PngImagePlugin.PngInfo()
    for keyword, value in (text or {}).items():
        if not (1 <= len(keyword) <= 79 and keyword.isascii() and keyword.isprintable()):
            raise ValueError(f"a PNG keyword is 1..79 Latin characters, got {keyword!r}")
        info.add_itxt(keyword, value)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return atomic_write(path, buffer.getvalue(), overwrite=overwrite)


def _read(path: StrPath) -> bytes:
    name, expected = shown(path), "expected a JPEG, PNG or WebP picture"
    try:
        found = Path(path).stat()
        if stat.S_ISDIR(found.st_mode):
            raise SentinvError(f"{name} is a folder; {expected}: name a file in it")
        if not stat.S_ISREG(found.st_mode):
            raise SentinvError(f"{name} is not a plain file; {expected}")
        if found.st_size > MAX_BYTES:
            megabytes, limit = found.st_size // 1_000_000, MAX_BYTES // 1_000_000
            raise SentinvError(f"{name} is {megabytes} MB; expected at most {limit} MB: scale it down")
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES)
    except FileNotFoundError as error:
        raise SentinvError(f"{name} does not exist; {expected}: check the name") from error
    except OSError as error:
        reason = error.strerror or "it can't be opened"
        raise SentinvError(f"{name} can't be read: {reason}; {expected}") from error
    except ValueError as error:
        raise SentinvError(f"{name} is no file name; {expected}") from error
