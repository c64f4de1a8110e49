"""What the records of the editing study say: tables, paired comparisons, curves and contact sheets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sentinv.bench.editing_arms import CONTROLS
from sentinv.bench.editing_study import spread
from sentinv.bench.records import Record
from sentinv.editing.edit import EditConfig
from sentinv.editing.inversion import InversionConfig
from sentinv.evaluation.statistics import bootstrap, group_means
from sentinv.files.atomic import atomic_write
from sentinv.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT = f"{InversionConfig().method}-{EditConfig().source}"
"""The arm that is the default of `sentinv edit`."""
OURS = (DEFAULT, f"{DEFAULT}-full")
"""Arms that are compared with the others: with its own guidance, and with that of the others."""
COMPARED = ("target_ratio", "success")
"""Measures that are compared at equal preservation; of the first, less is better."""

_COLUMNS = {
    "source_psnr": "PSNR to source",
    "source_psnr_inside": "… inside",
    "source_psnr_outside": "… outside",
    "target_ratio": "distance to target",
    "success": "edit success",
}


def write_editing_report(records: Sequence[Record], folder: Path, notes: Mapping[str, str]) -> list[Table]:
    """Write tables.md, curve.png and curve.svg.

    Raises:
        SentinvError: If one cannot be written.
    """
    from sentinv.bench.plots import save_figure

    tables = [round_trips(records), edits(records)]
    tables += [table for ours in OURS for table in comparisons(records, ours)]
    facts = "\n".join(f"- {name}: {value}" for name, value in notes.items())
    text = "\n".join(["## Editing\n", *(table.markdown() for table in tables), facts, ""])
    atomic_write(folder / "tables.md", text.encode(), overwrite=True)
    if any("success" in record for record in records):
        save_figure(curve(records, "success", "edit success (probability of what was asked for) →"), folder, "curve")
    if any("target_ratio" in record for record in records):
        save_figure(curve(records, "target_ratio", "← distance to the true target (1: unedited)"), folder, "target")
    return tables


def round_trips(records: Sequence[Record]) -> Table:
    """Errors of the way back with the source prompt."""
    own = [record for record in records if record["kind"] == "round trip"]
    rows = []
    for method, guidance in dict.fromkeys((record["method"], record["guidance"]) for record in own):
        group = [record for record in own if (record["method"], record["guidance"]) == (method, guidance)]
        median, p95 = spread(group, "latent_error")
        gap, _ = spread(group, "gap_to_ceiling")
        cost = f"{np.median([record['evaluations'] for record in group]):.0f}"
        rows.append([method, f"{guidance:g}", f"{median:.1e}", f"{p95:.1e}", f"{gap:.2f}", cost, str(len(group))])
    header = ["method", "guidance", "latent error", "p95", "dB below ceiling", "evaluations", "N"]
    note = "Relative RMS in latents; medians. Evaluations are those of the inversion."
    return Table("The way back", header, rows, note)


def edits(records: Sequence[Record]) -> Table:
    """Every arm at every skip."""
    own = [record for record in records if record["kind"] == "edit"]
    keys = [key for key in _COLUMNS if any(key in record for record in own)]
    rows = []
    for arm, skip in dict.fromkeys((record["arm"], record["skip"]) for record in own):
        group = [record for record in own if (record["arm"], record["skip"]) == (arm, skip)]
        row = [arm, "" if arm in CONTROLS[:3] else f"{skip:g}"]
        for key in keys:
            having = [record for record in group if key in record]
            row.append("{:.2f} ({:.2f})".format(*spread(having, key)) if having else "")
        seconds = np.median([record["timing"]["seconds"] for record in group])
        rows.append([*row, f"{np.median([record['evaluations'] for record in group]):.0f}", f"{seconds:.1f}"])
    header = ["arm", "skip", *(_COLUMNS[key] for key in keys), "evaluations", "seconds"]
    return Table("Edits", header, rows, "Median (p95). Seconds are those of the edit alone.")


def comparisons(records: Sequence[Record], ours: str) -> list[Table]:
    """At equal preservation, one arm against the others, with paired 95 % intervals over concepts."""
    tables = []
    names = list(dict.fromkeys(record["arm"] for record in records if record["kind"] == "edit"))
    others = [name for name in names if name != ours and name not in CONTROLS[:3]]
    for key in COMPARED:
        rows = []
        for other in others:
            differences = paired(records, ours, other, key)
            if not differences:
                continue
            interval = bootstrap(group_means(differences))
            better = interval.high < 0 if key == COMPARED[0] else interval.low > 0
            worse = interval.low > 0 if key == COMPARED[0] else interval.high < 0
            verdict = "better" if better else "worse" if worse else "no difference shown"
            verdict = "one concept: none" if interval.n == 1 else verdict
            rows.append([f"{ours} less {other}", str(interval), verdict, str(len(differences))])
        if rows:
            header = ["difference", "mean and 95 % interval", "verdict", "edits"]
            note = "Mean over the preservation (PSNR to source) that both arms reach; bootstrap over concepts."
            tables.append(Table(f"{ours} at equal preservation: {_COLUMNS[key]}", header, rows, note))
    return tables


def paired(records: Sequence[Record], ours: str, other: str, key: str) -> list[tuple[str, float]]:
    """Differences of a measure at equal preservation, one for each edit: (concept, ours minus other).

    Each arm's skips are points (PSNR to source, measure), joined by lines. The difference of the two lines is averaged
    over the PSNR that both reach; an edit where they reach none in common is left out.
    """
    found = []
    by_edit: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        if record["kind"] == "edit" and key in record and math.isfinite(record["source_psnr"]):
            arms = by_edit.setdefault((record["concept"], record["prompt"]), {})
            arms.setdefault(record["arm"], []).append((record["source_psnr"], record[key]))
    for (concept, _), arms in by_edit.items():
        if ours not in arms or other not in arms:
            continue
        mine, theirs = (np.array(sorted(arms[name])).T for name in (ours, other))
        low, high = max(mine[0, 0], theirs[0, 0]), min(mine[0, -1], theirs[0, -1])
        if low < high:
            places = np.linspace(low, high, 33)
            found.append((concept, float((np.interp(places, *mine) - np.interp(places, *theirs)).mean())))
    return found


def curve(records: Sequence[Record], key: str, label: str) -> Figure:
    """Preservation against edit: a line for each arm over its skips, its mark at the middle one; a cross for regenerating.

    Arms at half or all of the guidance have the colour of the arm that they are of, and are dashed.
    """
    from sentinv.bench.plots import plane

    own = [record for record in records if record["kind"] == "edit" and key in record]
    names = dict.fromkeys(record["arm"] for record in own if record["arm"] != "autoencoder")  # far from all others
    arms, paths, references = {}, {}, {}
    for arm in names:
        group = [record for record in own if record["arm"] == arm and math.isfinite(record["source_psnr"])]
        if not group:
            continue
        skips = list(dict.fromkeys(record["skip"] for record in group))
        points = [[record for record in group if record["skip"] == skip] for skip in skips]
        way = [(_mean(one, key), _mean(one, "source_psnr")) for one in points]
        if len(way) == 1:
            references[arm] = way[0]
        else:
            paths[arm] = way
            middle = skips[len(skips) // 2]
            arms[arm] = [(record[key], record["source_psnr"]) for record in group if record["skip"] == middle]
    labels = (label, "preservation (PSNR to source, dB) →")
    bases = {arm: arm.removesuffix("-half").removesuffix("-full") for arm in arms}
    variants = {arm: base for arm, base in bases.items() if base != arm and base in arms}
    return plane(arms, references=references, paths=paths, labels=labels, variants=variants)


def _mean(records: Sequence[Record], key: str) -> float:
    return float(np.mean([record[key] for record in records]))
