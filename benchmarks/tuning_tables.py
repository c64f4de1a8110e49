"""Tables and sheets of the records that tuning.py has made."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from sentinv.bench.concepts import read_concepts
from sentinv.evaluation.statistics import bootstrap
from sentinv.files.images import read_image, save_png
from sentinv.report.contact_sheet import contact_sheet
from sentinv.report.tables import Table

MEASURES = {
    "recognised": "recognised",
    "clip_i": "CLIP-I, picture",
    "clip_i_views": "other views",
    "clip_i_edits": "edits to true targets",
    "clip_t": "CLIP-T",
    "right": "right scene or style",
    "rms": "RMS in the mask",
    "drift": "drift of other prompts",
    "others_right": "other objects right",
}


def records_of(folder: Path) -> list[dict[str, Any]]:
    path = folder / "records.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def tables(folder: Path, concepts: list[str] | None = None) -> str:
    """Means of all arms at every guidance, and what they differ by from the reference; of some concepts only, if named."""
    records = [record for record in records_of(folder) if not concepts or record["concept"] in concepts]
    told = {name: head for name, head in MEASURES.items() if any(name in record["scores"] for record in records)}
    parts = []
    for guidance in sorted({record["guidance"] for record in records}):
        own = [record for record in records if record["guidance"] == guidance]
        arms = list(dict.fromkeys(record["arm"] for record in own))
        means = [[arm, str(len(of(own, arm))), *(cell(mean(of(own, arm), name)) for name in told)] for arm in arms]
        heads = ["arm", "runs", *told.values()]
        reference = own[0]["reference"]
        differences = [
            [
                arm,
                str(len(paired(own, arm, reference, "clip_i"))),
                *(difference(own, arm, reference, m) for m in told),
            ]
            for arm in arms
            if arm != reference
        ]
        parts.append(Table(f"Guidance {guidance:g}", heads, means).markdown())
        if differences:
            heads = ["arm", "concepts", *told.values()]
            note = "Mean over concepts, each the mean over its seeds; 95 % bootstrap intervals over concepts."
            parts.append(Table(f"Guidance {guidance:g}: less {reference}", heads, differences, note).markdown())
    return "\n\n".join(parts) + "\n"


def of(records: list[dict[str, Any]], arm: str) -> dict[tuple[str, int], dict[str, float]]:
    return {(record["concept"], record["seed"]): record["scores"] for record in records if record["arm"] == arm}


def mean(runs: dict[tuple[str, int], dict[str, float]], name: str) -> float | None:
    values = [scores[name] for scores in runs.values() if name in scores]
    return sum(values) / len(values) if values else None


def cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def paired(records: list[dict[str, Any]], arm: str, reference: str, name: str) -> list[float]:
    """Differences to the reference, one per concept: the mean over its seeds."""
    mine, theirs = of(records, arm), of(records, reference)
    by_concept: dict[str, list[float]] = {}
    for (concept, seed), scores in mine.items():
        if (concept, seed) in theirs and name in scores:
            by_concept.setdefault(concept, []).append(scores[name] - theirs[concept, seed][name])
    return [sum(values) / len(values) for values in by_concept.values()]


def difference(records: list[dict[str, Any]], arm: str, reference: str, name: str) -> str:
    values = paired(records, arm, reference, name)
    if not values:
        return "-"
    interval = bootstrap(values)
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}], worst {min(values):+.3f}"


def sheets(folder: Path, pictures: Path) -> None:
    """One sheet for every concept, seed and guidance: a row for each arm, and the true pictures."""
    sources = {source.name: source for source in read_concepts(pictures)}
    groups: dict[tuple[str, int, float], list[dict[str, Any]]] = {}
    for record in records_of(folder):
        groups.setdefault((record["concept"], record["seed"], record["guidance"]), []).append(record)
    for (concept, seed, guidance), records in groups.items():
        source = sources[concept]
        true = [read_image(path).image for path in (source.image, *source.targets)]
        images, captions = [*true], ["picture", *(prompt.format("…") for prompt in source.edits)]
        for record in records:
            strip = read_image(folder / "images" / f"{record['key']}.png").image
            images += cut(strip, len(true), true[0].size)
            captions += [record["arm"], *[""] * (len(true) - 1)]
        large = [one.resize((128, 128), Image.Resampling.LANCZOS) for one in images]
        sheet = contact_sheet(large, columns=len(true), captions=captions)
        save_png(folder / f"sheet-{concept}-{seed}-{guidance:g}.png", sheet, overwrite=True)


def cut(strip: Image.Image, count: int, size: tuple[int, int]) -> list[Image.Image]:
    """The pictures of a strip again."""
    return [strip.crop((n * size[0], 0, (n + 1) * size[0], size[1])) for n in range(count)]
