"""Is the learned word what appears inside a mask? And is the outside left alone?

python benchmarks/masked_edits.py outputs/masked-edits.md

Each concept is put into the picture of the next one, where its own mask is: with its learned word, with the words that it
started from, and with the same prompt without any. Scored inside the mask by the built-in CLIP, against the concept's picture.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

import sentinv
from sentinv.bench.concepts import StudyConcept, read_concepts
from sentinv.concepts.concept import Concept
from sentinv.concepts.prompts import fill
from sentinv.editing.masked import MaskConfig, edit_masked
from sentinv.evaluation.evaluate import RECONSTRUCTION_PROMPT, without_placeholder
from sentinv.evaluation.judges import ClipJudge
from sentinv.evaluation.statistics import bootstrap
from sentinv.files.images import read_image, read_mask, save_png
from sentinv.initializers import make
from sentinv.models.backbone import Backbone
from sentinv.report.contact_sheet import contact_sheet
from sentinv.report.tables import Table

CONCEPTS = Path(__file__).resolve().parent / "concepts" / "concepts.json"
CONFIG = MaskConfig(steps=50, skip=0.0)
TOKEN = "<c>"


def inside(image: Image.Image, mask: Image.Image) -> Image.Image:
    """What is in the mask, on white."""
    return Image.composite(image, Image.new("RGB", image.size, "white"), mask).crop(mask.getbbox())


def changed_outside(edited: Image.Image, source: Image.Image, mask: Image.Image) -> int:
    """Pixels that differ from the source further from the mask than the feather."""
    reach = np.asarray(mask.filter(ImageFilter.MaxFilter(2 * CONFIG.feather + 1))) > 0
    differ = (np.asarray(edited) != np.asarray(source)).any(axis=2)
    return int((differ & ~reach).sum())


def prompts_of(backbone: Backbone, source: StudyConcept) -> dict[str, tuple[str, list[Concept]]]:
    """Learn a concept. What is compared → (prompt, the learned words in it)."""
    words = make("caption", "toybox")(read_image(source.image).image)
    learned = sentinv.invert(backbone, source.image, words, token=TOKEN)
    return {
        "learned word": (fill(RECONSTRUCTION_PROMPT, TOKEN), [learned]),
        "start words": (fill(RECONSTRUCTION_PROMPT, words.text), []),
        "no words": (without_placeholder(RECONSTRUCTION_PROMPT), []),
    }


def main(target: Path) -> None:
    backbone, judge = sentinv.load("toybox"), ClipJudge.load(base_model="toybox")
    sources = read_concepts(CONCEPTS)
    scores: dict[str, list[float]] = {}
    sheet, captions, strays = [], [], 0
    for one, other in zip(sources, [*sources[1:], sources[0]], strict=True):
        assert one.mask is not None
        picture, scene = (read_image(path).image for path in (one.image, other.image))
        mask = read_mask(one.mask)
        wanted = judge.images([inside(picture, mask)])
        sheet += [picture, scene]
        captions += [one.name, "scene"]
        for name, (prompt, concepts) in prompts_of(backbone, one).items():
            edited = [
                edit_masked(backbone, scene, mask, prompt, concepts, replace(CONFIG, seed=seed)).image
                for seed in range(2)
            ]
            found = judge.images([inside(image, mask) for image in edited]) @ wanted[0]
            scores.setdefault(name, []).append(found.mean().item())
            strays += sum(changed_outside(image, scene, mask) for image in edited)
            sheet.append(edited[0])
            captions.append(name)
        print(one.name, {name: round(values[-1], 3) for name, values in scores.items()}, flush=True)
    best = scores["learned word"]
    rows = [
        [name, str(bootstrap(values)), str(bootstrap([a - b for a, b in zip(best, values, strict=True)]))]
        for name, values in scores.items()
    ]
    note = (
        f"{len(sources)} concepts, 2 seeds each, 100 training steps, --skip {CONFIG.skip:g}; mean [95 % interval]. "
        f"Pixels changed further than the feather from a mask: {strays}."
    )
    table = Table("Inside a mask", ["prompt", "CLIP-I inside the mask", "the learned word's less this"], rows, note)
    target.write_text(f"{table.markdown()}\n`python benchmarks/masked_edits.py {target}`\n", encoding="utf-8")
    large = [image.resize((96, 96), Image.Resampling.LANCZOS) for image in sheet]
    save_png(target.with_suffix(".png"), contact_sheet(large, columns=5, captions=captions), overwrite=True)
    print(table.markdown())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
