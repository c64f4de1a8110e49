"""Figures of studies, fit for print: PNG and SVG, the same bytes for the same data."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentinv.evaluation.statistics import band, bootstrap
from sentinv.files.atomic import StrPath, atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#4D4D4D", "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7", "#7A5195")
"""Okabe & Ito's palette, which colour-blind readers tell apart, less its yellow, too pale for lines.

Gray comes first: for what others are compared with.
"""

FEW = 10
"""Curves of no more points than this show each of them."""

MARKERS = "osD^vP*X"
DASHES = ("-", "--", "-.", ":")

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.labelcolor": "#222222",
    "axes.edgecolor": "#888888",
    "lines.linewidth": 1.6,
    "svg.hashsalt": "sentinv",
    "svg.fonttype": "path",
}


def save_figure(figure: Figure, folder: StrPath, stem: str) -> list[Path]:
    """Write a figure as PNG (200 dots per inch) and SVG.

    Raises:
        SentinvError: If one can't be written.
    """
    from matplotlib import rc_context

    paths = []
    with rc_context(_STYLE):
        for kind, dated in (("png", "Software"), ("svg", "Date")):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=200, bbox_inches="tight", metadata={dated: None})
            paths.append(atomic_write(Path(folder) / f"{stem}.{kind}", buffer.getvalue(), overwrite=True))
    return paths


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves over the training that are drawn together.

    Attributes:
        arms: label → one curve per concept.
        ylabel: what the curves show.
        level: label and height of a horizontal line; None for none.
        seconds: whether they are over seconds.
    """

    arms: Mapping[str, Sequence[Sequence[tuple[float, float]]]]
    ylabel: str
    level: tuple[str, float] | None = None
    seconds: bool = False


def curves(*panels: Panel) -> Figure:
    """Mean curves with 95 % bands over concepts, on a step axis that is linear to 10 and logarithmic from there, or of seconds.

    Args:
        panels: side by side; an arm has the same colour in all of them, and one entry in the legend.
    """
    figure, every = _figure((6.4, 3.9) if len(panels) == 1 else (4.4 * len(panels), 3.2), len(panels))
    order = list(dict.fromkeys(label for panel in panels for label in panel.arms))
    lines: dict[str, Any] = {}
    for axes, panel in zip(every, panels, strict=True):
        _draw_curves(axes, panel, order)
        lines |= {str(line.get_label()): line for line in axes.lines if line.get_label() in order}
    legend = [lines[label] for label in order]
    every[-1].legend(legend, order, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False)
    return figure


def _draw_curves(axes: Axes, panel: Panel, order: Sequence[str]) -> None:
    furthest = 1.0
    for label, own in panel.arms.items():
        colour, dash = _look(order.index(label))
        points = band(own)
        steps = [step for step, _ in points]
        furthest = max(furthest, *steps)
        marker = "o" if len(points) <= FEW else ""  # a line alone would look measured all along
        means = [value.mean for _, value in points]
        axes.plot(steps, means, dash, color=colour, label=label, marker=marker, markersize=3.5)
        if len(own) > 1 and len(points) == 1:
            ((step, value),) = points
            axes.plot([step, step], [value.low, value.high], color=colour, alpha=0.4, linewidth=1)
        elif len(own) > 1:
            low, high = [value.low for _, value in points], [value.high for _, value in points]
            axes.fill_between(steps, low, high, color=colour, alpha=0.11, linewidth=0)
    if panel.level is not None:
        label, height = panel.level
        axes.axhline(height, color="#888888", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            label,
            (0, height),
            xycoords=("axes fraction", "data"),
            xytext=(4, 2),
            textcoords="offset points",
            va="bottom",
            fontsize=7.5,
            color="#555555",
        )
    if panel.seconds:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        _step_axis(axes, furthest)
    axes.set(xlabel="seconds of training" if panel.seconds else "training steps", ylabel=panel.ylabel)


def plane(
    arms: Mapping[str, Sequence[tuple[float, float]]],
    *,
    references: Mapping[str, tuple[float, float]] | None = None,
    paths: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    labels: tuple[str, str] = ("editability (CLIP-T) →", "reconstruction (CLIP-I) →"),
    variants: Mapping[str, str] | None = None,
) -> Figure:
    """The reconstruction-editability plane (Gal et al. 2022, figure 10), or another of two measures.

    Args:
        arms: label → (editability, reconstruction) of each concept; drawn as the mean with a cross of 95 % intervals.
        references: label → (editability, reconstruction).
        paths: label of an arm → the way its mean takes over the steps, or over another setting.
        labels: of the x and the y axis, with an arrow to what is better.
        variants: label of an arm → the label of another, whose colour it shares: drawn hollow and dashed.
    """
    figure, (axes,) = _figure((5.6, 4.3), 1)
    variants = variants or {}
    order = [label for label in arms if label not in variants]
    for label, points in arms.items():
        index = order.index(variants.get(label, label))
        colour, _ = _look(index)
        hollow = label in variants or index >= len(COLOURS)
        x, y = (bootstrap([point[axis] for point in points]) for axis in (0, 1))
        _draw_way(axes, (paths or {}).get(label, ()), colour, dashed=label in variants)
        spread = [[[value.mean - value.low], [value.high - value.mean]] for value in (x, y)]
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=spread[0],
            yerr=spread[1],
            color=colour,
            elinewidth=0.9,
            capsize=0,
            label=label,
            marker=MARKERS[index % len(MARKERS)],
            markersize=6,
            markerfacecolor="white" if hollow else colour,
            linestyle="none",
        )
    _draw_references(axes, references or {})
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False)
    return figure


def _draw_way(axes: Axes, way: Sequence[tuple[float, float]], colour: str, *, dashed: bool) -> None:
    if len(way) > 1:
        axes.plot(*zip(*way, strict=True), "--" if dashed else "-", color=colour, linewidth=1, alpha=0.55)
        axes.plot(*zip(*way, strict=True), ".", color=colour, markersize=4, alpha=0.7)


def _draw_references(axes: Axes, references: Mapping[str, tuple[float, float]]) -> None:
    """Crosses, each with its label on the side away from the arms."""
    for horizontal, vertical in references.values():
        axes.plot(horizontal, vertical, "x", color="#222222", markersize=7)
    axes.margins(0.12)
    middle = sum(axes.get_xlim()) / 2
    for label, (horizontal, vertical) in references.items():
        left = horizontal > middle  # away from the arms, which are to the right
        axes.annotate(
            label,
            (horizontal, vertical),
            xytext=(-6 if left else 6, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=8,
            color="#222222",
        )


def _figure(size: tuple[float, float], count: int) -> tuple[Figure, list[Axes]]:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _look(index: int) -> tuple[str, str]:
    return COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]


def _step_axis(axes: Axes, furthest: float) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set_xscale("symlog", linthresh=10, linscale=0.6)
    axes.set_xlim(0, furthest)
    ticks = [0, *(tick for tick in (5, 10, 25, 50, 100, 250, 1000, 5000) if tick <= furthest)]
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
