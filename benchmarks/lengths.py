"""Are words better with their rows brought back to the usual length, once they are learned?

    python benchmarks/lengths.py benchmarks/results/evidence --concepts fox snail   # a minute of one core for each concept

The words of a study (from the caption, seed 0, by our defaults), as they are, and with every row at once, at twice and at three
times the median length of the vocabulary's rows; the direction stays.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from judged import compare

from sentinv import Concept
from sentinv.generation.generate import GenerateConfig
from sentinv.models.backbone import Backbone

SAMPLING = GenerateConfig(steps=15)
WAYS = {"as learned": None, "once the usual length": 1.0, "twice": 2.0, "three times": 3.0}


def used(backbone: Backbone, concept: Concept, times: float | None) -> tuple[Concept, GenerateConfig]:
    """A word with rows of so many usual lengths, and how it is drawn; None leaves it as it is."""
    usual = {encoder.name: encoder.median_norm for encoder in backbone.text_encoders}
    lengths = {name: rows.norm(dim=1, keepdim=True) / usual[name] for name, rows in concept.rows.items()}
    if times is None:
        told = ", ".join(f"{value:.2f}" for value in next(iter(lengths.values())).flatten().tolist())
        print(f"usual lengths of its rows: {told}")
        return concept, SAMPLING
    return replace(concept, rows={name: rows / lengths[name] * times for name, rows in concept.rows.items()}), SAMPLING


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path, help="folder with records and rows.safetensors")
    parser.add_argument("--concepts", nargs="+", default=[], metavar="NAME", help="all of the study if not given")
    given = parser.parse_args()
    compare(given.study, {label: partial(used, times=times) for label, times in WAYS.items()}, only=given.concepts)


if __name__ == "__main__":
    main()
