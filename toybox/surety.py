"""From which score on a captioner or classifier is to be believed: where nearly all that it says rightly lies.

Measured on deformed drawings of known things, which are to be named. A right name that is not believed costs more than a wrong
one that is: a word from another picture's caption ends nearer to the picture than one from `*` (benchmarks/first-edition).
The score goes into the model's config as `unsure_below`; `sentinv.initializers` reads it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image
from transformers import PreTrainedModel

from sentinv.concepts.initialization import Initialization

from . import art, world

SEED = world.HELD_OUT_SEEDS[40]
BELIEVED = 0.95
"""Share of the right names that is to be believed."""


class Seer(Protocol):
    """What names the things of pictures, with a score."""

    def several(self, images: Sequence[Image.Image]) -> list[Initialization]: ...


def unsure_below(seer: Seer, count: int = 1024) -> tuple[float, float]:
    """The score that `BELIEVED` of the right names of so many pictures reach, and the share of unknown things that don't."""
    generator = torch.Generator().manual_seed(SEED)
    specs = world.sample_specs(count, SEED).replace(second=-1, second_drawing=0)
    specs, first = world.lesson(specs, 0.1, 1.0, generator)
    said = _said(seer, specs, first)
    names = [world.OBJECT_NAMES[i] for i in specs.object.tolist()]
    right = [one.score or 0.0 for name, one in zip(names, said, strict=True) if f" {name} " in f" {one.text} "]
    threshold = torch.tensor(right).quantile(1 - BELIEVED).item()
    bank = art.wider_sprites().pixels
    strangers = bank[torch.randint(len(bank), (count,), generator=generator)].float() / 255
    others = _said(seer, specs, world.repaint(strangers, world.palette()[specs.colour]))
    return round(threshold, 4), sum((one.score or 0.0) < threshold for one in others) / count


def note_threshold(model: PreTrainedModel, folder: Path, seer: Seer) -> None:
    """Write the threshold into the config of a model that lies in a folder, where `seer` reads it."""
    model.config.unsure_below, doubted = unsure_below(seer)
    print(f"believed from a score of {model.config.unsure_below} on, which {doubted:.2f} of strange things don't reach")
    model.config.save_pretrained(folder)


def _said(seer: Seer, specs: world.Specs, first: torch.Tensor) -> list[Initialization]:
    said = []
    for start in range(0, len(specs), 64):
        part = slice(start, start + 64)
        said += seer.several([to_pil_image(picture) for picture in world.render(specs[part], first[part])])
    return said
