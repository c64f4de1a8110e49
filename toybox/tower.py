"""Train an image tower for the generator's own text encoder: pictures go where their captions go.

The text encoder stays as the generator's training left it; only the tower learns, to put a picture near the encoded
captions of it and far from those of other pictures (Zhai et al. 2022, "LiT: Zero-Shot Transfer with Locked-image text
Tuning", with the sides changed). They are compared in whitened space: the encoder was trained to be attended to, not to be
compared, and the encoded captions of a cat and of a dog have a cosine of .9998. So starts in CLIP's space can be tried on this
model as on Stable Diffusion 1, whose text encoder is CLIP's. It learns from the generator's own encoder and starts with the
classifier's eyes, and so never judges.
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
SHRINKAGE = 0.01
"""Share of the mean variance that is added to each direction's: what varies less than this is not blown up."""
PLAN = Plan(
    steps=1200, batch=128, lr=1e-3, matrix_lr=2e-3, warmup=60, decay_from=0.3, ema=0.998, seed=71, gpu_batch=512
)


def new_tower(width: int) -> ResNetForImageClassification:
    """An untrained residual network (see `eyes`) whose `width` outputs are the embedding."""
    return new_resnet({i: str(i) for i in range(width)})


class WhitenedSpace:
    """Where captions are compared: of mean 0 and about unit covariance, and the way back.

    Args:
        encoded: `[N, D]`, encoded captions.
    """

    def __init__(self, encoded: torch.Tensor) -> None:
        self.mean = encoded.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(encoded.T))
        spread = (values + SHRINKAGE * values.mean()).sqrt()
        self._whiten, self._colour = vectors / spread @ vectors.T, vectors * spread @ vectors.T

    def whiten(self, encoded: torch.Tensor) -> torch.Tensor:
        """Encoded captions `[N, D]` in this space."""
        return (encoded - self.mean) @ self._whiten

    @torch.no_grad()
    def fold(self, layer: nn.Linear, scale: float) -> None:
        """Make a layer whose output is in this space put out `scale` times that in the encoder's space."""
        layer.weight.copy_(scale * self._colour @ layer.weight)
        layer.bias.copy_(scale * self._colour @ layer.bias + self.mean)


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

    @torch.no_grad()
    def encode(words: list[str]) -> torch.Tensor:
        return encoder(tokenise(tokenizer, words).to(me.device)).pooler_output.float()

    space = WhitenedSpace(encode(world.captions(world.sample_specs(4096, PLAN.seed))))

    def compare(image: torch.Tensor, words: list[str]) -> torch.Tensor:
        return scale(F.normalize(image, dim=1) @ F.normalize(space.whiten(encode(words)), dim=1).T)

    def loss(step: int, chance: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        specs, pictures = lessons.draw(plan.batch // me.count, 0, chance)
        image = tower(pixels(jostle(pictures, chance)).to(me.device)).logits.float()
        logits = compare(image, world.captions(specs))
        own = torch.arange(len(logits), device=me.device)
        value = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return value, {"top1": (logits.argmax(1) == own).float().mean()}

    fit("tower", {"tower": tower, "scale": scale}, loss, plan)
    if me.first:
        settle(tower, lambda chance: lessons.draw(64, 0, chance)[1], me.device)
        specs = world.sample_specs(512, world.HELD_OUT_SEEDS[5]).replace(second=-1)
        pictures, words = pixels(world.render(specs, device=me.device)), world.plain_captions(specs)
        with torch.no_grad():
            length = tower(pictures).logits.norm(dim=1).mean()
            space.fold(tower.classifier[1], (space.whiten(encode(words)).norm(dim=1).mean() / length).item())
            logits = compare(space.whiten(tower(pictures).logits), words)
        right = (logits.argmax(1).cpu() == torch.arange(len(specs))).float().mean()
        print(f"held-out: {right:.4f} of 512 pictures find their own caption")
        save(tower)


def save(tower: ResNetForImageClassification) -> None:
    """Write the tower and what it takes pictures with."""
    tower.save_pretrained(FOLDER)
    side = world.RESOLUTION
    size = {"shortest_edge": side}
    crop = {"height": side, "width": side}
    CLIPImageProcessor(size=size, crop_size=crop, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
