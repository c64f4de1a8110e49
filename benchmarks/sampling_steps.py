"""How many DDIM steps are enough? Root mean square difference of pixels to the images of 200 steps, and to each other.

python benchmarks/sampling_steps.py            # the built-in model
python benchmarks/sampling_steps.py sd15       # another
"""

from __future__ import annotations

import sys

import numpy as np

from sentinv import load
from sentinv.generation.generate import GenerateConfig, generate

PROMPTS = ("a photo of a cat", "a red striped mug on the beach", "a watercolor of a teapot", "a small blue backpack")
COUNTS = (10, 15, 20, 25, 30, 50, 100)
FINEST = 200
SEEDS = 4


def pixels(model: object, steps: int) -> np.ndarray:
    """Images of all prompts and seeds, values in [0, 1]."""
    made = [
        np.asarray(image, np.float64) / 255
        for prompt in PROMPTS
        for image in generate(model, prompt, count=SEEDS, config=GenerateConfig(steps=steps))  # type: ignore[arg-type]
    ]
    return np.stack(made)


def main(name: str) -> None:
    """Measure and print."""
    model = load(name)
    finest = pixels(model, FINEST)
    found = {steps: pixels(model, steps) for steps in COUNTS}

    def rms(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.sqrt(((one - other) ** 2).mean(axis=(1, 2, 3)))

    print(f"{name}, {len(finest)} images; RMS of pixels in [0, 1]: mean [smallest, largest]")
    for steps, images in found.items():
        apart = rms(images, finest)
        print(f"{steps:4d} steps against {FINEST}: {apart.mean():.4f} [{apart.min():.4f}, {apart.max():.4f}]")
    apart = rms(found[25], found[50])
    print(f"  25 steps against 50: {apart.mean():.4f} [{apart.min():.4f}, {apart.max():.4f}]")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "toybox")
