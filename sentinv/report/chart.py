"""The loss curve of a run as SVG, in the colours of `sentinv.report.html`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Point = tuple[float, float]

_WIDTH, _HEIGHT = 860, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 40


class _Frame(NamedTuple):
    """What part of the plane is shown."""

    x_max: float
    y_min: float
    y_max: float

    def at(self, point: Point) -> tuple[float, float]:
        """Where a point lies on the sheet."""
        x = _LEFT + point[0] / self.x_max * (_WIDTH - _LEFT - _RIGHT)
        y = _TOP + (self.y_max - point[1]) / (self.y_max - self.y_min) * (_HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)


def loss_chart(training: Sequence[Point], evaluations: Sequence[Point], best_step: int) -> str:
    """Draw both losses over the steps.

    Args:
        training: (step, loss) of every batch: dots, and their running mean as a thin line.
        evaluations: (step, loss on the fixed grid): the thick line.
        best_step: the evaluated step that is marked.

    Returns:
        An `<svg>` element; "" where there is nothing to draw.
    """
    training, evaluations = _finite(training), _finite(evaluations)
    if not evaluations:
        return ""
    mean = running_mean(training)
    values = [loss for _, loss in [*evaluations, *mean]]
    margin = 0.12 * (max(values) - min(values)) or 0.1 * abs(values[0]) or 1.0
    frame = _Frame(
        max(1, *(step for step, _ in [*training, *evaluations])),
        max(0.0, min(values) - margin),
        max(values) + margin,
    )
    dots = "".join(
        '<circle cx="{}" cy="{}" r="1.6"/>'.format(*frame.at(point))
        for point in training
        if frame.y_min <= point[1] <= frame.y_max
    )
    marks = "".join('<circle cx="{}" cy="{}" r="3"/>'.format(*frame.at(point)) for point in evaluations)
    best = [frame.at(point) for point in evaluations if point[0] == best_step]
    ring = "".join(f'<circle cx="{x}" cy="{y}" r="7" fill="none" stroke="var(--accent)"/>' for x, y in best)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Loss over training steps">'
        f'{_axes(frame)}<g fill="var(--second)">{dots}</g>{_line(frame, mean, "var(--second)", 1.5)}'
        f'{_line(frame, evaluations, "var(--accent)", 2.5)}<g fill="var(--accent)">{marks}</g>{ring}</svg>'
    )


def running_mean(points: Sequence[Point], share: float = 0.1) -> list[Point]:
    """Exponential mean of the second coordinate, without the bias of its start."""
    mean, weight, smooth = 0.0, 0.0, []
    for step, loss in points:
        mean, weight = (1 - share) * mean + share * loss, (1 - share) * weight + share
        smooth.append((step, mean / weight))
    return smooth


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two bounds, about `count` of them."""
    rough = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _axes(frame: _Frame) -> str:
    parts = []
    levels = ticks(frame.y_min, frame.y_max)
    digits = max(0, -math.floor(math.log10(levels[1] - levels[0]))) if len(levels) > 1 else 4
    for level in levels:
        x, y = frame.at((0, level))
        parts.append(f'<line x1="{x}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="var(--line)"/>')
        parts.append(f'<text x="{x - 10}" y="{y + 4}" text-anchor="end">{level:.{digits}f}</text>')
    for step in ticks(0, frame.x_max, 6):
        x, _ = frame.at((step, 0))
        if step == int(step):
            parts.append(f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{int(step)}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">step</text>')
    return "".join(parts)


def _line(frame: _Frame, points: Sequence[Point], colour: str, width: float) -> str:
    path = " ".join("{},{}".format(*frame.at(point)) for point in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"/>'


def _finite(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if math.isfinite(point[1])]
