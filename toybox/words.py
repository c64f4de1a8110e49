"""Measure words that the shipped model learns: one picture of each concept, a caption's word, a hundred steps.

Of the things that it knows, drawn by a hand that it does not know: how often is the word's picture that thing for the judge?
Of all concepts: how often is it this very concept, among all concepts and things?
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from PIL import Image
from torch.nn.functional import normalize

import sentinv
from sentinv.bench.concepts import StudyConcept, read_concepts
from sentinv.bench.measuring import recogniser_of
from sentinv.evaluation.judges import ClipJudge
from sentinv.evaluation.recognition import Gallery
from sentinv.files.images import read_image
from sentinv.initializers import make
from sentinv.models.backbone import Backbone
from sentinv.models.built_in import TOYBOX
from sentinv.report.contact_sheet import contact_sheet

from .concepts import FOLDER, all_concepts
from .measure import RESULTS, rate, write_report

PLAIN = "a photo of {}"
RECIPE = {"batch_size": 4, "blended": 0, "schedule": "constant"}
"""How words are learned here, whatever the defaults: the figures are of the model."""


def pictures_of(backbone: Backbone, source: StudyConcept, seed: int, count: int) -> tuple[str, list[list[Image.Image]]]:
    """Learn the word of a concept: what it started from, and so many pictures of the plain prompt and of each edit."""
    words = make("caption", TOYBOX)(read_image(source.image).image)
    concept = sentinv.invert(backbone, source.image, words, sentinv.TrainConfig(**RECIPE, seed=seed), token="<c>")
    prompts = [prompt.format("<c>") for prompt in (PLAIN, *source.edits)]
    said = f"{words.source}: {words.text}"
    return said, [sentinv.generate(backbone, prompt, [concept], count=count) for prompt in prompts]


@click.command()
@click.option("--count", default=4, show_default=True, help="Pictures of each prompt.")
@click.option("--seed", default=0, show_default=True, help="Of the training.")
@click.option("--results", default=RESULTS, type=click.Path(path_type=Path), help="Where words.json and words.jpg go.")
def main(count: int, seed: int, results: Path) -> None:
    """Learn a word of each concept and measure it."""
    backbone = sentinv.load(TOYBOX)
    judge, gallery = ClipJudge.load(base_model=TOYBOX), Gallery.read(FOLDER / "things.safetensors")
    sources = read_concepts(FOLDER / "concepts.json")
    recogniser = recogniser_of(judge, sources, gallery)
    found: dict[str, list[torch.Tensor]] = {}
    starts, sheet = {}, []
    for spec, source in zip(all_concepts(), sources, strict=True):
        starts[spec.name], groups = pictures_of(backbone, source, seed, count)
        sheet += [read_image(source.image).image, *(group[0] for group in groups)]
        for where, group in zip(("plain", *["edits"] * len(source.edits)), groups, strict=True):
            seen = judge.images(group)
            found.setdefault(f"{spec.kind}: the concept, {where}", []).append(
                recogniser.reads_as(seen, spec.name, source.same_as)
            )
            if spec.known:
                nearest = (seen @ normalize(gallery.prototypes, dim=1).T).argmax(1)
                found.setdefault(f"{spec.kind}: the thing, {where}", []).append(
                    nearest == gallery.names.index(spec.thing)
                )
        print(spec.name, starts[spec.name], flush=True)
    report = {
        "command": f"python -m toybox.words --count {count} --seed {seed}",
        "starts": starts,
        "recognised as": {name: rate(torch.cat(flags)) for name, flags in sorted(found.items())},
    }
    write_report(results / "words.json", report)
    heads = ["picture", "a photo of it", *(one.format("it") for one in sources[0].edits)]
    contact_sheet(sheet, columns=len(heads), captions=heads * len(sources)).save(results / "words.jpg", quality=88)


if __name__ == "__main__":
    main()
