"""Two arms of studies, paired by concept, from their records.

    python benchmarks/paired.py benchmarks/results/evidence caption@100 published@3000 --concepts flamingo chair
    python benchmarks/paired.py benchmarks/results/evidence caption@100 weighted@500 --other benchmarks/results/vanilla

The mean of each over the concepts that both have, seeds averaged first, and what the first is less the second, with 95 %
bootstrap intervals over concepts, and the lowest. The file of records may be named in place of its folder.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from sentinv.evaluation.statistics import bootstrap

MEASURES = ("recognised", "clip_i", "clip_i_views", "clip_i_edits", "clip_t", "right", "rms")

Scores = dict[str, dict[str, float]]
"""Concept → measure → mean over seeds."""


def read(path: Path, arm: str) -> Scores:
    """Scores of an arm, ``NAME@STEP``, by concept."""
    name, step = arm.rsplit("@", 1)
    file = path if path.is_file() else path / "records.jsonl"
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["settings"]["start"] != name:
            continue
        for at, scores in record["result"]["scores"]:
            if at == int(step):
                for measure in MEASURES:
                    if scores.get(measure) is not None:
                        found[record["settings"]["concept"]][measure].append(scores[measure])
    return {concept: {name: float(np.mean(own)) for name, own in of.items()} for concept, of in found.items()}


def told(values: list[float], sign: str = "") -> str:
    """A mean with its interval, as the tables have it."""
    one = bootstrap(values)
    return f"{one.mean:{sign}.3f} [{one.low:{sign}.3f}, {one.high:{sign}.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path, help="folder with records.jsonl, or such a file")
    parser.add_argument("first", metavar="ARM@STEP")
    parser.add_argument("second", metavar="ARM@STEP")
    parser.add_argument("--other", type=Path, metavar="STUDY", help="where the second is, if elsewhere")
    parser.add_argument("--concepts", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="not these")
    given = parser.parse_args()
    first, second = read(given.study, given.first), read(given.other or given.study, given.second)
    concepts = [
        name
        for name in sorted(first.keys() & second.keys())
        if name not in given.without and (given.concepts is None or name in given.concepts)
    ]
    print(f"{len(concepts)} concepts: {', '.join(concepts)}\n")
    print(f"| | {given.first} | {given.second} | first less second | lowest |\n|---|---|---|---|---|")
    for measure in MEASURES:
        both = [
            (first[one][measure], second[one][measure])
            for one in concepts
            if measure in first[one] and measure in second[one]
        ]
        if both:
            less = [one - other for one, other in both]
            cells = (told([one for one, _ in both]), told([other for _, other in both]), told(less, "+"))
            lack = "" if len(both) == len(concepts) else f" ({len(both)} concepts)"
            print(f"| {measure}{lack} | {' | '.join(cells)} | {min(less):+.3f} |")


if __name__ == "__main__":
    main()
