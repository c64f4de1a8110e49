"""How many DDIM steps are enough? Root mean square difference of pixels to the images of many steps.

python benchmarks/sampling_steps.py                      # the built-in model, to 50 steps
python benchmarks/sampling_steps.py sd15 200 10 25 50    # another: to 200 steps, those of 10, 25 and 50
"""

from __future__ import annotations

import sys

import numpy as np

from sentinv import load
from sentinv.generation.generate import GenerateConfig, generate

PROMPTS = ("a photo of a cat", "a red striped mug on the beach", "a watercolor of a teapot", "a small blue backpack")
SEEDS = 4


def pixels(model: object, steps: int) -> np.ndarray:
    """Images of all prompts and seeds, values in [0, 1]."""
    made = [
        np.asarray(image, np.float64) / 255
        for prompt in PROMPTS
        for image in generate(model, prompt, count=SEEDS, config=GenerateConfig(steps=steps))  # type: ignore[arg-type]
    ]
    return np.stack(made)


def main(name: str = "toybox", finest: str = "50", *counts: str) -> None:
    """Measure and print."""
    model = load(name)
    wanted = pixels(model, int(finest))
    print(f"{name}, {len(wanted)} images; RMS of pixels in [0, 1] to those of {finest} steps: mean [smallest, largest]")
    for count in map(int, counts or ("25",)):
        apart = np.sqrt(((pixels(model, count) - wanted) ** 2).mean(axis=(1, 2, 3)))
        print(f"{count:4d} steps: {apart.mean():.4f} [{apart.min():.4f}, {apart.max():.4f}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
