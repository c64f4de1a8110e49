"""What the judge says of a study's words where they are used in other ways: what scripts beside it share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from learned import word

from sentinv import Concept, load
from sentinv.bench.concepts import read_concepts
from sentinv.bench.measuring import ConceptPictures, Measuring, recogniser_of
from sentinv.bench.records import read_records
from sentinv.evaluation.judges import AttributeJudge, ClipJudge
from sentinv.evaluation.recognition import Gallery
from sentinv.evaluation.statistics import bootstrap
from sentinv.generation.generate import GenerateConfig
from sentinv.models.backbone import Backbone
from sentinv.models.built_in import built_in

CONCEPTS = Path(__file__).resolve().parent / "concepts" / "concepts.json"
MEASURES = ("recognised", "clip_i", "clip_i_views", "clip_i_edits", "clip_t", "right", "rms")
IMAGES = 2

Way = Callable[[Backbone, Concept], tuple[Concept, GenerateConfig]]
"""The word to use, and how to sample."""


def words_of(study: Path) -> dict[str, Concept]:
    """Concept → the word that a study learned of it, from the caption, seed 0."""
    wanted = {
        key: record["settings"]["concept"]
        for key, record in read_records(study).items()
        if (record["settings"]["start"], record["settings"]["seed"]) == ("caption", 0)
    }
    return {concept: word(study, key)[0] for key, concept in wanted.items()}


def compare(study: Path, ways: Mapping[str, Way], *, only: Sequence[str] = (), name: str = "toybox") -> None:
    """Print a table: the concepts' mean by the first way, and what each other is less that, with 95 % intervals over concepts.

    Args:
        study: folder with records and rows.safetensors; of it the words from the caption, seed 0.
        ways: label → how a word is used.
        only: concepts; all that the study has if there are none.
        name: of the model.
    """
    backbone, clip = load(name), ClipJudge.load(base_model=name)
    concepts = {one.name: one for one in read_concepts(CONCEPTS)}
    recogniser = recogniser_of(clip, concepts.values(), Gallery.read(CONCEPTS.with_name("things.safetensors")))
    attributes = AttributeJudge.load(built_in("attributes"))
    words = {concept: learned for concept, learned in words_of(study).items() if concept in (only or concepts)}
    found: dict[str, list[list[float]]] = {label: [] for label in ways}
    for concept, learned in sorted(words.items()):
        for label, rows in found.items():
            used, sampling = ways[label](backbone, learned)
            how = Measuring(
                judge=clip, lpips=None, count=IMAGES, sampling=sampling, recogniser=recogniser, attributes=attributes
            )
            scores = ConceptPictures(concepts[concept], how, (backbone.resolution,) * 2).scores(backbone, used)
            rows.append([scores[measure] for measure in MEASURES])
            told = ", ".join(f"{measure} {value:.3f}" for measure, value in zip(MEASURES, rows[-1], strict=True))
            print(f"{concept}, {label}: {told}", flush=True)
    first = next(iter(ways))
    print(f"\n| {len(words)} concepts | {' | '.join(MEASURES)} |\n|---|{'---|' * len(MEASURES)}")
    for label, rows in found.items():
        values, sign = (np.array(rows), "") if label == first else (np.array(rows) - np.array(found[first]), "+")
        cells = [bootstrap(column) for column in values.T]
        texts = [f"{one.mean:{sign}.3f} [{one.low:{sign}.3f}, {one.high:{sign}.3f}]" for one in cells]
        print(f"| {label}{'' if label == first else f' less {first}'} | {' | '.join(texts)} |")
