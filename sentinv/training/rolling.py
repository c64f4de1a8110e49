"""Several runs that share their steps: a rolling batch, as servers have it; a run of its own is the batch of one.

What is frozen is the same for all runs, so a call of the model can hold the items of several. Each run draws from its own
generator, has its own optimiser, evaluations and best state, and gives its place to the next when it is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sentinv.training.data import Batch
    from sentinv.training.history import History
    from sentinv.training.objective import Objective
    from sentinv.training.rescue import NoRescue

_HALF_PRECISION_SCALE = 256.0  # keeps the gradients of an fp16 model above the smallest number it has


class Run(Protocol):
    """What is asked of a run, a `sentinv.training.loop.Loop`."""

    objective: Objective
    rescue: NoRescue
    history: History
    together: int

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What is trained, by name."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its own."""
        ...

    @property
    def over(self) -> bool:
        """Whether there is no further step."""
        ...

    def begin(self) -> None:
        """Evaluate the start, if that has not been done."""
        ...

    def draw(self) -> Batch:
        """Draw the next step's batch."""
        ...

    def backward(self, batch: Batch) -> Tensor:
        """Compute the gradient of a batch's mean loss, and return that loss."""
        ...

    def advance(self, loss: Tensor) -> None:
        """Take the step whose gradients are there."""
        ...


def rolling(runs: Iterable[Run], *, places: int = 1, on_end: Callable[[Run], None] | None = None) -> Iterator[None]:
    """Train runs to their ends, yielding after every step that they share.

    Args:
        runs: over the same model, with one rescue; the next is asked for when a place is free.
        places: how many are under way at a time, ≥ 1.
        on_end: called with each run as soon as it is over.
    """
    waiting, active = iter(runs), list[Run]()
    while True:
        begun = time.perf_counter()
        active += _begun(waiting, places - len(active), on_end)
        if not active:
            return
        batches = [run.draw() for run in active]
        losses = active[0].rescue.attempt(_Work(active, batches))
        for run, loss in zip(active, losses, strict=True):
            run.advance(loss)
        spent = time.perf_counter() - begun
        for run in active:
            run.history.seconds += spent / len(active)
        yield
        for run in active:
            if run.over:
                _end(run, on_end)
        active = [run for run in active if not run.over]


def _begun(waiting: Iterator[Run], free: int, on_end: Callable[[Run], None] | None) -> list[Run]:
    """Fill free places. Where there is nothing to train a run is over at once, and takes none."""
    found: list[Run] = []
    while len(found) < free and (run := next(waiting, None)) is not None:
        run.begin()
        if run.over:
            _end(run, on_end)
        else:
            found.append(run)
    return found


def _end(run: Run, on_end: Callable[[Run], None] | None) -> None:
    run.history.stop = run.history.stop or "steps"
    if on_end is not None:
        on_end(run)


def gradients(runs: Sequence[Run], batches: Sequence[Batch]) -> list[Tensor]:
    """Compute the gradient of each run's mean loss on its batch, in calls that runs share, and return these losses."""
    return _Work(runs, batches).shared()


class _Work:
    """The gradients of one step of several runs; it may be done again where memory ended."""

    def __init__(self, runs: Sequence[Run], batches: Sequence[Batch]) -> None:
        self.runs, self.batches = runs, batches

    def __call__(self) -> list[Tensor]:
        """Compute them, and return the losses. A run that shares its calls with none may have a way of its own."""
        if len(self.runs) == 1 and self.runs[0].together == 1:
            return [self.runs[0].backward(self.batches[0])]
        return self.shared()

    def shared(self) -> list[Tensor]:
        """Compute them in calls that runs share."""
        losses: dict[int, Tensor] = {}
        for run in self.runs:
            run.optimizer.zero_grad()
        for members in self._calls():
            losses |= self._backward(members)
        for run in self.runs:
            scale = _scale(run.objective)
            for parameter in run.parameters.values():
                if parameter.grad is not None and scale != 1:
                    parameter.grad /= scale
        return [losses[index] for index in range(len(self.runs))]

    def _calls(self) -> Iterator[list[int]]:
        """Indices of the runs whose items go into one call: of one objective, and alike in shape."""
        alike: dict[Any, list[int]] = {}
        for index, (run, batch) in enumerate(zip(self.runs, self.batches, strict=True)):
            key = (id(run.objective), run.together, len(batch), batch.mask is None)
            alike.setdefault(key, []).append(index)
        for (_, together, *_), members in alike.items():
            for first in range(0, len(members), together):
                yield members[first : first + together]

    def _backward(self, members: list[int]) -> dict[int, Tensor]:
        run, size = self.runs[members[0]], len(self.batches[members[0]])
        batch = self.batches[members[0]]
        filled = [*members, *members[:1] * (run.together - len(members))]  # the shape decides which kernels compute it
        if len(filled) > 1:
            batch = batch.joined([self.batches[index] for index in filled[1:]])
        weights = torch.full((len(batch),), 1 / size, device=batch.latents.device)
        weights[size * len(members) :] = 0
        each, scale, first = [], _scale(run.objective), 0
        for part in batch.parts(run.rescue.measures.parts):
            items = run.objective(part)
            (scale * (items * weights[first : first + len(part)]).sum()).backward()
            each.append(items.detach())
            first += len(part)
        means = torch.cat(each)[: size * len(members)].view(len(members), size).mean(dim=1)
        return dict(zip(members, means.unbind(), strict=True))


def _scale(objective: Objective) -> float:
    return _HALF_PRECISION_SCALE if objective.dtype == torch.float16 else 1.0
