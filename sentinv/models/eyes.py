"""Models that look at pictures: captioner, classifier, CLIP. On the device while they look, and off it before training."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from sentinv.errors import ModelError
from sentinv.models.loading import best_device
from sentinv.models.memory import is_out_of_memory, release
from sentinv.models.parts import load_part
from sentinv.models.weights import load_whole, refuse_wordless

Seen = TypeVar("Seen")


def load_eye(name: str, part: str, model: Any, processor: Any, *, otherwise: str = "") -> tuple[Any, Any]:
    """Load one in float32, on the CPU.

    Args:
        name: folder or hub id.
        part: what it is called in messages.
        model: class of transformers, or that whose residual kind the folder is (`sentinv.models.residual`).
        processor: likewise, of what makes its inputs.
        otherwise: what else one can do where the hub is out of reach.

    Returns:
        Model and processor.

    Raises:
        ModelError: If it cannot be loaded, or some of its weights are missing.
    """

    def read() -> Any:
        return residual(model, name).from_pretrained(name, dtype=torch.float32, output_loading_info=True)

    loaded = load_whole(name, part, read, otherwise=otherwise).eval().requires_grad_(False)
    inputs = load_part(name, "processor", lambda: processor.from_pretrained(name), otherwise=otherwise)
    if (words := getattr(inputs, "tokenizer", None)) is not None:
        refuse_wordless(name, "tokenizer", words)
    return loaded, inputs


def residual(model: Any, name: str) -> Any:
    """The class to load a folder or hub id with: of transformers, or `ResidualBlip` or `ResidualClip` in its place.

    Args:
        model: class of transformers.
        name: folder or hub id; a folder whose config has `resnet` wants the residual kind.
    """
    try:
        if "resnet" not in json.loads((Path(name) / "config.json").read_text(encoding="utf-8")):
            return model
    except (OSError, ValueError):
        return model  # transformers says what is wrong
    from sentinv.models.residual import ResidualBlip, ResidualClip

    return {"BlipForConditionalGeneration": ResidualBlip, "CLIPModel": ResidualClip}.get(model.__name__, model)


def look(model: nn.Module, device: str | None, work: Callable[[torch.device], Seen], otherwise: str) -> Seen:
    """Let a model look at pictures on a device; where memory ends there on the CPU, more slowly, with a warning.

    Args:
        model: that looks.
        device: where; the best there is if None.
        work: what it does there.
        otherwise: what one can do without it.

    Raises:
        ModelError: If memory ends on the CPU, too.
    """
    places = list(dict.fromkeys((torch.device(device) if device else best_device(), torch.device("cpu"))))
    for place in places:
        try:
            with looking(model, place), torch.no_grad():
                return work(place)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        release()
        if place != places[-1]:
            warnings.warn(f"out of memory on {place}: the picture is looked at on the CPU, more slowly", stacklevel=3)
    raise ModelError(f"out of memory while the picture was looked at: end other programs, or {otherwise}")


@contextmanager
def looking(model: nn.Module, device: torch.device | str | None = None) -> Iterator[torch.device]:
    """Have a model on a device while it is needed, and its memory there free afterwards.

    Args:
        model: any.
        device: which; the best there is if None.

    Yields:
        The device.
    """
    there = best_device() if device is None else torch.device(device)
    model.to(there)
    try:
        yield there
    finally:
        model.to("cpu")
        if there.type == "cuda":
            torch.cuda.empty_cache()
        elif there.type == "mps":
            torch.mps.empty_cache()
