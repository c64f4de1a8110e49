"""What the records of a study say: tables, figures, and one page."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any

from sentinv.bench import plots
from sentinv.bench.arms import (
    MEASURES,
    REFERENCE_NAMES,
    Arm,
    arms,
    longest_vanilla,
    measures,
    of_all_concepts,
    references,
    short,
)
from sentinv.bench.beside import ends_table, less_tables
from sentinv.bench.records import Record
from sentinv.bench.runner import StudyOutcome
from sentinv.bench.study import Study
from sentinv.bench.study_tables import (
    SCORES,
    crossing_table,
    gain_table,
    loss_table,
    recognised_table,
    score_tables,
    spread_table,
    trade_table,
)
from sentinv.evaluation.statistics import Curve, levelled, mean_curve
from sentinv.files.atomic import atomic_write, make_folder
from sentinv.report.tables import Table
from sentinv.version import __version__

_SHOWN = ("steps", "learning_rate", "schedule", "betas", "batch_size", "min_snr", "pull", "flip", "kind")
"""Hyper-parameters that a report tells; runs of older versions have some that there are no more."""


def write_report(study: Study, outcome: StudyOutcome, folder: str | Path, *, notes: Mapping[str, str]) -> list[Table]:
    """Write ``report.html``, ``tables.md`` and the figures into a folder.

    Args:
        study: what was asked.
        outcome: its records and failures.
        folder: where to; what is there is replaced.
        notes: name → what a reader has to know: model, judge, machine, command, date.

    Returns:
        The tables, for the terminal.

    Raises:
        SentinvError: If a file can't be written.
    """
    folder = make_folder(folder)
    found = arms(outcome.records)
    pictures = _figures(found, outcome.records, folder, study.convergence)
    kinds = measures(found) if any(record["result"]["losses"] for record in outcome.records) else []
    reached = (
        [recognised_table(found), *(crossing_table(found, measure) for measure in kinds)] if study.convergence else []
    )
    tables = [table for table in (*reached, ends_table(found)) if table is not None] + less_tables(found)
    tables += [loss_table(found, measure) for measure in kinds]
    tables += score_tables(found, outcome.records)
    tables += [table for table in (gain_table(found), trade_table(found), spread_table(found)) if table is not None]
    facts = {**_facts(study, outcome), **notes, **_origins(outcome.records)}
    markdown = "\n".join([f"## {study.title}\n", *(table.markdown() for table in tables), _facts_markdown(facts)])
    atomic_write(folder / "tables.md", markdown.encode(), overwrite=True)
    page = _page(study, outcome, tables, pictures, facts)
    atomic_write(folder / "report.html", page.encode(), overwrite=True)
    return tables


def _figures(found: Sequence[Arm], records: Sequence[Record], folder: Path, convergence: bool) -> dict[str, Path]:
    """Caption → PNG."""
    pictures: dict[str, Path] = {}
    every, found = found, of_all_concepts(found)
    left = " Arms that lack a concept are in the tables alone." if len(found) < len(every) else ""

    def keep(figure: Any, stem: str, caption: str) -> None:
        pictures[caption + left] = plots.save_figure(figure, folder, stem)[0]

    for stem, (caption, panel) in (panels := _panels(found) if convergence else {}).items():
        keep(plots.curves(panel), stem, caption)
    if "clip-i" in panels and "summary" not in panels:
        plots.save_figure(plots.curves(next(iter(panels.values()))[1], panels["clip-i"][1]), folder, "summary")
    points, ways = {}, {}
    for arm in found:
        x, y = arm.score_curves("clip_t"), arm.score_curves("clip_i")
        pairs = [(dict(x[name]), dict(y[name])) for name in x if name in y]
        if shared := sorted(set.intersection(*({*a} & {*b} for a, b in pairs))) if pairs else []:
            points[arm.label] = [(a[shared[-1]], b[shared[-1]]) for a, b in pairs]
            ways[arm.label] = [(mean(a[step] for a, _ in pairs), mean(b[step] for _, b in pairs)) for step in shared]
    if points:
        figure = plots.plane(points, references=references(records, "clip_t", "clip_i"), paths=ways)
        keep(
            figure,
            "plane",
            "Reconstruction and editability after the last measured step; the lines show the way there.",
        )
    return pictures


def _panels(found: Sequence[Arm]) -> dict[str, tuple[str, plots.Panel]]:
    """Stem of a file → caption and curves: losses, the one that is minimised first, and scores."""
    panels = {}
    band = (
        "mean over concepts, 95 % band; where several starts have the same concepts, each concept's own level is taken out "
        "(Cousineau 2005; Morey 2008)"
    )
    for measure in reversed(measures(found)):
        own = {arm.label: arm.curves(measure) for arm in found}
        if losses := _levelled(own, 3):
            name = MEASURES[measure]
            panel = plots.Panel(arms=losses, ylabel=f"{name} on the fixed grid", level=_level(found, measure))
            panels[name.replace(" ", "-")] = (f"{name.capitalize()} on the fixed grid: {band}.", panel)
    timed = {arm.label: _over_seconds(arm, "recognised") for arm in found}
    if timed := {label: curves for label, curves in timed.items() if curves}:
        over = "mean over concepts, 95 % band, over seconds of training, median of the runs that were timed"
        caption = f"{SCORES['recognised']}: {over}."
        panels["summary"] = (caption, plots.Panel(arms=timed, ylabel="recognised", seconds=True))
    for score, stem in (("clip_i", "clip-i"), ("clip_t", "clip-t")):
        if curves := _levelled({arm.label: arm.score_curves(score) for arm in found}, 2):
            caption = f"{SCORES[score]}: {band}."
            panels[stem] = (caption, plots.Panel(arms=curves, ylabel=SCORES[score].split(": ")[1]))
    return panels


def _levelled(own: Mapping[str, Mapping[str, Curve]], points: int) -> dict[str, list[list[tuple[int, float]]]]:
    """Those arms that have a curve of so many points, levelled."""
    return levelled({label: curves for label, curves in own.items() if any(len(c) >= points for c in curves.values())})


def _over_seconds(arm: Arm, score: str) -> list[list[tuple[float, float]]]:
    """The curve of each concept, over how long the arm takes to the step; none where that was not taken."""
    curves = arm.score_curves(score).values()
    seconds = {step: arm.seconds_at(step) for curve in curves for step, _ in curve if step}
    timed = [[(taken, value) for step, value in curve if (taken := seconds.get(step))] for curve in curves]
    return [curve for curve in timed if curve]


def _level(found: Sequence[Arm], measure: str) -> tuple[str, float] | None:
    """The loss that vanilla has in the end."""
    vanilla = longest_vanilla(found)
    curves = list(vanilla.curves(measure).values()) if vanilla is not None else []
    whole = mean_curve(curves) if curves else []
    return (f"{vanilla.start} at {whole[-1][0]}", whole[-1][1]) if vanilla is not None and whole else None


def _facts(study: Study, outcome: StudyOutcome) -> dict[str, str]:
    settings = [record["settings"] for record in outcome.records]
    concepts = list(dict.fromkeys(one["concept"] for one in settings))
    scales = {one["sampling"][1] for one in settings if "sampling" in one}
    stops = Counter(record["result"].get("stop", "steps") for record in outcome.records)
    early = "".join(f", {count} ended early: {why}" for why, count in stops.items() if why != "steps")
    facts = {
        "runs": f"{len(outcome.records)} done, {outcome.missing} of other parts missing, {len(outcome.failures)} failed{early}",
        "concepts": f"{len(concepts)}: {', '.join(concepts)}",
        "seeds": ", ".join(map(str, study.seeds)),
        "interval": "95 % percentile bootstrap over concepts, 10000 resamples (2000 for steps), seed 0; one concept: none",
        "sentinv": __version__,
    }
    if scales:
        facts |= {
            "images": f"{study.count} per prompt with seeds 0 to {study.count - 1}, {study.sampling_steps} DDIM steps"
            + ", in bfloat16" * study.bfloat16_images
            + "".join(
                f", guidance {scale:g}" if scale is not None else ", the model's own guidance" for scale in scales
            ),
            "CLIP-I": "mean over pairs of cos(CLIP(generated), CLIP(image))",
            "CLIP-T": "cos(mean of CLIP(generated), CLIP(prompt without placeholder)): the more images, the larger; the "
            "references but for prompt only have one image per prompt",
            "CLIP-T of single images": "mean of cos(CLIP(generated), CLIP(prompt without placeholder))",
        }
    if settings:
        train = settings[0]["train"]
        grid = (
            f"{train['evaluation_timesteps']} timesteps by {train['evaluation_noises']} noises, the same for all runs"
        )
        facts["loss"] = f"mean squared error on {grid}; image's mean latents; rows of that very step; weighted: min-SNR"
        there = [name for name in _SHOWN if any(name in one["train"] for one in settings)]
        facts["hyper-parameters"] = ", ".join(f"{name} {_values(settings, name)}" for name in there)
    return facts | {f"arm {name}": _declared(arm) for name, arm in study.arms.items()}


def _declared(arm: Mapping[str, Any]) -> str:
    """An arm as the study has it, for people: ``vanilla@5000; train: learning_rate 0.002; tune: defaults``."""
    tables = {
        name: ", ".join(f"{key} {value}" for key, value in arm[name].items())
        for name in ("train", "tune")
        if name in arm
    }
    return "; ".join([arm["start"], *(f"{name}: {told or 'defaults'}" for name, told in tables.items())])


def _origins(records: Sequence[Record]) -> dict[str, str]:
    """Where and when the runs were made, as far as they say so: this need not be where the report is."""
    found = {}
    for name in ("machine", "date"):
        said = [record["timing"][name] for record in records if name in record["timing"]]
        if said:
            some = (
                f" (of {len(said)} of {len(records)} runs; older ones do not say)" if len(said) < len(records) else ""
            )
            found[name] = "; ".join(sorted(set(said))) + some
    return found


def _values(settings: Sequence[Mapping[str, Any]], name: str) -> str:
    """A hyper-parameter as the runs have it; references, which train nothing, only where there are no others."""
    trained = [one for one in settings if one["start"] not in REFERENCE_NAMES] or settings
    return " or ".join(dict.fromkeys(short(one["train"][name]) for one in trained if name in one["train"]))


def _facts_markdown(facts: Mapping[str, str]) -> str:
    return "\n".join(["### How", "", *(f"- **{name}**: {value}" for name, value in facts.items()), ""])


def _page(
    study: Study, outcome: StudyOutcome, tables: Sequence[Table], pictures: Mapping[str, Path], facts: Mapping[str, str]
) -> str:
    figures = "".join(
        f"<figure><img alt='{escape(caption)}' src='data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, path in pictures.items()
    )
    failed = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in outcome.failures)
    failures = f"<section class='failed'><h2>Failed</h2><ul>{failed}</ul></section>" if failed else ""
    how = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    question = f"<p class='question'>{escape(study.question)}</p>" if study.question else ""
    body = "".join(table.html() for table in tables)
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{escape(study.title)}</title><style>{_CSS}</style><main><h1>{escape(study.title)}</h1>{question}"
        f"{failures}<div class='figures'>{figures}</div>{body}<section><h2>How</h2><dl>{how}</dl></section></main></html>\n"
    )


_CSS = """
:root{color-scheme:light dark}
body{margin:0;font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff}
main{max-width:62rem;margin:0 auto;padding:2rem 1rem 4rem}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.1rem;margin:2.2rem 0 .5rem}
.question{color:#555;margin:0 0 1rem}.note,figcaption{color:#666;font-size:.85rem}
figure{margin:1.5rem 0}img{max-width:100%;background:#fff;border-radius:4px}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem;width:100%}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid #8883;white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #8888;white-space:normal;vertical-align:bottom}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;font-size:.85rem}dt{color:#666}dd{margin:0}
.failed{border-left:4px solid #D55E00;padding-left:1rem}
@media (prefers-color-scheme:dark){body{color:#ddd;background:#161616}.question,.note,figcaption,dt{color:#999}}
"""
