"""Checkpoints of a training run: one safetensors file each, its state in tensors, one of them JSON. No pickle.

At least two are kept, and an older one goes only after the newer has been read back.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sentinv.errors import CheckpointError, ConceptError
from sentinv.files.atomic import atomic_write, make_folder, remove_leftovers
from sentinv.files.tensors import DIGEST, content_digest, read_safetensors

_NAME = re.compile(r"step-(\d{6,})\.safetensors")
_STATE = "sentinv.checkpoint"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run at the end of a step.

    Attributes:
        step: steps done.
        tensors: parameters, optimiser, best parameters, random state.
        state: all else, as JSON can say it.
        settings: what has to be the same for a run to go on from here, as JSON can say it.
    """

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """Where the checkpoints of a run are.

    Attributes:
        folder: made if need be.
        resume: go on from the newest one there.
    """

    folder: str | Path
    resume: bool = False


def save_checkpoint(folder: str | Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write a checkpoint, read it back, and only then remove all but the newest `keep`, and those of later steps.

    Those are of an earlier run in the same folder: a run goes on from its newest checkpoint.

    Raises:
        SentinvError: If it cannot be written.
        CheckpointError: If it does not read back.
    """
    folder = make_folder(folder)
    remove_leftovers(folder)
    path = write_checkpoint(folder / f"step-{checkpoint.step:06d}.safetensors", checkpoint)
    read_checkpoint(path)
    found = _found(folder)
    for old in (*found[: found.index(path)], *found[found.index(path) :][max(keep, 2) :]):
        old.unlink(missing_ok=True)
    return path


def write_checkpoint(path: str | Path, checkpoint: Checkpoint) -> Path:
    """Write one checkpoint; what is there is replaced.

    Raises:
        SentinvError: If it cannot be written.
    """
    from safetensors.torch import save

    content = {"step": checkpoint.step, "state": dict(checkpoint.state), "settings": dict(checkpoint.settings)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    text = json.dumps(content, sort_keys=True).encode()  # not in the header: that is short, and a history is long
    tensors[_STATE] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    header = {DIGEST: content_digest(tensors, {})}
    return atomic_write(path, save(tensors, metadata=header), overwrite=True)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    path = Path(path)
    try:
        tensors, header = read_safetensors(path)
        if header.get(DIGEST) != content_digest(tensors, header):
            raise CheckpointError(f"{path.name} is damaged: its content does not match its sha256")
        content = json.loads(tensors.pop(_STATE).numpy().tobytes())
        return Checkpoint(content["step"], tensors, content["state"], content["settings"])
    except (ConceptError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path.name} is not a checkpoint that can be read: {error}") from error


def latest_checkpoint(folder: str | Path) -> Checkpoint:
    """Read the newest checkpoint of a folder that is whole; damaged ones are skipped with a warning.

    Raises:
        CheckpointError: If there is none.
    """
    for path in _found(Path(folder)):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            warnings.warn(f"skipped a checkpoint: {error}", stacklevel=2)
    raise CheckpointError(f"no checkpoint to resume from in {folder}: check the path, or start anew without resuming")


def check_settings(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse to go on from a run with other settings.

    Raises:
        CheckpointError: With a list of the differences.
    """
    names = sorted({*saved, *current})
    differences = [
        f"{n}: {saved.get(n)!r} there, {current.get(n)!r} here" for n in names if saved.get(n) != current.get(n)
    ]
    if differences:
        raise CheckpointError(
            f"the checkpoint is of a run with other settings ({'; '.join(differences)}): use the same ones"
        )


def _found(folder: Path) -> list[Path]:
    """Checkpoints of a folder, newest first."""
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, reverse=True)]


def copies_on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU of float32 tensors, in one transfer: the host waits for each, and a LoRA has hundreds."""
    copies = {name: one.detach().clone() for name, one in tensors.items() if one.device.type == "cpu"}
    away = {name: one.detach() for name, one in tensors.items() if name not in copies}
    return copies | (copies_in_one(away) if away else {})


def copies_in_one(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU of float32 tensors of one device, at least one, in a single transfer."""
    flat = torch.cat([one.flatten() for one in tensors.values()]).cpu()
    parts = flat.split([one.numel() for one in tensors.values()])
    return {name: part.view(one.shape).clone() for (name, one), part in zip(tensors.items(), parts, strict=True)}
