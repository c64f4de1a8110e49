"""How learned rows are laid out in safetensors files, by us and by others, and what is refused.

Shapes and types are judged from the file's header, before any tensor is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sentinv.errors import ConceptError

ENCODER_KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
"""Our name of a text encoder → the key that files for two of them use."""

SINGLE_KEYS = ("emp_params", "emb_params", "*")
"""Keys that other programs give the one tensor of a file."""

DTYPES = ("F32", "F16", "BF16")
MAX_FILE_BYTES = 64 * 2**20
MAX_VECTORS = 512
MAX_WIDTH = 8192


def to_tensors(token: str, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Lay rows out for a file. One vector becomes a 1-D tensor, which every known reader accepts."""
    if len(rows) == 1:
        (only,) = rows.values()
        return {token: (only[0] if len(only) == 1 else only).contiguous()}
    return {ENCODER_KEYS[name]: value.contiguous() for name, value in rows.items()}


def from_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Find token and rows in a file's tensors.

    Returns:
        The token (of the file's name, where the layout has none) and the rows by text encoder.

    Raises:
        ConceptError: If the layout is not a known one.
    """
    keys = set(tensors)
    if keys == set(ENCODER_KEYS.values()):
        return token_of(path.stem), {name: _rows(tensors[key]) for name, key in ENCODER_KEYS.items()}
    if len(keys) != 1:
        shown = ", ".join(sorted(keys)[:4])
        raise ConceptError(
            f"{path.name}: expected one tensor, or clip_l and clip_g, got {len(keys)}: {shown}; is it a concept?"
        )
    (key,) = keys
    token = token_of(path.stem if key in SINGLE_KEYS or key in ENCODER_KEYS.values() else key)
    return token, {"text_encoder": _rows(tensors[key])}


def token_of(name: str) -> str:
    """Make a placeholder of a name: as it is if it is one, else lower-cased and put in brackets."""
    inner = re.sub(r"[^a-z0-9_.-]+", "-", name.lower().strip("<> ")).strip("-_.")
    return f"<{inner or 'concept'}>"


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a small safetensors file: tensors and header.

    Raises:
        ConceptError: If it is missing, too large, not safetensors, or has tensors that no concept has.
    """
    from safetensors import SafetensorError, safe_open

    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ConceptError(f"expected a concept file, got {path}, which is not a file")
        if path.suffix.lower() in (".pt", ".bin", ".ckpt", ".pth"):
            raise ConceptError(f"{path.name} is a pickle, which can run code: convert it to .safetensors first")
        if size > MAX_FILE_BYTES:
            raise ConceptError(
                f"{path.name} has {size >> 20} MiB, a concept has at most {MAX_FILE_BYTES >> 20}: wrong file?"
            )
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                part = file.get_slice(key)
                _check_shape(path, key, part.get_dtype(), part.get_shape())
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise ConceptError(f"no concept file {path}: check the path") from None
    except OSError as error:
        raise ConceptError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ConceptError(f"{path.name} is not a whole safetensors file ({error}): get it again") from error


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


def _rows(tensor: Tensor) -> Tensor:
    return (tensor[None] if tensor.ndim == 1 else tensor).float()


def _check_shape(path: Path, key: str, dtype: str, shape: list[int]) -> None:
    if dtype not in DTYPES:
        raise ConceptError(
            f"{path.name}: expected values of type {', '.join(DTYPES)}, got {dtype} in {key[:40]!r}; is it a concept?"
        )
    vectors, width = (1, *shape) if len(shape) == 1 else shape if len(shape) == 2 else (0, 0)
    if not (0 < vectors <= MAX_VECTORS and 0 < width <= MAX_WIDTH):
        raise ConceptError(
            f"{path.name}: expected a tensor [n, dim] of at most [{MAX_VECTORS}, {MAX_WIDTH}], got {shape} in {key[:40]!r}; "
            "is it a concept?"
        )
