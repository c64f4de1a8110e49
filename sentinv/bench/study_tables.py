"""What the records of a study say, in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from statistics import mean, stdev, variance

from sentinv.bench.arms import MEASURES, REFERENCE_NAMES, Arm, longest_vanilla, of_all_concepts
from sentinv.bench.records import Record
from sentinv.evaluation.statistics import Crossing, bootstrap, crossing, mean_curve
from sentinv.report.tables import Table

LEVELS = (500, 1000, 5000)
"""Steps of vanilla whose loss is to be reached; where it is an arm of another name, tables call it by that."""


def crossing_table(found: Sequence[Arm], measure: str) -> Table | None:
    """Steps (and seconds) until each arm's mean loss is at or below vanilla's at some steps; None without vanilla."""
    vanilla = longest_vanilla(found)
    if vanilla is None:
        return None
    name_of = MEASURES[measure]
    reference = vanilla.curves(measure)
    shared = set.intersection(*({step for step, _ in curve} for curve in reference.values())) if reference else set()
    if not shared:
        return None
    levels = sorted({step for step in LEVELS if step in shared} | {max(shared)})
    rows = []
    for arm in found:
        curves = arm.curves(measure)
        names = [name for name in curves if name in reference]
        if not names:
            continue
        cells = [arm.label]
        for level in levels:
            cross = crossing([curves[name] for name in names], [reference[name] for name in names], level)
            cells.append(_crossing(cross, arm))
        ends = {name: dict(curves[name]).get(arm.steps, inf) for name in names}
        below = sum(ends[name] <= dict(reference[name])[levels[-1]] for name in names)
        rows.append([*cells, "-" if arm is vanilla else f"{below} of {len(names)}"])
    header = [
        "start",
        *(f"{vanilla.start}'s at {level}" for level in levels),
        f"concepts that end below {vanilla.start} at {levels[-1]}",
    ]
    note = (
        f"First evaluated step at which the mean {name_of} over concepts and seeds is at or below {vanilla.start}'s, [95 % "
        "interval over resampled concepts], and training seconds up to it. No interpolation; 'never' means not within the "
        "arm's budget."
    )
    return Table(f"Steps to reach {vanilla.start}'s {name_of}", header, rows, note)


def recognised_table(found: Sequence[Arm]) -> Table | None:
    """Steps (and seconds) until each arm is recognised as often as the best arm of a single word ever is; None without one.

    The arm to reach is the best of all that start from vanilla or from a coarse word and have every concept, at its best step,
    so that no choice of its settings holds it down.
    """
    curves = {arm.label: arm.score_curves("recognised") for arm in found}
    means = {label: mean_curve(list(own.values())) for label, own in curves.items() if own}
    best = {label: max(points, key=lambda point: (point[1], -point[0])) for label, points in means.items() if points}
    whole = of_all_concepts(found)
    plain = [arm.label for arm in whole if arm.initialization in ("vanilla", "word") and arm.label in best]
    if not plain:
        return None
    goal = max(plain, key=lambda label: best[label][1])
    at = best[goal][0]
    rows = []
    for arm in found:
        own = curves[arm.label]
        names = [name for name in own if at in dict(curves[goal].get(name, ()))]
        if not names:
            continue
        falling, level = ([[(s, -v) for s, v in of[name]] for name in names] for of in (own, curves[goal]))
        step = best[arm.label][0]
        ends = [dict(own[name])[step] for name in names]
        rows.append([arm.label, _crossing(crossing(falling, level, at), arm), str(bootstrap(ends)), str(step)])
    header = ["start", f"{goal}'s at {at}", "its own best", "at step"]
    note = (
        f"First measured step at which the mean share of recognised pictures is that of {goal} at its best step, or more, [95 "
        "% interval over resampled concepts], and training seconds up to it. No interpolation."
    )
    return Table("Steps to be recognised as often as the best single word", header, rows, note)


def loss_table(found: Sequence[Arm], measure: str) -> Table:
    """Loss on the fixed grid of each arm at some steps, and at the end of its LoRA."""
    wanted = sorted({0, 25, 50, 75, 100, 500, 1000, 5000, *(arm.steps for arm in found if arm.tuned)})
    curves = {arm.label: arm.curves(measure) for arm in found}
    every = {step for own in curves.values() for curve in own.values() for step, _ in curve}
    steps = [step for step in wanted if step in every]
    rows = []
    for arm in found:
        tables = [dict(curve) for curve in curves[arm.label].values()]
        values = [[table[step] for table in tables if step in table] for step in steps]
        vectors = [record["result"]["vectors"] for record in arm.records]
        rate = arm.seconds_per_step()
        rows.append(
            [
                arm.label,
                _range(vectors),
                *(bootstrap(own).text(4) if own and len(own) == len(tables) else "-" for own in values),
                f"{rate:.3f}" if rate is not None else "-",
            ]
        )
    header = ["start", "vectors", *(f"step {step}" for step in steps), "s/step"]
    title = f"{MEASURES[measure].capitalize()} on the fixed grid"
    return Table(title, header, rows, "Mean over concepts (seeds averaged first) [95 % interval].")


def spread_table(found: Sequence[Arm]) -> Table | None:
    """How far runs lie apart that differ in nothing but their seed; None where no concept has two of them."""
    wanted = {**MEASURES, "clip_i": "CLIP-I to the training image", "clip_t": "CLIP-T"}
    rows = []
    for arm in found:
        cells = [_spread(arm, name) for name in wanted]
        if any(cell != "-" for cell in cells):
            rows.append([arm.label, *cells])
    if not rows:
        return None
    note = (
        "Standard deviation of the last values over seeds, within concepts (root of the mean variance) / that of the concepts' "
        "means."
    )
    return Table("Spread over seeds", ["start", *wanted.values()], rows, note)


def _spread(arm: Arm, name: str) -> str:
    own: dict[str, list[float]] = {}
    for record in arm.records:
        if name in MEASURES:
            values = [value for _, value in record["result"][name][-1:]]
        else:
            values = [scores[name] for _, scores in record["result"]["scores"][-1:] if name in scores]
        own.setdefault(record["settings"]["concept"], []).extend(value for value in values if value is not None)
    within = [variance(values) for values in own.values() if len(values) > 1]
    if not within:
        return "-"
    means = [mean(values) for values in own.values() if values]
    digits = 4 if name in MEASURES else 3
    between = f"{stdev(means):.{digits}f}" if len(means) > 1 else "-"
    return f"{mean(within) ** 0.5:.{digits}f} / {between}"


SCORES = {
    "recognised": "recognised: share of pictures that show the concept and no other, in the scene or style asked for",
    "clip_i": "reconstruction: CLIP-I to the training image",
    "clip_i_views": "reconstruction: CLIP-I to held-out views",
    "clip_t": "editability: CLIP-T, mean over the editing prompts",
    "clip_t_each": "editability: CLIP-T of single images, whatever their number",
    "clip_i_edits": "edits: CLIP-I to pictures of the thing itself in the asked scene or style",
    "right": "edits: share of pictures that show the scene or style asked for",
    "lpips": "LPIPS to the training image (lower is closer)",
    "rms": "root mean squared difference to the training image inside the mask, of values in [0, 1] (lower is closer)",
}


def score_tables(found: Sequence[Arm], records: Sequence[Record]) -> list[Table]:
    """One table per score: arms by steps, and the reference rows."""
    tables = []
    for score, title in SCORES.items():
        curves = {arm.label: list(arm.score_curves(score).values()) for arm in found}
        steps = sorted({step for own in curves.values() for curve in own for step, _ in curve}) or [0]
        rows = []
        for label, own in curves.items():
            values = [[dict(curve)[step] for curve in own if step in dict(curve)] for step in steps]
            rows.append([label, *(_of_all(cell, len(own)) for cell in values)])
        for start, name in REFERENCE_NAMES.items():
            single = [r["result"]["scores"][0][1] for r in records if r["settings"]["start"] == start]
            cell = [scores[score] for scores in single if score in scores]
            if cell:
                rows.append([name, str(bootstrap(cell)), *("" for _ in steps[1:])])
        if all(cell in ("-", "") for row in rows for cell in row[1:]):
            continue
        header = ["start", *(f"step {step}" for step in steps)]
        note = "Mean over concepts (seeds averaged first) [95 % interval]."
        runs = [any(score in scores for _, scores in run["result"]["scores"]) for arm in found for run in arm.records]
        if 0 < sum(runs) < len(runs):
            note += f" Measured in {sum(runs)} of {len(runs)} runs."
        tables.append(Table(title, header, rows, note))
    return tables


def gain_table(found: Sequence[Arm]) -> Table | None:
    """What training adds to each arm's start: CLIP-I to the training image at a step less that at step 0."""
    bases = {
        arm.label: {name: dict(curve)[0] for name, curve in arm.score_curves("clip_i").items() if 0 in dict(curve)}
        for arm in found
    }
    title = "Gain over the start: CLIP-I to the training image, less that of the start words"
    return _differences(title, found, "clip_i", bases)


def trade_table(found: Sequence[Arm]) -> Table | None:
    """Editability of each arm less vanilla's where vanilla reconstructs best; None without vanilla's images."""
    vanilla = longest_vanilla(found)
    near = (
        mean_curve(list(vanilla.score_curves("clip_i").values())) if vanilla and vanilla.score_curves("clip_i") else []
    )
    if vanilla is None or not near:
        return None
    best = max(near, key=lambda point: point[1])[0]
    base = {name: dict(curve)[best] for name, curve in vanilla.score_curves("clip_t").items() if best in dict(curve)}
    title = f"Editability: CLIP-T less that of {vanilla.start} at step {best}, where {vanilla.start} reconstructs best"
    return _differences(title, found, "clip_t", {arm.label: base for arm in found})


def _differences(
    title: str, found: Sequence[Arm], score: str, bases: Mapping[str, Mapping[str, float]]
) -> Table | None:
    """Score less a base, paired by concept."""
    curves = {arm.label: {name: dict(curve) for name, curve in arm.score_curves(score).items()} for arm in found}
    steps = sorted({step for own in curves.values() for curve in own.values() for step in curve})
    rows = []
    for label, own in curves.items():
        base = bases[label]
        values = [
            [curve[step] - base[name] for name, curve in own.items() if step in curve and name in base]
            for step in steps
        ]
        if any(values):
            rows.append([label, *(_of_all(cell, len(own.keys() & base.keys())) for cell in values)])
    header = ["start", *(f"step {step}" for step in steps)]
    return Table(title, header, rows, "Mean of differences paired by concept [95 % interval].") if rows else None


def _of_all(values: Sequence[float], count: int) -> str:
    """Their mean, if all of so many concepts have one: what is left after some went wrong is another sample."""
    return str(bootstrap(values)) if values and len(values) == count else "-"


def _crossing(cross: Crossing, arm: Arm) -> str:
    if cross.steps is None:
        return f"never ({arm.steps})"
    low, high = ("never" if end is None else str(end) for end in (cross.low, cross.high))
    seconds = arm.seconds_at(cross.steps)
    took = f", {seconds:.1f} s" if seconds is not None else ""
    return f"{cross.steps} [{low}, {high}]{took}"


def _range(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"
