"""From the bytes of a stranger's picture to RGB: colours, alpha, rotation done right.

Few formats only, recognised by content. What is checked is checked on the header,
before a pixel is decoded.
"""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageChops, ImageCms

from sentinv.errors import SentinvError
from sentinv.files.atomic import shown
from sentinv.files.kinds import kind_of, webp_size
from sentinv.files.masks import mask_of

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else what it says of damaged files goes to stderr

MAX_PIXELS = 50_000_000
MIN_SIDE = 16
MAX_ASPECT = 10
_MAX_SCANNED = 2_000_000_000  # pixels × scans of a progressive JPEG: its decoding time
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that was read.

    Attributes:
        image: RGB, upright, in sRGB, transparent parts laid on a plain colour.
        mask: Mode L, same size, 255 where the picture is opaque; None if it is
            opaque everywhere.
        notices: What was done to it that its owner may want to know, a line each.
        cut: Which part of a larger picture it is; "" for all of it.
    """

    image: Image.Image
    mask: Image.Image | None = None
    notices: tuple[str, ...] = ()
    cut: str = ""

    def with_mask(self, mask: Image.Image) -> Picture:
        """The picture with another mask, of any mode: see `sentinv.files.masks.mask_of` for what it is read as.

        Raises:
            SentinvError: If the mask has another size, or is a picture in colours.
        """
        if mask.size != self.image.size:
            mine, theirs = (f"{image.width} x {image.height}" for image in (self.image, mask))
            raise SentinvError(f"the mask has {theirs}, its picture {mine} pixels: give one of the same size")
        return replace(self, mask=mask_of(mask))


def decode(data: bytes, name: str, background: tuple[int, int, int]) -> Picture:
    """Decode a picture; see `sentinv.files.images.read_image` for what is accepted.

    Args:
        data: The file's content.
        name: How to call it in messages.
        background: RGB colour, 0..255, that shows through transparent parts.

    Raises:
        SentinvError: For whatever isn't a sound picture within the limits.
    """
    kind = kind_of(data, name)
    if kind == "WEBP":  # Pillow allocates the canvas of a WebP when it opens it
        _check_size(*webp_size(data), name)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            picture = _decode(data, kind, name, background)
    except SentinvError as error:
        raise (error if name in str(error) else SentinvError(f"{name} can't be read: {error}")) from None
    except MemoryError as error:
        raise SentinvError(f"{name} needs more memory to read than there is; scale it down") from error
    except Exception as error:  # decoders of damaged files raise anything
        raise _damaged(name, data, error) from error
    return _judge_warnings(picture, caught, name, data)


def picture_of(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Picture:
    """What an image of Pillow shows: of any mode, as if it were read from a file.

    Raises:
        SentinvError: If it is wholly transparent.
    """
    notices: list[str] = []
    colours, alpha = _split(image, depth=8)
    turn = _orientation(image, "the image", notices)
    return _composed(colours, alpha, image.info.get("icc_profile"), turn, "the image", background, notices)


def _check_size(width: int, height: int, name: str) -> None:
    size = f"{name} is {width} x {height} pixels"
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise SentinvError(f"{size}; expected at most {limit} million: scale it down")
    if min(width, height) < MIN_SIDE:
        raise SentinvError(f"{size}; expected at least {MIN_SIDE} on each side: use a larger picture")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise SentinvError(f"{size}; expected sides of at most {MAX_ASPECT} to 1: crop it around its subject")


def _decode(data: bytes, kind: str, name: str, background: tuple[int, int, int]) -> Picture:
    notices: list[str] = []
    return _composed(*_load(data, kind, name, notices), name, background, notices)


def _composed(
    colours: Image.Image,
    alpha: Image.Image | None,
    profile: bytes | None,
    turn: Image.Transpose | None,
    name: str,
    background: tuple[int, int, int],
    notices: list[str],
) -> Picture:
    """In sRGB, upright, laid on the background."""
    colours = _to_srgb(colours, profile, name, notices)
    if alpha is not None:
        low, high = alpha.getextrema()
        if high == 0:
            raise SentinvError(f"{name} is wholly transparent; expected something to be seen")
        if low == 255:
            alpha = None
        else:
            colours = Image.composite(colours, Image.new("RGB", colours.size, background), alpha)
            notices.append(f"{name} is partly transparent: laid on the colour rgb{background}")
    if turn is not None:
        colours = colours.transpose(turn)
        alpha = alpha and alpha.transpose(turn)
    return Picture(image=colours, mask=alpha, notices=tuple(notices))


def _load(
    data: bytes, kind: str, name: str, notices: list[str]
) -> tuple[Image.Image, Image.Image | None, bytes | None, Image.Transpose | None]:
    """Colours and alpha as stored, colour profile, and how to turn it; the decoder's memory is free again after it."""
    with _open(data, kind, name) as opened:
        _check_size(*opened.size, name)
        if kind == "JPEG" and data.count(b"\xff\xda") * opened.width * opened.height > _MAX_SCANNED:
            raise SentinvError(f"{name} has too many scans for its size; save it anew as PNG")
        opened.load()
        if kind != "JPEG" and getattr(opened, "n_frames", 1) > 1:
            many = "has several pages: its first" if kind == "TIFF" else "is animated: its first frame"
            notices.append(f"{name} {many} is used")
        colours, alpha = _split(opened, depth=data[24] if kind == "PNG" else 8)
        return colours, alpha, opened.info.get("icc_profile"), _orientation(opened, name, notices)


def _open(data: bytes, kind: str, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=(kind,))
    except Image.DecompressionBombError as error:
        limit = MAX_PIXELS // 1_000_000
        raise SentinvError(f"{name} is too large; expected at most {limit} million pixels: scale it down") from error


def _split(image: Image.Image, depth: int) -> tuple[Image.Image, Image.Image | None]:
    """Colours (L, RGB or CMYK, 8 bits) and alpha (L) of a loaded image of any mode.

    `depth` is the bits per sample of a PNG: the transparent colour that some carry is
    given in that depth, the pixels are in 8 bits or, for gray of 16, as they were.
    """
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise SentinvError("it has more than 16 bits for each pixel; save it with 8 or 16")
        colours = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
        alpha = None if key is None else Image.fromarray(np.where(values == key, 0, 255).astype("u1"))
        return colours, alpha
    if image.mode in ("1", "L", "RGB"):
        colours = image.convert("L") if image.mode == "1" else image.copy()
        return colours, None if key is None else _keyed_out(colours, key, depth)
    if image.mode == "P":
        if key is None:
            return image.convert("RGB"), None
        image = image.convert("RGBA")
    if image.mode in ("LA", "RGBA"):
        return image.convert(image.mode[:-1]), image.getchannel("A")
    if image.mode == "CMYK":
        # Pillow takes every CMYK JPEG for inverted, as Adobe writes it and marks it.
        plain = "adobe" in image.info or image.format == "TIFF"
        return (image.copy() if plain else ImageChops.invert(image)), None
    if image.mode in ("F", "LAB"):
        raise SentinvError(f"it has pixels of the kind {image.mode}; save it in RGB with 8 bits")
    return image.convert("RGB"), None


def _keyed_out(colours: Image.Image, key: int | tuple[int, ...], depth: int) -> Image.Image:
    samples = key if isinstance(key, tuple) else (key,)
    wanted = [s >> 8 if depth == 16 else min(s * 255 // (2**depth - 1), 255) for s in samples]
    pixels = np.asarray(colours).reshape(colours.height, colours.width, -1)
    same = (pixels == np.array(wanted)).all(axis=-1)
    return Image.fromarray(np.where(same, 0, 255).astype(np.uint8))


def _to_srgb(colours: Image.Image, profile: bytes | None, name: str, notices: list[str]) -> Image.Image:
    """Convert by the picture's own colour profile if it has one, else by the plain rule."""
    how, stored = "without a profile", colours.mode
    if profile:
        try:
            colours, how = _by_profile(colours, profile), "by its profile"
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            notices.append(f"{name} has a colour profile that can't be used: it is ignored")
    if stored == "CMYK":
        notices.append(f"{name} is made for print (CMYK): converted to sRGB {how}")
    return colours.convert("RGB")


def _by_profile(colours: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    if space == "RGB":
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return colours
        colours = colours.convert("RGB") if colours.mode == "L" else colours
    target = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(colours, source, target, outputMode="RGB")
    return converted or colours


def _orientation(opened: Image.Image, name: str, notices: list[str]) -> Image.Transpose | None:
    try:
        return _TRANSPOSE.get(opened.getexif().get(_ORIENTATION, 1))
    except Exception:  # readers of damaged EXIF raise anything
        notices.append(_EXIF.format(name=name))
        return None


_EXIF = "{name} has damaged EXIF data: what can't be read of it is ignored"


def _judge_warnings(picture: Picture, caught: list[warnings.WarningMessage], name: str, data: bytes) -> Picture:
    """Pillow's warnings refuse a picture, but for those about data beside its pixels."""
    notices = list(picture.notices)
    for warning in caught:
        if "TiffImagePlugin" in warning.filename or "EXIF" in str(warning.message):
            notices.append(_EXIF.format(name=name))
        elif "MPO" not in str(warning.message) and not issubclass(warning.category, DeprecationWarning):
            raise _damaged(name, data, warning.message)
    notices = list(dict.fromkeys(notices))
    return replace(picture, notices=tuple(notices))


def _damaged(name: str, data: bytes, reason: object) -> SentinvError:
    why = " ".join(str(reason).split()) or type(reason).__name__
    why = "cannot identify it" if "cannot identify" in why else shown(why[:120])
    return SentinvError(f"{name} is damaged or cut off ({len(data)} bytes: {why}); copy or download it again")
