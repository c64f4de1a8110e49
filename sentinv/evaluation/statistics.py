"""Means with bootstrap intervals, and how many steps a curve takes to reach a level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95

_X = TypeVar("_X", int, float)

Curve = Sequence[tuple[int, float]]
"""(step, value) pairs in rising order of steps."""


@dataclass(frozen=True)
class Interval:
    """A mean with its interval.

    Attributes:
        mean: of the values.
        low: lower end.
        high: upper end.
        n: values it is made of.
    """

    mean: float
    low: float
    high: float
    n: int

    def text(self, digits: int = 3) -> str:
        """Mean and, where there is more than one value, interval."""
        mean, low, high = (f"{value:.{digits}f}" for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" if self.n > 1 else mean

    def __str__(self) -> str:
        return self.text()


def bootstrap(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean of values with its 95 % percentile bootstrap interval (Efron 1979; Efron & Tibshirani 1993, chapter 13).

    Of few values it is too short: of twelve normal ones it covers the mean in 90 % of cases, not 95.

    Args:
        values: independent ones, ≥ 1. One value has no interval: low and high are that value.
        seed: of the resampling.
        resamples: how often the values are drawn anew, with replacement.

    Raises:
        ValueError: If there are no values.
    """
    if not len(values):
        raise ValueError("expected at least one value")
    array = np.asarray(values, dtype=np.float64)
    means = array[_indices(len(array), seed, resamples)].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(array.mean()), float(low), float(high), len(array))


def group_means(values: Sequence[tuple[str, float]]) -> list[float]:
    """Mean of each group, in the order the groups first occur.

    Seeds of one concept are not independent samples of concepts: their mean is taken first, then concepts are resampled.
    """
    groups: dict[str, list[float]] = {}
    for name, value in values:
        groups.setdefault(name, []).append(value)
    return [float(np.mean(group)) for group in groups.values()]


def band(curves: Sequence[Sequence[tuple[_X, float]]], *, seed: int = 0) -> list[tuple[_X, Interval]]:
    """Mean curve of several, with a pointwise interval, over the steps, or seconds, that all of them have."""
    shared = set.intersection(*({step for step, _ in curve} for curve in curves))
    tables = [dict(curve) for curve in curves]
    return [(step, bootstrap([table[step] for table in tables], seed=seed)) for step in sorted(shared)]


def levelled(arms: Mapping[str, Mapping[str, Curve]]) -> dict[str, list[list[tuple[int, float]]]]:
    """Take each concept's own level out of its curves, as within-subject intervals do (Cousineau 2005; Morey 2008).

    Concepts differ far more in loss than starts do, and all starts meet the same concepts. A concept's level is its mean over
    arms and over the steps that all curves have; the mean level is put back, so mean curves stay as they are. The level has a
    share of each arm's own differences in it, so that what is left is too small; of M arms it is enlarged by sqrt(M / (M - 1)).

    Args:
        arms: label → (concept → curve). Where there is one arm, or not all have the same concepts and steps in common, nothing
            is changed.
    """
    concepts = {frozenset(own) for own in arms.values()}
    plain = {label: [list(curve) for curve in own.values()] for label, own in arms.items()}
    tables = {label: {name: dict(curve) for name, curve in own.items()} for label, own in arms.items()}
    steps = set.intersection(*(set(table) for own in tables.values() for table in own.values())) if plain else set()
    if len(arms) < 2 or len(concepts) != 1 or not steps:
        return plain
    levels = {
        name: float(np.mean([own[name][step] for own in tables.values() for step in sorted(steps)]))
        for name in next(iter(concepts))
    }
    middle = float(np.mean(list(levels.values())))
    scale = (len(arms) / (len(arms) - 1)) ** 0.5
    found = {}
    for label, own in tables.items():
        flat = {name: {step: own[name][step] - levels[name] + middle for step in own[name]} for name in own}
        means = {
            step: float(np.mean([table[step] for table in flat.values() if step in table]))
            for step in set().union(*flat.values())
        }
        found[label] = [
            [(step, means[step] + scale * (value - means[step])) for step, value in table.items()]
            for table in flat.values()
        ]
    return found


def mean_curve(curves: Sequence[Curve]) -> list[tuple[int, float]]:
    """Mean of curves over the steps that all of them have."""
    tables = [dict(curve) for curve in curves]
    shared = set.intersection(*(set(table) for table in tables))
    return [(step, float(np.mean([table[step] for table in tables]))) for step in sorted(shared)]


@dataclass(frozen=True)
class Crossing:
    """How soon one mean curve reaches another's level.

    Attributes:
        steps: first step at which the mean curve is at or below the level; None if it never is.
        low: lower end of the interval over resampled concepts; None beyond the last step.
        high: upper end; None if in that resample the level was never reached.
    """

    steps: int | None
    low: int | None
    high: int | None


def crossing(
    curves: Sequence[Curve], reference: Sequence[Curve], at: int, *, seed: int = 0, resamples: int = 2000
) -> Crossing:
    """When the mean of `curves` reaches the mean of `reference` at a step; concepts are resampled in pairs.

    Args:
        curves: one per concept.
        reference: one per concept, in the same order; each has the step `at`.
        at: the step of the reference whose value is to be reached.
        seed: of the resampling.
        resamples: how often concepts are drawn.

    Raises:
        ValueError: If the two differ in number, or the reference lacks the step.
    """
    if len(curves) != len(reference) or not curves:
        raise ValueError(f"expected as many curves as references, got {len(curves)} and {len(reference)}")
    levels = [dict(curve).get(at) for curve in reference]
    if None in levels:
        raise ValueError(f"the reference has no value at step {at}")
    tables = [dict(curve) for curve in curves]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    values = np.array([[table[step] for step in steps] for table in tables])
    level = np.array(levels, dtype=np.float64)

    def first(chosen: np.ndarray) -> float:
        below = values[chosen].mean(axis=0) <= level[chosen].mean()
        return steps[int(below.argmax())] if below.any() else np.inf

    drawn = np.sort([first(row) for row in _indices(len(tables), seed, resamples)])
    ends = (
        drawn[int((1 - CONFIDENCE) / 2 * (resamples - 1))],
        drawn[int(np.ceil((1 + CONFIDENCE) / 2 * (resamples - 1)))],
    )
    low, high, found = (None if np.isinf(end) else int(end) for end in (*ends, first(np.arange(len(tables)))))
    return Crossing(found, low, high)


def _indices(count: int, seed: int, resamples: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(count, size=(resamples, count))
