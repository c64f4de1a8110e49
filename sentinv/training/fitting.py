"""Whether a run fits where it would run, and what to ask for if it does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from sentinv.models.loading import best_device, best_dtype
from sentinv.models.memory import free_memory, in_bytes
from sentinv.models.names import Place
from sentinv.training.memory import training_memory

if TYPE_CHECKING:
    from sentinv.training.config import TrainConfig

_BESIDE = 600_000_000
"""Bytes that torch takes on a GPU beside tensors: its context, and workspaces."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether there is room.

    Attributes:
        free: bytes on the device; None where nobody says.
        enough: whether a run has room in them; True where nobody knows.
        options: of the command, with which it would have room; "" if it has, or if none of them helps.
        needed: bytes with these options.
    """

    free: int | None
    enough: bool
    options: str = ""
    needed: int = 0

    @property
    def told(self) -> str:
        """It as a sentence; "" where there is room."""
        if self.enough:
            return ""
        short = f"only {in_bytes(self.free)} are free there"
        if not self.options:
            return f"{short}, and no option makes it fit: take a smaller model or another --device"
        return f"{short}: {self.options} needs about {in_bytes(self.needed)}"


def fit(place: Place, config: TrainConfig, memory: dict[str, int], *, batch: bool = True, images: bool = True) -> Fit:
    """Hold what a run needs against what is free; where it is too much, try what the command offers against it.

    Args:
        place: the model, and where it would run.
        config: of the training.
        memory: what `training_memory` said.
        batch: whether the command decides on the batch size.
        images: whether images are drawn for a report.
    """
    device = torch.device(place.device) if place.device else best_device()
    free = free_memory(device)
    beside = 0 if device.type == "cpu" else _BESIDE
    if free is None or memory["total"] + beside <= free:
        return Fit(free=free, enough=True)
    half = place.dtype or str(best_dtype(device)).removeprefix("torch.")
    for options, changes in ways(config, whole=half == "float32"):
        own = {key: value for key, value in changes.items() if hasattr(config, key)}
        if "batch_size" in own and not batch:
            continue
        there = replace(place, dtype=changes.get("dtype", place.dtype))
        found = training_memory(there, replace(config, **own), images=changes.get("images", images))
        if found["total"] + beside <= free:
            return Fit(free=free, enough=False, options=options, needed=found["total"])
    return Fit(free=free, enough=False)


def ways(config: TrainConfig, *, whole: bool) -> list[tuple[str, dict[str, Any]]]:
    """Options that need less memory, the mildest first, and what they change.

    Args:
        config: of the training.
        whole: whether the model is in float32, so that half of it would do.
    """
    sparing: dict[str, Any] = {"gradient_checkpointing": True}
    few = {"batch_size": 1} | {
        name: 1 for name in config.usual_items if getattr(config, name) > 1
    }  # no more than plain ones
    smallest = " ".join(f"--{name.replace('_', '-')} 1" for name in few)
    least = {**sparing, **few, "images": False}
    found = [
        ("--gradient-checkpointing", sparing),
        ("--gradient-checkpointing --samples 0", {**sparing, "images": False}),
    ]
    if whole:
        found += [
            ("--dtype bfloat16", {"dtype": "bfloat16"}),
            ("--dtype bfloat16 --gradient-checkpointing", {**sparing, "dtype": "bfloat16"}),
        ]
    found.append((f"--gradient-checkpointing --samples 0 {smallest}", least))
    if whole:
        half = {**least, "dtype": "bfloat16"}
        found.append((f"--dtype bfloat16 --gradient-checkpointing --samples 0 {smallest}", half))
    return found
