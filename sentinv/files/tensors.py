"""Tensors in files: those of strangers, embeddings and LoRAs, that nobody vouches for, and our own.

A `.safetensors` file is parsed here, strictly: the header's length before the header, the header before the tensors,
and never more memory than the file has bytes. A pickle (`.pt`, `.bin`) can run code when it is read. It is read only
when asked for, in a limited process of its own (`sentinv.files.unpickling`), whose answer is parsed as strictly. Content
decides what a file is; a name that says otherwise is a reason to refuse. Nothing is ever tried a second way.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any, BinaryIO

import torch
from torch import Tensor

from sentinv.errors import ConceptError
from sentinv.files.atomic import StrPath, shown
from sentinv.files.kinds import instead_of_weights

MAX_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 8 * 2**20  # parsed, it may take twenty times as much
MAX_TENSORS = 20_000
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What our own files may hold; of a stranger's only the first three are taken."""
_PICKLE_NAMES = (".pt", ".bin", ".ckpt", ".pth", ".pkl")
_SECONDS = 30
_NO_READER = "could not start the reader of pickles for"
_ELSEWHERE = "get it as .safetensors, or convert it elsewhere"

DIGEST = "sentinv.sha256"
"""The header's entry that holds `content_digest`."""

Contents = tuple[dict[str, Tensor], dict[str, str]]


def read_tensors(path: StrPath, *, allow_pickle: bool | None = False, max_bytes: int = MAX_BYTES) -> Contents:
    """Read a stranger's embedding or LoRA.

    Args:
        path: A safetensors file, or with `allow_pickle` a file of torch.save.
        allow_pickle: Read pickles too. Of those, the known layouts of embeddings are flattened: a tensor alone and
            A1111's `string_to_param` get the keys that they have there, or "*". None where
            nobody can allow them.
        max_bytes: The largest file, and the largest sum of its tensors.

    Returns:
        Key → tensor (float32, float16 or bfloat16, on the CPU, contiguous, finite, not all zero), and the header's
        texts, which are empty for a pickle. An integer `alpha` of a LoRA becomes float32. A sha256 that the header may
        hold is not checked here.

    Raises:
        ConceptError: For anything else: one line that names the file.
    """
    name, data = shown(path), _read(path, max_bytes)
    is_pickle, suffix = _is_pickle(data), Path(path).suffix.lower()
    if is_pickle and suffix == ".safetensors":
        raise ConceptError(
            f"{name} is a pickle, which can run code, under the name of a safetensors file: don't trust it"
        )
    if is_pickle and not allow_pickle:
        instead = _ELSEWHERE if allow_pickle is None else "get it as .safetensors, or allow pickles explicitly"
        raise ConceptError(f"{name} is a pickle, which can run code: {instead}")
    if not is_pickle and suffix in _PICKLE_NAMES and _header_length(data, len(data)):
        raise ConceptError(
            f"{name} is a safetensors file under another name: rename it to .safetensors if you trust it"
        )
    if is_pickle:
        data = _unpickled(data, name, max_bytes)
    tensors, header = _parse(io.BytesIO(data), len(data), name)
    return _checked(tensors, name), header


def read_safetensors(path: StrPath, *, max_bytes: int = MAX_BYTES) -> Contents:
    """Read a safetensors file of our own, such as a checkpoint: as strictly, but any type and value of number.

    Raises:
        ConceptError: If it is missing, too large or not a sound safetensors file: one line that names the file.
    """
    name, data = shown(path), _read(path, max_bytes)
    return _parse(io.BytesIO(data), len(data), name)


def safetensors_bytes(
    tensors: Mapping[str, Tensor], header: Mapping[str, str], *, dtype: torch.dtype = torch.float32
) -> bytes:
    """A safetensors file: bytes (uint8) stay, all else becomes float32, or float16 where that is asked for.

    The library's own writer shuffles the header, so equal files would differ.
    """
    name, code = {torch.float32: ("F32", "<f4"), torch.float16: ("F16", "<f2")}[dtype]
    entries: dict[str, object] = {"__metadata__": dict(header)}
    parts = []
    begin = 0
    for key in sorted(tensors):
        is_bytes = tensors[key].dtype == torch.uint8
        numbers = tensors[key].contiguous() if is_bytes else tensors[key].to(dtype).contiguous()
        content = numbers.numpy().astype("u1" if is_bytes else code).tobytes()
        place = [begin, begin + len(content)]
        entries[key] = {"dtype": "U8" if is_bytes else name, "shape": list(tensors[key].shape), "data_offsets": place}
        parts.append(content)
        begin += len(content)
    text = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def content_digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Sha256, in hex, of tensors (key, type, shape, bytes) and of the header less the digest itself."""
    digest = hashlib.sha256()
    entries = {key: value for key, value in header.items() if key != DIGEST}
    digest.update(json.dumps(entries, sort_keys=True).encode())
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        digest.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(path: StrPath, max_bytes: int) -> bytes:
    name = shown(path)
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ConceptError(f"{name} is not a file; expected a safetensors file: name the file itself")
        size = Path(path).stat().st_size
        if size > max_bytes:
            raise ConceptError(
                f"{name} has {size >> 20} MiB; expected at most {max_bytes >> 20}: is it the right file?"
            )
        with Path(path).open("rb") as file:
            data = file.read(max_bytes)
    except FileNotFoundError as error:
        raise ConceptError(f"{name} does not exist; expected a safetensors file: check the name") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file can have that name"
        raise ConceptError(f"{name} can't be read: {reason}; expected a safetensors file") from error
    if not data:
        raise ConceptError(f"{name} is empty; expected a safetensors file: get it again")
    return data


def _is_pickle(data: bytes) -> bool:
    """A zip as torch.save writes, or a bare pickle: of protocol 2 to 5, or of 0 and 1 as far as it can be told."""
    if _header_length(data, len(data)):
        return False
    bare = data[:1] in (b"(", b"c", b"}", b"]") and data.endswith(b".")
    return bare or data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _header_length(data: bytes, size: int) -> int:
    """Length of a safetensors header; 0 if there can't be one."""
    length = int.from_bytes(data[:8], "little")
    return length if 2 <= length <= size - 8 and data[8:9] == b"{" else 0


def _parse(file: BinaryIO, size: int, name: str) -> Contents:
    start = file.read(9)
    length = _header_length(start, size)
    if not length:
        told = instead_of_weights(start + file.read(55))
        raise ConceptError(f"{name} is {told or f'not a safetensors file, or is cut off ({size} bytes): get it again'}")
    if length > MAX_HEADER_BYTES:
        raise ConceptError(
            f"{name} has a header of {length >> 20} MiB; expected at most {MAX_HEADER_BYTES >> 20}: don't use it"
        )
    try:
        header = json.loads((start[8:] + file.read(length - 1)).decode(), object_pairs_hook=_unique)
        metadata = header.pop("__metadata__", {})
        if any(not isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata that is not text")
        places = _places(header, size - 8 - length)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = shown(str(error)[:100]) if type(error) is ValueError else "no sense"
        raise ConceptError(f"{name} is damaged: its header has {why}; get it again") from error
    tensors = {}
    for key, dtype, shape, count in places:
        data = bytearray(file.read(count * dtype.itemsize))
        flat = torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)
        tensors[key] = flat.reshape(shape)
    return tensors, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _places(header: Mapping[str, Any], size: int) -> list[tuple[str, torch.dtype, list[int], int]]:
    """Key, type, shape, count of each tensor in the order of the data, which they must fill without hole or overlap."""
    if len(header) > MAX_TENSORS:
        raise ValueError(f"more than {MAX_TENSORS} tensors")
    end, places = 0, []
    for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if set(entry) != {"dtype", "shape", "data_offsets"} or dtype not in DTYPES:
            raise ValueError(f"a tensor of type {dtype} where float32, float16 or bfloat16 is expected")
        numbers = [*shape, *offsets]
        if len(shape) > 8 or len(offsets) != 2 or any(type(n) is not int or not 0 <= n <= size for n in numbers):
            raise ValueError("a tensor larger than the file")
        if math.prod(max(n, 1) for n in shape) > 2**40:
            raise ValueError("a tensor larger than the file")
        count = math.prod(shape)
        if offsets[0] != end or offsets[1] != end + count * DTYPES[dtype].itemsize or offsets[1] > size:
            raise ValueError("tensors that do not fill the file")
        end = offsets[1]
        places.append((key, DTYPES[dtype], shape, count))
    if end != size:
        raise ValueError("tensors that do not fill the file")
    return places


def _checked(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    if not any(tensor.numel() for tensor in tensors.values()):
        raise ConceptError(f"{name} holds no tensors; expected an embedding or a LoRA")
    for key, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            if not (key.endswith("alpha") and tensor.numel() == 1):
                got = str(tensor.dtype).removeprefix("torch.")
                raise ConceptError(f"{name} holds {got} in {shown(key[:60])}; expected float32, float16 or bfloat16")
            tensors[key] = tensor.float()
        wrong = int((~torch.isfinite(tensor)).sum())
        if wrong:
            raise ConceptError(
                f"{name} has {wrong} values in {shown(key[:60])} that are NaN or infinite: it is of no use"
            )
    if not any(tensor.any() for tensor in tensors.values()):
        raise ConceptError(f"{name} holds nothing but zeros: it is of no use")
    return tensors


def _unpickled(data: bytes, name: str, max_bytes: int) -> bytes:
    """Let a process of its own read the pickle: it answers with a safetensors file or, after a "!", why it refuses."""
    kept = ("PATH", "HOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
    environment = {key: os.environ[key] for key in kept if key in os.environ}
    environment.update(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
    program = Path(__file__).with_name("unpickling.py")
    found = [path for path in sys.path if path and Path(path).is_absolute()]  # where this process has its modules from
    command = [sys.executable, "-E", "-P", "-B", str(program), str(max_bytes), *found]
    try:
        answer = _answer(command, environment, data, max_bytes)
    except OSError as error:
        raise ConceptError(f"{_NO_READER} {name}: {error.strerror or error}; {_ELSEWHERE}") from error
    if answer[:1] == b"?":
        why = shown(" ".join(answer[1:200].decode(errors="replace").split()))
        raise ConceptError(f"{_NO_READER} {name}: {why}; {_ELSEWHERE}")
    if not answer:
        raise ConceptError(f"{name} can't be read within the limits of memory and time: don't trust it")
    if answer[:1] == b"!":
        raise ConceptError(f"{name} {answer[1:300].decode(errors='replace')}")
    return answer


def _answer(command: list[str], environment: dict[str, str], data: bytes, max_bytes: int) -> bytes:
    """What the reader answers; nothing if it was ended by its limits."""
    pipe = subprocess.PIPE
    with subprocess.Popen(  # noqa: S603 - our own program, no shell
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, close_fds=True
    ) as child:
        timer = Timer(_SECONDS, child.kill)
        timer.start()
        try:
            assert child.stdin and child.stdout  # noqa: S101 - pipes, for the type checker
            with suppress(BrokenPipeError):  # it may end early; what it said is told
                child.stdin.write(data)
                child.stdin.close()
            return child.stdout.read(max_bytes + MAX_HEADER_BYTES)
        finally:
            timer.cancel()
            child.kill()
