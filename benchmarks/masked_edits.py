"""Is the learned word what appears inside a mask? And is the outside left alone?

    python benchmarks/masked_edits.py benchmarks/results/evidence outputs/masked-edits.md --concepts fox snail

Each concept is put into the picture of the next one, where its own mask is: with its learned word (from the caption, seed 0),
with the words that it started from, and with the same prompt without any. The built-in CLIP looks at what is inside the mask,
on white: how near it is to what the concept's own picture has there, and whether it is nearest to the concept of all concepts
and things. What the concept's own picture has there stands beside them. The values of each concept are written as records that
`paired.py` reads, as ``learned@0``.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from judged import CONCEPTS, words_of
from PIL import Image, ImageFilter

from sentinv import Concept, load
from sentinv.bench.concepts import StudyConcept, read_concepts
from sentinv.bench.measuring import recogniser_of
from sentinv.concepts.prompts import fill
from sentinv.editing.masked import MaskConfig, edit_masked
from sentinv.evaluation.evaluate import RECONSTRUCTION_PROMPT, without_placeholder
from sentinv.evaluation.judges import ClipJudge
from sentinv.evaluation.recognition import Gallery
from sentinv.evaluation.statistics import bootstrap
from sentinv.files.images import read_image, read_mask, save_png
from sentinv.models.backbone import Backbone
from sentinv.report.contact_sheet import contact_sheet
from sentinv.report.tables import Table

IMAGES = 2
LEARNED, TRUE = "learned", "the thing itself"

Scores = dict[str, dict[str, list[float]]]
"""What is in the mask → measure → a value for each concept."""


def inside(image: Image.Image, mask: Image.Image) -> Image.Image:
    """What is in the mask, on white."""
    return Image.composite(image, Image.new("RGB", image.size, "white"), mask).crop(mask.getbbox())


def changed_outside(edited: Image.Image, source: Image.Image, mask: Image.Image, feather: int) -> int:
    """Pixels that differ from the source further from the mask than the feather."""
    reach = np.asarray(mask.filter(ImageFilter.MaxFilter(2 * feather + 1))) > 0
    differ = (np.asarray(edited) != np.asarray(source)).any(axis=2)
    return int((differ & ~reach).sum())


def edits(
    backbone: Backbone, learned: Concept, scene: Image.Image, mask: Image.Image, config: MaskConfig
) -> Iterator[tuple[str, list[Image.Image]]]:
    """What the mask is filled with, and the edited scenes of seeds 0, 1 …"""
    prompts: dict[str, tuple[str, list[Concept]]] = {
        LEARNED: (fill(RECONSTRUCTION_PROMPT, learned.token), [learned]),
        "start words": (fill(RECONSTRUCTION_PROMPT, learned.metadata["sentinv.initial_text"]), []),
        "no words": (without_placeholder(RECONSTRUCTION_PROMPT), []),
    }
    for name, (prompt, concepts) in prompts.items():
        configs = (replace(config, seed=seed) for seed in range(IMAGES))
        yield name, [edit_masked(backbone, scene, mask, prompt, concepts, one).image for one in configs]


def table_of(scores: Scores, note: str) -> Table:
    """The means, and what the learned word is more by."""
    columns = ["in the mask"]
    for measure in scores[LEARNED]:
        columns += [measure, "the learned word's less this"]
    rows = []
    for name, own in scores.items():
        less = {key: [a - b for a, b in zip(scores[LEARNED][key], own[key], strict=True)] for key in own}
        rows.append([name, *(str(bootstrap(values[key])) for key in own for values in (own, less))])
    return Table("Inside a mask", columns, rows, note)


def records_of(scores: Scores, names: list[str]) -> str:
    """The same for each concept, a line each."""
    lines = [
        {
            "settings": {"start": way, "concept": name, "seed": 0},
            "result": {"scores": [[0, {measure: values[index] for measure, values in own.items()}]]},
        }
        for way, own in scores.items()
        for index, name in enumerate(names)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def compare(study: Path, sources: list[StudyConcept], config: MaskConfig) -> tuple[Table, Scores, Image.Image]:
    """The table, what it is of, and the first edit of each kind to look at."""
    backbone, judge = load("toybox"), ClipJudge.load(base_model="toybox")
    gallery = Gallery.read(CONCEPTS.with_name("things.safetensors"))
    recogniser = recogniser_of(judge, read_concepts(CONCEPTS), gallery)
    words = words_of(study)
    scores: Scores = defaultdict(lambda: defaultdict(list))
    sheet, captions, strays = [], [], 0
    for one, other in zip(sources, [*sources[1:], sources[0]], strict=True):
        assert one.mask is not None
        picture, scene, mask = read_image(one.image).image, read_image(other.image).image, read_mask(one.mask)
        wanted = judge.images([inside(picture, mask)])
        sheet += [picture, scene]
        captions += [one.name, "scene"]
        for name, images in [*edits(backbone, words[one.name], scene, mask, config), (TRUE, [picture])]:
            found = judge.images([inside(image, mask) for image in images])
            scores[name]["clip_i"].append((found @ wanted[0]).mean().item())
            scores[name]["recognised"].append(recogniser.reads_as(found, one.name, one.same_as).float().mean().item())
            if name != TRUE:
                strays += sum(changed_outside(image, scene, mask, config.feather) for image in images)
                sheet.append(images[0])
                captions.append(name)
        told = (f"{name} {own['clip_i'][-1]:.3f}, {own['recognised'][-1]:.1f}" for name, own in scores.items())
        print(f"{one.name}: {'; '.join(told)}", flush=True)
    note = (
        f"{len(sources)} concepts, {IMAGES} seeds each, {config.steps} steps, --skip {config.skip:g}; mean [95 % interval]. "
        f"Pixels changed further than the feather from a mask: {strays}."
    )
    side = contact_sheet(
        [image.resize((96, 96), Image.Resampling.LANCZOS) for image in sheet], columns=5, captions=captions
    )
    return table_of(scores, note), scores, side


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path, help="folder with records and rows.safetensors")
    parser.add_argument("target", type=Path, help="Markdown file; records and pictures are beside it")
    parser.add_argument("--concepts", nargs="+", default=[], metavar="NAME", help="all if not given")
    parser.add_argument("--skip", type=float, default=MaskConfig.skip)
    given = parser.parse_args()
    sources = [one for one in read_concepts(CONCEPTS) if not given.concepts or one.name in given.concepts]
    table, scores, sheet = compare(given.study, sources, MaskConfig(skip=given.skip))
    given.target.write_text(table.markdown(), encoding="utf-8")
    given.target.with_suffix(".jsonl").write_text(records_of(scores, [one.name for one in sources]), encoding="utf-8")
    save_png(given.target.with_suffix(".png"), sheet, overwrite=True)
    print(table.markdown())


if __name__ == "__main__":
    main()
