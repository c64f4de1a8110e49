"""Tables that have all scores of an arm beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from sentinv.bench.arms import Arm, longest_vanilla
from sentinv.evaluation.statistics import bootstrap
from sentinv.report.tables import Table

BESIDE = {
    "recognised": "recognised",
    "clip_i": "CLIP-I, picture",
    "clip_i_views": "other views",
    "clip_i_edits": "true targets",
    "clip_t": "CLIP-T",
    "right": "right scene or style",
    "rms": "RMS in the mask",
}
"""Scores that stand beside each other, and what their columns are called."""


def ends_table(found: Sequence[Arm]) -> Table | None:
    """All scores of each arm after its last step, beside each other; None where no images were measured."""
    rows = []
    for arm in found:
        ends = _ends(arm)
        if any(ends.values()):
            seconds = arm.seconds_at(arm.steps)
            took = f"{seconds:.0f}" if seconds is not None else "-"
            took += f" ({arm.timed} runs)" if 0 < arm.timed < len(arm.records) else ""
            runs = f"{len(arm.records)} of {len(arm.concepts)}"
            cells = [str(bootstrap(list(own.values()))) if own else "-" for own in ends.values()]
            rows.append([arm.label, str(arm.steps), took, runs, *cells])
    header = ["start", "steps", "seconds", "runs of concepts", *BESIDE.values()]
    note = (
        "Mean over concepts (seeds averaged first) [95 % interval]; seconds of training, median of the runs "
        "that were timed. Arms need not have the same concepts: differences are in the tables that pair them."
    )
    return Table("After the last step", header, rows, note) if rows else None


def less_tables(found: Sequence[Arm]) -> list[Table]:
    """What the arms' last scores differ by from those of vanilla's longest arm, and of the first start of our own."""
    ours = next(
        (arm for arm in found if arm.label == arm.initialization and arm.label not in ("vanilla", "word")), None
    )
    tables = []
    for reference in (longest_vanilla(found), ours):
        if reference is None:
            continue
        base, rows = _ends(reference), []
        for arm in found:
            ends = _ends(arm)
            pairs = {
                name: [own[key] - base[name][key] for key in own if key in base[name]] for name, own in ends.items()
            }
            if arm is not reference and any(pairs.values()):
                rows.append([arm.label, str(max(map(len, pairs.values()))), *(_signed(own) for own in pairs.values())])
        if rows:
            note = "Mean of differences paired by concept, seeds averaged first [95 % interval]; the lowest of them."
            title = f"After the last step, less {reference.label} after its own ({reference.steps} steps)"
            tables.append(Table(title, ["start", "concepts", *BESIDE.values()], rows, note))
    return tables


def _ends(arm: Arm) -> dict[str, dict[str, float]]:
    """Score → concept → its last value."""
    curves = {score: arm.score_curves(score) for score in BESIDE}
    return {score: {name: curve[-1][1] for name, curve in own.items()} for score, own in curves.items()}


def _signed(values: Sequence[float]) -> str:
    if not values:
        return "-"
    interval = bootstrap(values)
    spread = f" [{interval.low:+.3f}, {interval.high:+.3f}]; {min(values):+.3f}" if interval.n > 1 else ""
    return f"{interval.mean:+.3f}{spread}"
