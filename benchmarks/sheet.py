"""What a study drew, to look at: a row for each concept, the picture first, then the images of some arms at their last step.

python benchmarks/sheet.py benchmarks/results/evidence benchmarks/results/evidence/sheet.jpg --arms caption:1,2 tuned

An arm is followed by the images that are shown of it: 1 is the plain prompt's, then those of the edits; all if none are named.
"""

import argparse
from pathlib import Path

from PIL import Image
from tuning_tables import cut

from sentinv.bench.concepts import read_concepts
from sentinv.bench.records import read_records
from sentinv.files.images import read_image
from sentinv.report.contact_sheet import contact_sheet

CONCEPTS = Path(__file__).resolve().parent / "concepts" / "concepts.json"


def sheet(folder: Path, arms: dict[str, list[int]], seed: int, side: int) -> Image.Image:
    sources = {source.name: source for source in read_concepts(CONCEPTS)}
    strips = {}
    for key, record in read_records(folder).items():
        settings, scores = record["settings"], record["result"]["scores"]
        path = folder / "images" / f"{key}-{scores[-1][0]}.png" if scores else Path()
        if settings["start"] in arms and settings["seed"] == seed and path.is_file():
            strips[settings["concept"], settings["start"]] = read_image(path).image
    images, captions, rows = [], [], 0
    for name, source in sources.items():
        if all((name, arm) in strips for arm in arms):
            rows += 1
            images, captions = [*images, read_image(source.image).image], [*captions, name]
            edits = [prompt.format("…").removeprefix("a photo of ") for prompt in source.edits]
            for arm, shown in arms.items():
                strip, count = strips[name, arm], 1 + len(edits)
                every = list(zip(cut(strip, count, (strip.width // count, strip.height)), [arm, *edits], strict=True))
                chosen = [every[n - 1] for n in shown] or every
                images, captions = images + [one for one, _ in chosen], captions + [told for _, told in chosen]
    columns = len(images) // max(1, rows)
    if not rows:
        raise SystemExit(
            f"expected images of {', '.join(arms)} in {folder / 'images'}, got none: run the study there first"
        )
    large = [image.resize((side, side), Image.Resampling.LANCZOS) for image in images]
    return contact_sheet(large, columns=columns, captions=captions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--arms", nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=128)
    given = parser.parse_args()
    split = [name.partition(":") for name in given.arms]
    arms = {name: [int(n) for n in shown.split(",") if n] for name, _, shown in split}
    drawn = sheet(given.folder, arms, given.seed, given.side)
    drawn.save(given.output, quality=82, optimize=True)


if __name__ == "__main__":
    main()
