"""Train an image tower for the generator's own text encoder: pictures go where their captions go.

The text encoder stays as the generator's training left it; only the tower learns, to put a picture near the encoded
captions of it and far from those of other pictures (Zhai et al. 2022, "LiT: Zero-Shot Transfer with Locked-image text
Tuning", with the sides changed). So starts in CLIP's space can be tried on this model as on Stable Diffusion 1, whose
text encoder is CLIP's. It shares weights with the generator and starts with the classifier's eyes, and so never judges.
"""

from __future__ import annotations

import click
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetForImageClassification,
)

from . import diffusion, world
from .eyes import hand_over, new_resnet, pixels, settle
from .fit import RUNS, Plan, fit, workers
from .latents import tokenise
from .lessons import jostle, load

FOLDER = RUNS / "tower" / "model"
PLAN = Plan(
    steps=1000, batch=128, lr=1e-3, matrix_lr=2e-3, warmup=60, decay_from=0.3, ema=0.998, seed=71, gpu_batch=512
)


def new_tower(width: int) -> ResNetForImageClassification:
    """An untrained residual network (see `eyes`) whose `width` outputs are the embedding."""
    return new_resnet({i: str(i) for i in range(width)})


class Scale(nn.Module):
    """The learned temperature of the comparison, as in CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor([2.66]))

    def forward(self, likeness: torch.Tensor) -> torch.Tensor:
        return likeness * self.log.exp().clamp(max=100)


@click.command()
def main() -> None:
    """Train the image tower."""
    me = workers()
    plan = PLAN.on(me.device)
    tokenizer = CLIPTokenizer.from_pretrained(diffusion.FOLDER / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(diffusion.FOLDER / "text_encoder", dtype=torch.float32).to(me.device).eval()
    tower, scale = new_tower(encoder.config.hidden_size).to(me.device), Scale().to(me.device)
    hand_over(tower.resnet)
    lessons = load("lessons")

    def compare(pictures: torch.Tensor, words: list[str]) -> torch.Tensor:
        with torch.no_grad():
            text = encoder(tokenise(tokenizer, words).to(me.device)).pooler_output.float()
        image = tower(pixels(pictures).to(me.device)).logits.float()
        return scale(F.normalize(image, dim=1) @ F.normalize(text, dim=1).T)

    def loss(step: int, chance: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        specs, pictures = lessons.draw(plan.batch // me.count, 0, chance)
        logits = compare(jostle(pictures, chance), world.captions(specs))
        own = torch.arange(len(logits), device=me.device)
        value = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return value, {"top1": (logits.argmax(1) == own).float().mean()}

    fit("tower", {"tower": tower, "scale": scale}, loss, plan)
    if me.first:
        settle(tower, lambda chance: lessons.draw(64, 0, chance)[1], me.device)
        specs = world.sample_specs(512, world.HELD_OUT_SEEDS[5]).replace(second=-1)
        with torch.no_grad():
            logits = compare(world.render(specs, device=me.device), world.plain_captions(specs))
        right = (logits.argmax(1).cpu() == torch.arange(len(specs))).float().mean()
        print(f"held-out: {right:.4f} of 512 pictures find their own caption")
        tower.save_pretrained(FOLDER)
        side = world.RESOLUTION
        CLIPImageProcessor(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ).save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
