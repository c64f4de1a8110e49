"""A training step as one CUDA graph.

A step of Stable Diffusion 1.5 is some 5,000 small operations. Launched one by one they keep the host busier than a fast GPU,
which waits. Shapes never change in a run, and so the whole gradient is captured once and launched as one from then on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sentinv.training.memory import WORTHWHILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentinv.training.data import Batch
    from sentinv.training.loop import Loop

Capture = Callable[[Callable[[], Tensor]], tuple[Any, Tensor]]
"""Runs some work once while it is captured; gives what replays it, and the tensor that each replay writes to."""

WARMUP = 3
"""Steps before the capture, in which libraries choose their kernels."""

_TOLERANCE = 0.05
"""Relative difference of gradients that is rounding: of a graph's to those of the same batch without it."""


def with_graph(loop: Loop) -> bool:
    """Let a loop compute its gradients by a CUDA graph, where that can be and is worth it.

    Returns:
        Whether it will try.
    """
    cuda = all(parameter.device.type == "cuda" for parameter in loop.parameters.values())
    if not cuda or loop.config.steps - loop.step < WORTHWHILE or loop.rescue.measures.gradient_checkpointing:
        return False  # what is recomputed asks for the state of random numbers, which cannot be captured
    loop.backward = Graphed(loop, on_cuda)  # type: ignore[method-assign]
    return True


def on_cuda(work: Callable[[], Tensor]) -> tuple[Any, Tensor]:
    """Capture some work in a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph, result


class Graphed:
    """The gradient of a loop's batches, captured when it is warm.

    The graph's gradient is held against that of the same batch without it. Where they differ, where it cannot be captured, or
    where the loop takes measures against the end of memory or of numbers, steps are computed as without a graph.

    Args:
        loop: whose `backward` this is to stand for.
        capture: how.
    """

    def __init__(self, loop: Loop, capture: Capture) -> None:
        self.loop, self.capture = loop, capture
        self.plain = loop.backward
        self.calls, self.usable, self.measures = 0, True, loop.rescue.measures
        self._graph: Any = None

    def __call__(self, batch: Batch) -> Tensor:
        """Compute the gradient of the batch's mean loss, and return that loss."""
        if self.loop.rescue.measures != self.measures:
            self.usable, self._graph = False, None  # its memory is free again
        if not self.usable:
            return self.plain(batch)
        if self._graph is not None:
            return self._replay(batch)
        self.calls += 1
        if self.calls <= WARMUP:
            with _aside(batch.latents.device):
                return self.plain(batch)
        return self._first(batch)

    def _first(self, batch: Batch) -> Tensor:
        """Capture, and hold what comes of it against the gradient without a graph."""
        loss = self.plain(batch)
        wanted = {name: parameter.grad for name, parameter in self.loop.parameters.items()}
        try:
            self._batch = _copied(batch)
            self._graph, self._loss = self.capture(lambda: self.plain(self._batch))
            self._gradients = {name: parameter.grad for name, parameter in self.loop.parameters.items()}
            self._replay(batch)
            why = "" if self._same(wanted) else "its gradient differs"
        except RuntimeError as error:
            why = str(error).splitlines()[0] if str(error) else "it cannot be captured"
        if why:
            self.usable, self._graph = False, None
            warnings.warn(f"training goes on without a CUDA graph, more slowly: {why}", stacklevel=2)
        for name, parameter in self.loop.parameters.items():
            parameter.grad = wanted[name]
        return loss

    def _replay(self, batch: Batch) -> Tensor:
        for ours, theirs in zip(_tensors(self._batch), _tensors(batch), strict=True):
            ours.copy_(theirs)
        self._graph.replay()
        for name, parameter in self.loop.parameters.items():
            parameter.grad = self._gradients[name]
        return self._loss.clone()

    def _same(self, wanted: Mapping[str, Tensor | None]) -> bool:
        """Whether they are, all together: of the layers of a LoRA some have a gradient that is little more than rounding."""
        ours, theirs = (
            {name: one.flatten() for name, one in own.items() if one is not None} for own in (self._gradients, wanted)
        )
        if ours.keys() != theirs.keys():
            return False
        right = torch.cat([*theirs.values()])
        return bool((torch.cat([ours[name] for name in theirs]) - right).norm() <= _TOLERANCE * right.norm())


def _tensors(batch: Batch) -> Iterator[Tensor]:
    for field in fields(batch):
        value = getattr(batch, field.name)
        yield from value.values() if isinstance(value, Mapping) else (value,) if isinstance(value, Tensor) else ()


def _copied(batch: Batch) -> Batch:
    """The same values in memory that stays."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    copies: dict[str, Any] = {
        name: {key: one.clone() for key, one in value.items()}
        if isinstance(value, Mapping)
        else value.clone()
        if isinstance(value, Tensor)
        else value
        for name, value in values.items()
    }
    return replace(batch, **copies)


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """On a stream of its own, as what is captured later must have been run."""
    if device.type != "cuda":
        yield
        return
    stream, own = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(own)
    with torch.cuda.stream(stream):
        yield
    own.wait_stream(stream)


@contextmanager
def fast_float32() -> Iterator[None]:
    """Let CUDA multiply float32 matrices in TF32 inside a ``with`` block, as it multiplies in convolutions anyway."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
