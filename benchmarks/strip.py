"""The picture strip of the README: one picture in, new pictures out. Uncurated: seed 0 throughout.

python benchmarks/strip.py docs/strip.png
"""

import sys
from pathlib import Path

from PIL import Image

import sentinv
from sentinv.images import grid, read_image, save_png
from sentinv.initializers import make

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PICTURES = {"cat.png": "<cat>", "teapot.png": "<teapot>", "backpack-1.png": "<backpack>"}
PROMPTS = ("a photo of {}", "a photo of {} on the moon", "a photo of {} in the snow", "a watercolor of {}")
HEADINGS = ("one picture", "start words", "learned word", "… on the moon", "… in the snow", "a watercolor of …")
SIDE = 128


def main(target: Path) -> None:
    backbone = sentinv.load("toybox")
    initializer = make("caption", "toybox")
    config = sentinv.GenerateConfig()
    images = []
    for name, token in PICTURES.items():
        path = EXAMPLES / name
        picture = read_image(path).image
        words = initializer(picture)
        concept = sentinv.invert(backbone, path, words, token=token)
        images += [picture, *sentinv.generate(backbone, PROMPTS[0].format(words.text), config=config)]
        for prompt in PROMPTS:
            images += sentinv.generate(backbone, prompt.format(token), [concept], config=config)
    large = [image.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for image in images]
    captions = list(HEADINGS) * len(PICTURES)
    save_png(target, grid(large, columns=len(HEADINGS), captions=captions), overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
