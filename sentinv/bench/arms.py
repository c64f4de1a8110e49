"""The arms of a study: runs that differ only in concept and seed, and their mean curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sentinv.bench.records import Record
from sentinv.evaluation.statistics import Curve, mean_curve

REFERENCE_NAMES = {"image-only": "image only", "prompt-only": "prompt only", "targets-only": "true targets"}


@dataclass(frozen=True)
class Arm:
    """All runs that differ only in concept and seed.

    Attributes:
        label: what tells it from the other arms.
        start: initialisation, or what the study calls one with hyper-parameters of its own.
        steps: budget: of the word, and of the LoRA around it.
        records: its runs.
    """

    label: str
    start: str
    steps: int
    records: tuple[Record, ...]

    @property
    def initialization(self) -> str:
        """What its words come from."""
        settings = self.records[0]["settings"]
        return settings.get("initialization", settings["start"])

    @property
    def tuned(self) -> bool:
        """Whether a LoRA is trained around the word."""
        return "tune" in self.records[0]["settings"]

    @property
    def concepts(self) -> list[str]:
        """Names of its concepts, in order."""
        return list(dict.fromkeys(record["settings"]["concept"] for record in self.records))

    def curves(self, measure: str = "losses") -> dict[str, list[tuple[int, float]]]:
        """Concept → its curve on the fixed grid, mean over seeds: of "losses" or of "objectives" (weighted as trained).

        Values that were not finite are left out, and concepts that have no others.
        """
        own: dict[str, list[Curve]] = {}
        for record in self.records:
            points = [(step, loss) for step, loss in record["result"][measure] if loss is not None]
            own.setdefault(record["settings"]["concept"], []).append(points)
        return {name: curve for name, curves in own.items() if (curve := mean_curve(curves))}

    def score_curves(self, score: str) -> dict[str, list[tuple[int, float]]]:
        """Concept → (step, score), mean over seeds."""
        own: dict[str, list[Curve]] = {}
        for record in self.records:
            points = [(step, scores[score]) for step, scores in record["result"]["scores"] if score in scores]
            own.setdefault(record["settings"]["concept"], []).append(points)
        return {name: curve for name, curves in own.items() if (curve := mean_curve(curves))}

    @property
    def timed(self) -> int:
        """How many of its runs say how long they took: not those that shared a machine with others."""
        return sum(bool(record["timing"].get("training")) for record in self.records)

    def seconds_per_step(self) -> float | None:
        """Median over its runs."""
        seconds = self.seconds_at(self.steps)
        return None if seconds is None else seconds / self.steps

    def seconds_at(self, step: int) -> float | None:
        """Training seconds up to a step, median over its runs. Steps of a word take equally long, those of a LoRA longer."""
        found = []
        for record in self.records:
            timed = record["timing"].get("training") or []
            if step <= record["settings"]["train"]["steps"]:
                timed = [point for point in timed if point[0] <= record["settings"]["train"]["steps"]]
            if timed and timed[-1][0]:
                found.append(timed[-1][1] / timed[-1][0] * step)
        return median(found) if found else None


def of_all_concepts(found: Sequence[Arm]) -> list[Arm]:
    """Those that have every concept that there is, as a mean over others is another thing's; all, if there are none."""
    there = {name for arm in found for name in arm.concepts}
    return [arm for arm in found if len(arm.concepts) == len(there)] or list(found)


def arms(records: Iterable[Record]) -> list[Arm]:
    """Group runs; references are left out."""
    groups: dict[tuple[str, int, tuple[tuple[str, str], ...]], list[Record]] = {}
    for record in records:
        settings = record["settings"]
        if settings["start"] in REFERENCE_NAMES:
            continue
        point = tuple((name, short(value)) for name, value in settings["point"].items())
        steps = settings["train"]["steps"] + settings.get("tune", {"steps": 0})["steps"]
        groups.setdefault((settings["start"], steps, point), []).append(record)
    starts = {start for start, _, _ in groups}
    found = []
    for (start, steps, point), own in groups.items():
        budgets = {other for name, other, same in groups if name == start and same == point}
        varied = [f"{name.replace('_', ' ')} {value}" for name, value in point]
        named = [start] if len(starts) > 1 or not varied else []
        budget = [f"{steps} steps"] if len(budgets) > 1 and "steps" not in dict(point) else []
        found.append(Arm(", ".join([*named, *varied, *budget]), start, steps, tuple(own)))
    return found


def references(records: Iterable[Record], score_x: str, score_y: str) -> dict[str, tuple[float, float]]:
    """Mean of the reference rows over concepts, on the plane."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        name = REFERENCE_NAMES.get(record["settings"]["start"])
        scores = record["result"]["scores"][0][1] if name else {}
        if name and score_x in scores and score_y in scores:
            found.setdefault(name, []).append((scores[score_x], scores[score_y]))
    return {
        name: (sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points))
        for name, points in found.items()
    }


def longest_vanilla(found: Iterable[Arm]) -> Arm | None:
    """The arm that others are compared with: the first of those with the longest budget, however it is trained."""
    return max((arm for arm in found if arm.initialization == "vanilla"), key=lambda arm: arm.steps, default=None)


MEASURES = {"losses": "loss", "objectives": "weighted loss"}
"""What is taken on the fixed grid: every noise level counting the same, or as much as in the training."""


def measures(found: Sequence[Arm]) -> list[str]:
    """Those that can be compared: the weighted loss only where all runs weigh alike, and not all levels the same."""
    weights = {record["settings"]["train"]["min_snr"] for arm in found for record in arm.records}
    return ["losses", "objectives"] if len(weights) == 1 and None not in weights else ["losses"]


def short(value: Any) -> str:
    """A value as tables and legends show it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
