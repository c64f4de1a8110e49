"""What kind of picture some bytes are: by their content, whatever the name says; and what reads it. Likewise of weights."""

from __future__ import annotations

from importlib import import_module

from sentinv.errors import SentinvError

EXPECTED = "JPEG, PNG, WebP, AVIF or TIFF"

_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\xff\x0a": "JXL",
    b"\0\0\0\x0cJXL ": "JXL",
}
_OTHERS = {
    b"GIF8": "a GIF picture",
    b"BM": "a BMP picture",
    b"II+\0": "a BigTIFF picture",
    b"MM\0+": "a BigTIFF picture",
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF document",
    b"<": "a web page or a drawing (SVG)",
    b"PK\x03\x04": "a zip archive",
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_ADDITIONS = {
    "HEIF": ("a HEIC picture", "pillow_heif", "heic"),
    "JXL": ("a JPEG XL picture", "pillow_jxl", "jxl"),
}
"""Kind → what to call it, the module that reads it, and the extra of this package that installs that."""


def kind_of(data: bytes, name: str) -> str:
    """Name the format of a picture as Pillow does, and see to it that Pillow reads it.

    Raises:
        SentinvError: If it is none that is read, or what reads it is not installed.
    """
    if not data:
        raise SentinvError(f"{name} is empty; expected a JPEG, PNG or WebP picture")
    kind = _found(data)
    if kind in _ADDITIONS:
        _add(kind, name)
    if kind:
        return kind
    start = data.lstrip()[:12]
    what = next((w for magic, w in _OTHERS.items() if start.startswith(magic)), "not a picture")
    if data[4:8] == b"ftyp":
        what = "a video, or a picture of an unknown kind"
    raise SentinvError(f"{name} is {what}; expected {EXPECTED}: convert it, or name another file")


def _found(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        length = min(int.from_bytes(data[:4], "big"), 256)
        brands = [data[8:12], *(data[start : start + 4] for start in range(16, length, 4))]
        if b"avif" in brands or brands[0] == b"avis":
            return "AVIF"
        return "HEIF" if any(brand in _HEIF_BRANDS for brand in brands) else ""
    return next((kind for magic, kind in _BEGINNINGS.items() if data.startswith(magic)), "")


def _add(kind: str, name: str) -> None:
    what, module, extra = _ADDITIONS[kind]
    try:
        found = import_module(module)
    except ImportError as error:
        raise SentinvError(
            f"{name} is {what}, which this installation can't read: pip install 'sentinv[{extra}]', or save it as JPEG or PNG"
        ) from error
    if kind == "HEIF":
        found.register_heif_opener()


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height that the header of a WebP says."""

    def number(start: int, stop: int) -> int:
        return int.from_bytes(data[start:stop], "little")

    if data[12:16] == b"VP8X":
        return number(24, 27) + 1, number(27, 30) + 1
    if data[12:16] == b"VP8L":
        bits = number(21, 25)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return number(26, 28) & 0x3FFF, number(28, 30) & 0x3FFF


POINTER = b"version https://git-lfs"
"""How a file begins that stands for one in Git LFS."""


def instead_of_weights(start: bytes) -> str | None:
    """What a file is that was taken for one of weights, and what to do; None if its beginning does not tell.

    Args:
        start: its first 64 bytes.
    """
    if not start:
        return "an empty file: get it again"
    if start.startswith(POINTER):
        return "a pointer of Git LFS and not the file itself: run `git lfs pull` in its folder"
    if start.startswith(b"GGUF"):
        return "a quantised model in GGUF, which is not supported: give safetensors"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a page of the web and not the file: the download needed a login or another address; get it again"
    return None
