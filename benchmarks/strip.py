"""The pictures of the README and of the guide to editing. Uncurated: defaults, but 300 steps for LoRAs; seed 0 throughout.

python benchmarks/strip.py docs/strip.png docs/editing.png
"""

import sys
from pathlib import Path

from PIL import Image

import sentinv
from sentinv.adapters.install import adapted
from sentinv.concepts.concept import Concept
from sentinv.editing.edit import ddim_invert, sweep
from sentinv.editing.masked import edit_masked
from sentinv.files.images import read_image, save_png
from sentinv.initializers import make
from sentinv.models.backbone import Backbone
from sentinv.report.contact_sheet import contact_sheet
from sentinv.training.config import TuneConfig
from sentinv.training.tune import tune

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PICTURES = {"cat.png": "<cat>", "teapot.png": "<teapot>", "backpack-1.png": "<backpack>"}
PROMPTS = ("a photo of {}", "a photo of {} on the moon", "a photo of {} in the snow", "a watercolor of {}")
HEADINGS = ("one picture", "its word", "word + LoRA", "… on the moon", "… in the snow", "a watercolor of …")
EDITS = ("a watercolor of <cat>", "a photo of <cat> in the snow", "a photo of <cat> on the moon")
SKIPS = (0.0, 0.2, 0.4, 0.6)
SIDE = 128


def strip(backbone: Backbone) -> tuple[Image.Image, Concept]:
    """One picture in, new pictures out, the first by the word alone; and the cat's concept."""
    initializer = make("caption", "toybox")
    images, concepts = [], []
    for name, token in PICTURES.items():
        path = EXAMPLES / name
        picture = read_image(path)
        concept = sentinv.invert(backbone, path, initializer(picture.image), token=token)
        tuned = tune(backbone, concept, picture, config=TuneConfig(steps=300))
        images += [picture.image, *sentinv.generate(backbone, PROMPTS[0].format(token), [concept])]
        with adapted(backbone, [(tuned.lora, 1.0)]):
            for prompt in PROMPTS:
                images += sentinv.generate(backbone, prompt.format(token), [tuned.concept])
        concepts.append(concept)
    return sheet(images, list(HEADINGS) * len(PICTURES), len(HEADINGS)), concepts[0]


def edits(backbone: Backbone, concept: Concept) -> Image.Image:
    """The cat's own picture, changed: a row for each prompt, a column for each skip; and inside its mask."""
    picture, mask = (read_image(EXAMPLES / name).image for name in ("cat.png", "cat-mask.png"))
    archive = ddim_invert(backbone, picture, "a photo of <cat>", [concept])
    images, captions = [], []
    for prompt in EDITS:
        images += [picture, *(one.image for one in sweep(backbone, archive, prompt, [concept], skips=SKIPS))]
        captions += [prompt.removeprefix("a photo of "), *(f"--skip {skip:g}" for skip in SKIPS)]
    for prompt in ("a dog", "a frog", "a pig", "a panda"):
        images.append(edit_masked(backbone, picture, mask.convert("L"), f"a photo of {prompt}").image)
    captions += ["--mask", "a photo of a dog", "… a frog", "… a pig", "… a panda"]
    images.insert(-4, mask.convert("RGB"))
    return sheet(images, captions, 1 + len(SKIPS))


def sheet(images: list[Image.Image], captions: list[str], columns: int) -> Image.Image:
    """All images, enlarged, with a caption each."""
    large = [image.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for image in images]
    return contact_sheet(large, columns=columns, captions=captions)


def main(readme: Path, guide: Path) -> None:
    backbone = sentinv.load("toybox")
    picture, concept = strip(backbone)
    save_png(readme, picture, overwrite=True)
    save_png(guide, edits(backbone, concept), overwrite=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
