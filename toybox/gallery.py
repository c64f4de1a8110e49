"""Draw every known thing many times, and keep what the shipped judge makes of it: what a picture could be taken for.

Studies take it, as `things.safetensors` beside the concepts, to tell whether a picture shows the concept or something else. It
is of one judge, and so it is made after `package`.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torchvision.transforms.functional import to_pil_image

from sentinv.evaluation.judges import ClipJudge
from sentinv.evaluation.recognition import Gallery, prototype
from sentinv.models.built_in import TOYBOX

from . import world
from .concepts import FOLDER


@torch.no_grad()
def gallery(each: int = 48) -> Gallery:
    """The prototype of every known thing: the shipped judge's mean over so many pictures of it by all training hands."""
    judge = ClipJudge.load(base_model=TOYBOX)
    prototypes = []
    for thing in range(len(world.OBJECT_NAMES)):
        specs = world.sample_specs(each, world.HELD_OUT_SEEDS[3000 + thing])
        things = torch.full_like(specs.object, thing)
        drawing, hand = world.choose(
            things, specs.hand, torch.rand(each, generator=torch.Generator().manual_seed(thing))
        )
        plain = {"colour": 0, "pattern": 0, "style": 0, "second": -1, "second_drawing": 0}
        specs = specs.replace(object=things, drawing=drawing, hand=hand, signed=False, **plain)
        prototypes.append(prototype(judge, [to_pil_image(picture) for picture in world.render(specs)]))
    return Gallery(world.OBJECT_NAMES, torch.stack(prototypes), judge.digest)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, help="Where it goes.")
def main(folder: Path) -> None:
    """Write things.safetensors into benchmarks/concepts."""
    gallery().save(folder / "things.safetensors")


if __name__ == "__main__":
    main()
