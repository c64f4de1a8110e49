"""From which score on a captioner or classifier is to be believed: where its words are right more often than not.

Measured on deformed drawings of known things, which are to be named, and on things that it was not taught, which can't be.
The score that tells the two apart best goes into the model's config as `unsure_below`; `sentinv.initializers` reads it there.
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


class Seer(Protocol):
    """What names the things of pictures, with a score."""

    def several(self, images: Sequence[Image.Image]) -> list[Initialization]: ...


def best_threshold(known: torch.Tensor, unknown: torch.Tensor) -> float:
    """The score with the largest share of known things at or above it and of unknown ones below (Youden 1950).

    Args:
        known: `[N]` scores of what is to be believed.
        unknown: `[M]` scores of what is not.
    """
    candidates = torch.cat([known, unknown]).unique()
    shares = [(known >= score).float().mean() + (unknown < score).float().mean() for score in candidates]
    return round(candidates[torch.stack(shares).argmax()].item(), 4)


def unsure_below(seer: Seer, count: int = 1024) -> float:
    """The threshold of a captioner or classifier, on so many known and so many unknown things."""
    generator = torch.Generator().manual_seed(SEED)
    specs = world.sample_specs(count, SEED).replace(second=-1, second_drawing=0)
    specs, first = world.lesson(specs, 0.1, 1.0, generator)
    said = _said(seer, specs, first)
    names = [world.OBJECT_NAMES[i] for i in specs.object.tolist()]
    right = torch.tensor([f" {name} " in f" {one.text} " for name, one in zip(names, said, strict=True)])
    known = torch.tensor([one.score or 0.0 for one in said])[right]
    bank = art.wider_sprites().pixels
    strangers = bank[torch.randint(len(bank), (count,), generator=generator)].float() / 255
    others = _said(seer, specs, world.repaint(strangers, world.palette()[specs.colour]))
    return best_threshold(known, torch.tensor([one.score or 0.0 for one in others]))


def note_threshold(model: PreTrainedModel, folder: Path, seer: Seer) -> None:
    """Write the threshold into the config of a model that lies in a folder, where `seer` reads it."""
    model.config.unsure_below = unsure_below(seer)
    print(f"believed from a score of {model.config.unsure_below} on")
    model.config.save_pretrained(folder)


def _said(seer: Seer, specs: world.Specs, first: torch.Tensor) -> list[Initialization]:
    said = []
    for start in range(0, len(specs), 64):
        part = slice(start, start + 64)
        said += seer.several([to_pil_image(picture) for picture in world.render(specs[part], first[part])])
    return said
