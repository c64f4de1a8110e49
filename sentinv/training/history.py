"""What happened in a training run, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

RUNAWAY = 1000.0
"""Rows that are longer than so many medians of the vocabulary end a run.

AdamW moves an entry by about the learning rate: a hundred steps at a relative one of 1 take a row to at most some hundred
medians. Whatever is beyond a thousand has run away.
"""

WRONG = {
    "not finite": "the loss or the rows were not finite",
    "runaway": f"a row grew to more than {RUNAWAY:g} times the vocabulary's median length",
}
"""What `history.stop` says of a run that went wrong, in words."""


@dataclass(frozen=True)
class StepRecord:
    """One step.

    Attributes:
        step: its number, from 1.
        loss: mean training loss of its batch.
        learning_rate: as used.
        evaluation: loss on the fixed grid after the step, where it was evaluated.
    """

    step: int
    loss: float
    learning_rate: float
    evaluation: float | None = None


@dataclass
class History:
    """A run so far.

    Attributes:
        records: one per step.
        evaluations: (step, loss on the fixed grid), from step 0, the start.
        best_step: the step whose rows had the smallest of these losses.
        stop: why the run ended: "steps", "auto" (the loss no longer fell), "not finite", "runaway" (a row grew beyond all
            use), or "asked" (somebody ended it); "" while it goes on.
        seconds: spent in steps and evaluations, over all sittings.
    """

    records: list[StepRecord] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    stop: str = ""
    seconds: float = 0.0

    @property
    def start_loss(self) -> float:
        """Loss on the fixed grid before the first step."""
        return self.evaluations[0][1]

    @property
    def best_loss(self) -> float:
        """The smallest loss on the fixed grid."""
        return min(loss for _, loss in self.evaluations)

    @property
    def learned(self) -> bool:
        """Whether any evaluated step was better than the start."""
        return self.best_step > 0

    def stale(self, min_improvement: float) -> int:
        """How many evaluations in a row, up to now, did not fall by that share below the best before them."""
        best, count = float("inf"), 0
        for _, loss in self.evaluations:
            count = 0 if loss < best * (1 - min_improvement) else count + 1
            best = min(best, loss)
        return count

    def to_json(self) -> dict[str, Any]:
        """As JSON can say it."""
        return asdict(self)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> History:
        """Back from `to_json`."""
        records = [StepRecord(**record) for record in state["records"]]
        evaluations = [(int(step), float(loss)) for step, loss in state["evaluations"]]
        return cls(records, evaluations, state["best_step"], state["stop"], state["seconds"])
