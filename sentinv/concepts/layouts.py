"""How learned rows are laid out in safetensors files, by us and by others, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sentinv.concepts.kinds import why_no_word
from sentinv.concepts.names import token_of
from sentinv.errors import ConceptError
from sentinv.files.atomic import shown

ENCODER_KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
"""Our name of a text encoder → the key that files for two of them use."""

SINGLE_KEYS = ("emp_params", "emb_params", "clip_h", "*")
"""Keys that other programs give the one tensor of a file."""

WIDTHS = {"sd1": (768,), "sd2": (1024,), "sdxl": (768, 1280)}
"""Short name of a base → width of its rows for each text encoder. The models have them by definition."""

BUNDLED = "bundle_emb."
"""How the names of rows begin that are of a word, and lie in a LoRA's file: "bundle_emb.<its name>.<key>"."""

MAX_VECTORS = 512
MAX_WIDTH = 8192


def to_tensors(token: str, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Lay rows out for a concept's file.

    One vector is `[1, dim]` as diffusers' own script writes it, not `[dim]`, which one reader takes for dim vectors.
    """
    if len(rows) == 1:
        (only,) = rows.values()
        return {token: only.contiguous()}
    return {ENCODER_KEYS[name]: value.contiguous() for name, value in rows.items()}


def from_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Find token and rows in a file's tensors.

    Returns:
        The token (of the file's name, where the layout has none) and the rows by text encoder.

    Raises:
        ConceptError: If the layout is not a known one, or a shape is not that of rows.
    """
    keys = set(tensors)
    reason = why_no_word(tensors)
    if reason:
        raise ConceptError(f"{shown(path.name)} is {reason}")
    if keys == set(ENCODER_KEYS.values()):
        return token_of(path.stem), {name: _rows(path, key, tensors[key]) for name, key in ENCODER_KEYS.items()}
    if len(keys) != 1:
        some = shown(", ".join(sorted(keys)[:4])[:80])
        raise ConceptError(
            f"{shown(path.name)}: expected one tensor, or clip_l and clip_g, got {len(keys)}: {some}; is it a concept?"
        )
    (key,) = keys
    nameless = key in SINGLE_KEYS or key in ENCODER_KEYS.values() or not any(letter.isalnum() for letter in key)
    token = token_of(path.stem if nameless else key)
    return token, {"text_encoder": _rows(path, key, tensors[key])}


def bundled(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The words inside a LoRA's file: name → key → rows, with "*" for A1111's ``string_to_param.*``."""
    words: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(BUNDLED):
            name, _, inner = key.removeprefix(BUNDLED).partition("string_to_param")
            if not inner:
                name, _, inner = name.rpartition(".")
            words.setdefault(name.strip("."), {})["*" if inner.startswith(".") else inner] = value
    return words


def check_rows(token: str, rows: Mapping[str, Tensor]) -> None:
    """Refuse rows that cannot be a concept's.

    Raises:
        ConceptError: If they are not for one or two known text encoders, not `[n, dim]`, not equally many, not finite,
            or all zero.
    """
    if tuple(rows) not in (("text_encoder",), ("text_encoder", "text_encoder_2")):
        raise ConceptError(
            f"{token}: expected rows for text_encoder, or it and text_encoder_2, got {', '.join(rows) or 'none'}"
        )
    for name, value in rows.items():
        if value.ndim != 2 or 0 in value.shape:
            raise ConceptError(f"{token}: expected rows [n, dim] for {name}, got shape {list(value.shape)}")
        if not torch.isfinite(value).all():
            raise ConceptError(f"{token}: the rows for {name} hold NaN or infinite values; the file is of no use")
        if not value.any():
            raise ConceptError(f"{token}: the rows for {name} are all zero; the file is of no use")
    counts = {name: len(value) for name, value in rows.items()}
    if len(set(counts.values())) != 1:
        raise ConceptError(f"{token}: expected as many vectors for each text encoder, got {counts}")


def _rows(path: Path, key: str, tensor: Tensor) -> Tensor:
    rows = tensor[None] if tensor.ndim == 1 else tensor
    if rows.ndim != 2 or not (0 < rows.shape[0] <= MAX_VECTORS and 0 < rows.shape[1] <= MAX_WIDTH):
        raise ConceptError(
            f"{shown(path.name)}: expected a tensor [n, dim] of at most [{MAX_VECTORS}, {MAX_WIDTH}], got "
            f"{list(tensor.shape)} in {key[:40]!a}; is it a concept?"
        )
    return rows.float()


def base_of(rows: Mapping[str, Tensor]) -> str:
    """Short name of the base that rows fit by their widths, as in `WIDTHS`; "" where none of these has such rows."""
    widths = tuple(value.shape[1] for value in rows.values())
    return next((base for base, expected in WIDTHS.items() if expected == widths), "")
