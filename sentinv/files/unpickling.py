"""A program of its own, not imported: reads a torch.save file from stdin, writes safetensors to stdout.

It runs for `sentinv.files.tensors` with little memory and time, may write no file and start no process, and uses torch's
reader of plain weights, which builds no foreign objects. On refusal it writes "!" and the reason; where it cannot begin, "?"
and why.
"""

import io
import re
import resource
import sys
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_SECONDS = 20
_FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "ctypes.dlopen",
)


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """Why a file is not read."""


def main() -> None:
    """Answer on stdout; the arguments are the largest sum of the tensors, in bytes, and where modules are found."""
    max_bytes = int(sys.argv[1])
    sys.path[:] = sys.argv[2:]
    try:
        import torch
        from safetensors.torch import save

        torch.set_num_threads(1)
    except BaseException as error:
        sys.stdout.buffer.write(f"?{type(error).__name__}: {error}".encode(errors="replace"))
        return
    data = sys.stdin.buffer.read()
    _confine(4 * max_bytes + len(data))
    try:
        _check_zip(data, max_bytes)
        content = _load(data)
        tensors = {key: _plain(key, value, max_bytes) for key, value in _flattened(content).items()}
        if not tensors:
            raise Refused("holds no tensors; expected an embedding or a LoRA")
        if sum(tensor.nbytes for tensor in tensors.values()) > max_bytes:
            raise Refused(f"holds more than {max_bytes >> 20} MiB of tensors: is it the right file?")
        answer = save({key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()})
    except Refused as refusal:
        answer = f"!{refusal}".encode(errors="replace")
    except MemoryError:
        answer = b"!needs more memory than an embedding does: don't trust it"
    except Exception as error:  # readers of damaged files raise anything
        answer = f"!is damaged or no file of torch.save ({type(error).__name__}): get it again".encode()
    sys.stdout.buffer.write(answer)


def _confine(budget: int) -> None:
    """From here on: `budget` more bytes of memory, some seconds, no files written, no processes, no network."""
    with suppress(OSError):  # elsewhere than on Linux the other limits have to do
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _limit(resource.RLIMIT_AS, used + budget)
    _limit(resource.RLIMIT_CPU, _SECONDS)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)

    def deny(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise Refused("wants to do more than hold tensors: don't trust it")

    sys.addaudithook(deny)


def _limit(kind: int, value: int) -> None:
    with suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, value))


def _check_zip(data: bytes, max_bytes: int) -> None:
    if data[:2] != b"PK":
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise Refused("is compressed, which files of torch.save never are: don't trust it")
    if sum(member.file_size for member in members) > max_bytes:
        raise Refused(f"holds more than {max_bytes >> 20} MiB of tensors: is it the right file?")


def _load(data: bytes) -> Any:
    import torch

    torch.serialization.add_safe_globals([torch.nn.ParameterDict])  # the first textual inversion saved its rows in one
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (Refused, MemoryError):
        raise
    except Exception as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise Refused(f"wants to use {wanted[1][:80]}, which no file of tensors needs: don't trust it") from error
        raise


def _flattened(content: Any) -> dict[str, Any]:
    """Key → tensor of the known layouts: a tensor alone, a dict of them, or one inside A1111's or a trainer's dict."""
    import torch

    if isinstance(content, torch.Tensor):
        return {"*": content}
    if not isinstance(content, Mapping):
        raise Refused(f"holds no tensors but {type(content).__name__}; expected tensors by name")
    for key in ("string_to_param", "state_dict"):
        if key in content:
            content = content[key]
            break
    if isinstance(content, torch.nn.ParameterDict):
        content = {**vars(content).get("_parameters", {})}
    if not isinstance(content, Mapping):
        raise Refused("has an unknown layout; expected tensors by name")
    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if any(not isinstance(key, str) for key in tensors):
        raise Refused("has tensors without names; expected tensors by name")
    if any(isinstance(value, Mapping | list | tuple) for value in content.values()):
        raise Refused("has an unknown layout; expected tensors by name")
    return tensors


def _plain(key: str, tensor: Any, max_bytes: int) -> Any:
    import torch

    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise Refused("holds a tensor that is sparse, quantized or without data; expected plain ones")
    if tensor.numel() * tensor.element_size() > max_bytes:
        raise Refused(f"holds a tensor of shape {list(tensor.shape)}, more than {max_bytes >> 20} MiB: don't trust it")
    return tensor


if __name__ == "__main__":
    main()
