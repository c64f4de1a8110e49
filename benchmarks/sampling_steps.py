"""How many DDIM steps are enough?

python benchmarks/sampling_steps.py                      # the built-in model: its images of 25 steps, against those of 50
python benchmarks/sampling_steps.py sd15 200 10 25 50    # another: to 200 steps, those of 10, 25 and 50
python benchmarks/sampling_steps.py toybox 50 25 15 --judged benchmarks/results/evidence   # half an hour on one core

By default the root mean square difference of pixels to the images of the most steps. With `--judged`, what the judge says of
images that have the words of a study (from the caption, seed 0, by our defaults), two of each prompt: the concept's mean, and
the differences to the most steps with their 95 % intervals over concepts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from judged import compare

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


def compared(name: str, finest: int, counts: list[int]) -> None:
    model = load(name)
    wanted = pixels(model, finest)
    print(f"{name}, {len(wanted)} images; RMS of pixels in [0, 1] to those of {finest} steps: mean [smallest, largest]")
    for count in counts:
        apart = np.sqrt(((pixels(model, count) - wanted) ** 2).mean(axis=(1, 2, 3)))
        print(f"{count:4d} steps: {apart.mean():.4f} [{apart.min():.4f}, {apart.max():.4f}]")


def judged(name: str, finest: int, counts: list[int], study: Path, only: list[str]) -> None:
    ways = {
        f"{steps} steps": lambda backbone, concept, steps=steps: (concept, GenerateConfig(steps=steps))
        for steps in (finest, *counts)
    }
    compare(study, ways, only=only, name=name)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="toybox")
    parser.add_argument("finest", nargs="?", type=int, default=50)
    parser.add_argument("counts", nargs="*", type=int, default=[25])
    parser.add_argument("--judged", type=Path, metavar="STUDY", help="folder with records and rows.safetensors")
    parser.add_argument(
        "--concepts", nargs="+", default=[], metavar="NAME", help="of its words, only those; all if not given"
    )
    given = parser.parse_args()
    if given.judged is None:
        compared(given.model, given.finest, given.counts or [25])
    else:
        judged(given.model, given.finest, given.counts or [25], given.judged, given.concepts)


if __name__ == "__main__":
    main()
