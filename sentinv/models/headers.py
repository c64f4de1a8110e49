"""What a file of weights says about itself before any of them is read, and what it is if it is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sentinv.errors import ModelError
from sentinv.files.kinds import instead_of_weights
from sentinv.models.parts import one_line

WHOLE = "give a whole checkpoint, a diffusers folder or a hub id"

_CODE = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_COMPILED = (".onnx", ".engine", ".plan", ".mlmodelc", ".msgpack", ".h5", ".tflite", ".xml")
_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".xz", ".zst")
_BEGUN = (".part", ".partial", ".crdownload", ".download", ".incomplete", ".aria2", ".tmp", ".!ut", ".opdownload")


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself.

    Attributes:
        shapes: of its tensors, by key.
        dtypes: likewise, as safetensors names them ("F16").
        metadata: its header's strings.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]

    def has(self, *prefixes: str) -> bool:
        """Whether a key begins with one of these."""
        return any(key.startswith(prefixes) for key in self.shapes)

    def holds(self, *parts: str) -> bool:
        """Whether one of these is in a key."""
        return any(part in key for key in self.shapes for part in parts)


def read_header(name: str, path: Path) -> Header:
    """Read the header of a file of weights.

    Raises:
        ModelError: If it is no safetensors file. It says what it is.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_symlink() and not path.exists():
        raise ModelError(f"{name} is a link to a file that is gone: get it again")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise ModelError(f"cannot read {name}: {one_line(error)}; name another file") from error
    if told := _not_safetensors(path, start):
        raise ModelError(f"{name} is {told}")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            shapes = {key: tuple(one.get_shape()) for key, one in slices.items()}
            return Header(
                shapes, {key: str(one.get_dtype()) for key, one in slices.items()}, dict(file.metadata() or {})
            )
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{name} is not a readable safetensors file: {one_line(error)}; it may be cut off: get it again"
        ) from error


def refuse_quantised(name: str, header: Header) -> None:
    """Refuse weights that are no numbers of their own, but of a scale that stands elsewhere.

    Raises:
        ModelError: If there are any. Floating-point numbers of eight bits without a scale are none.
    """
    whole = {"I8", "U8", "I4", "U4"} & {kind for key, kind in header.dtypes.items() if len(header.shapes[key]) > 1}
    if whole or header.holds(".absmax", ".quant_state", "scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant"):
        raise ModelError(f"{name} is a checkpoint with quantised weights, which are not supported: get one in 16 bits")


def _not_safetensors(path: Path, start: bytes) -> str | None:
    """What a file is that cannot be read as safetensors, and what to do; None if it may be."""
    suffix, is_one = path.suffix.lower(), start[7:9] == b"\0{"
    if told := instead_of_weights(start):
        return told
    if suffix in _BEGUN:
        return f"a download that has not ended ({suffix}): wait for it, or get the file again"
    if is_one and path.suffix != ".safetensors":
        return "a safetensors file by another name: rename it so that it ends in .safetensors"
    if suffix in _ARCHIVES:
        return f"an archive ({suffix}): unpack it and give the .safetensors file that is in it"
    if suffix in _CODE or start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return (
            f"{suffix or 'a pickle'}, expected a .safetensors checkpoint: other formats can run code; convert it first"
        )
    if suffix in _COMPILED:
        return f"a model that is compiled for another program ({suffix}): {WHOLE}"
    if path.name.endswith(".index.json"):
        return "the list of a model's parts and not the model: give the diffusers folder around it"
    if suffix == ".json":
        return "a config and not a model: give the diffusers folder around it"
    if suffix in (".yaml", ".yml"):
        return "a config and not a model: give the checkpoint that lies beside it"
    return None


def is_shard(path: Path) -> bool:
    """Whether a file's name says that it is one of several that are one."""
    return re.search(r"-\d{3,}-of-\d{3,}\.", path.name) is not None
