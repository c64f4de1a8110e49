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
from learned import word

from sentinv import load
from sentinv.bench.concepts import read_concepts
from sentinv.bench.measuring import ConceptPictures, Measuring
from sentinv.bench.records import read_records
from sentinv.evaluation.judges import AttributeJudge, ClipJudge
from sentinv.evaluation.recognition import Gallery, Recogniser
from sentinv.evaluation.statistics import bootstrap
from sentinv.files.images import read_image
from sentinv.generation.generate import GenerateConfig, generate
from sentinv.models.built_in import built_in

CONCEPTS = Path(__file__).resolve().parent / "concepts" / "concepts.json"
PROMPTS = ("a photo of a cat", "a red striped mug on the beach", "a watercolor of a teapot", "a small blue backpack")
SEEDS = 4
MEASURES = ("recognised", "clip_i", "clip_i_views", "clip_i_edits", "clip_t", "right", "rms")


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
    backbone, clip = load(name), ClipJudge.load(base_model=name)
    concepts = {one.name: one for one in read_concepts(CONCEPTS)}
    views = {concept: [read_image(path).image for path in one.views] for concept, one in concepts.items()}
    recogniser = Recogniser.of(clip, views, Gallery.read(CONCEPTS.with_name("things.safetensors")))
    attributes = AttributeJudge.load(built_in("attributes"))
    keys = {
        record["settings"]["concept"]: key
        for key, record in read_records(study).items()
        if (record["settings"]["start"], record["settings"]["seed"]) == ("caption", 0)
        and record["settings"]["concept"] in (only or concepts)
    }
    found: dict[int, list[list[float]]] = {steps: [] for steps in (finest, *counts)}
    for concept, key in sorted(keys.items()):
        for steps, rows in found.items():
            how = Measuring(
                judge=clip,
                lpips=None,
                count=2,
                sampling=GenerateConfig(steps=steps),
                recogniser=recogniser,
                attributes=attributes,
            )
            scores = ConceptPictures(concepts[concept], how, (backbone.resolution,) * 2).scores(
                backbone, word(study, key)[0]
            )
            rows.append([scores[measure] for measure in MEASURES])
            told = ", ".join(f"{measure} {value:.3f}" for measure, value in zip(MEASURES, rows[-1], strict=True))
            print(f"{concept}, {steps} steps: {told}", flush=True)
    print(f"\n| {len(keys)} concepts | {' | '.join(MEASURES)} |\n|---|{'---|' * len(MEASURES)}")
    best = np.array(found[finest])
    for steps, rows in found.items():
        values, sign = (np.array(rows), "") if steps == finest else (np.array(rows) - best, "+")
        cells = [bootstrap(column) for column in values.T]
        texts = [f"{one.mean:{sign}.3f} [{one.low:{sign}.3f}, {one.high:{sign}.3f}]" for one in cells]
        print(f"| {steps} steps{'' if steps == finest else f' less {finest}'} | {' | '.join(texts)} |")


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
