"""Words inside pictures, as AUTOMATIC1111's web UI writes them: JSON in a PNG's text, so nothing is unpickled."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sentinv.errors import ConceptError
from sentinv.files.atomic import StrPath, shown

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PICTURES = (SIGNATURE, b"RIFF", b"\xff\xd8\xff")
"""How PNG, WebP and JPEG begin; no safetensors file of a word can begin so, for its header would have many MiB."""

MAX_BYTES = 32 * 2**20
MAX_TEXT = 20 * 2**20  # 512 vectors of 1280 numbers, written out

_KEYWORD = b"sd-ti-embedding"


def is_picture(path: StrPath) -> bool:
    """Whether a file begins as a picture does; False where it cannot be read, which its reader will tell."""
    try:
        with Path(path).open("rb") as file:
            return file.read(16).startswith(PICTURES)
    except (OSError, ValueError):
        return False


def read_picture(path: StrPath) -> tuple[str, dict[str, Tensor]]:
    """Read the word in a PNG's text ("sd-ti-embedding").

    A word that is only in the colours of the margins, where the web UI repeats it, is not read.

    Returns:
        The word's name ("" if it has none) and its one tensor under "*", float32.

    Raises:
        ConceptError: If there is no word, or it is damaged: one line that names the file.
    """
    name = shown(path)
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise ConceptError(f"{name} has {size >> 20} MiB; expected at most {MAX_BYTES >> 20}: is it the right file?")
    data = Path(path).read_bytes()
    text = _text(data) if data.startswith(SIGNATURE) else None
    if text is not None and len(text) > MAX_TEXT:
        raise ConceptError(
            f"{name} has a word of {len(text) >> 20} MiB; expected at most {MAX_TEXT >> 20}: don't trust it"
        )
    if text is None:
        raise ConceptError(
            f"{name} is a picture without a word in its text (one in its pixels alone is not read): get the original PNG, or "
            "the word as .safetensors"
        )
    try:
        content = json.loads(base64.b64decode(text, validate=True))
        (param,) = content["string_to_param"].values()
        rows = torch.tensor(param["TORCHTENSOR"], dtype=torch.float32)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, RuntimeError) as error:
        raise ConceptError(f"{name} has a damaged word in its text ({type(error).__name__}): get it again") from error
    return str(content.get("name") or ""), {"*": rows}


def _text(data: bytes) -> bytes | None:
    """The word's base64 text; None if there is none."""
    for kind, content in _chunks(data):
        keyword, _, rest = content.partition(b"\0")
        if keyword != _KEYWORD:
            continue
        if kind == b"tEXt":
            return rest
        if kind == b"zTXt":
            return _inflated(rest[1:])
        if kind == b"iTXt":
            compressed, rest = rest[:1], rest[2:]
            rest = rest.partition(b"\0")[2].partition(b"\0")[2]
            return _inflated(rest) if compressed == b"\1" else rest
    return None


def _chunks(data: bytes) -> Iterator[tuple[bytes, Any]]:
    """Type and content of each of a PNG's chunks, up to the first that is cut off."""
    place = len(SIGNATURE)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        if place + 12 + length > len(data):
            return
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MAX_TEXT + 1)
    except zlib.error:
        return b""
