"""Train the judge: a CLIP model with towers of its own, which shares no weight with what it judges.

Three losses: each picture finds its caption among those of the batch and each caption its picture (Radford et al. 2021);
each picture finds the pictures of the same thing in the same colour by other hands, in other scenes, sizes and
styles (Khosla et al. 2020, "Supervised Contrastive Learning"); and each finds its thing among the prototypes of all
(Movshovitz-Attias et al. 2017, "No Fuss Distance Metric Learning Using Proxies"), which a batch has too few of. The second
and the third make likeness follow the thing: the rest of the batch has the same scenes, styles and colours.
"""

from __future__ import annotations

import click
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPProcessor, CLIPTokenizer

from sentinv.models.residual import ResidualClip

from . import vocabulary, world
from .art import wider_things
from .eyes import RESNET, UNUSED, pixels, settle
from .fit import RUNS, Plan, fit, use_fast_attention, workers
from .latents import tokenise
from .lessons import Lessons, jostle, load

FOLDER = RUNS / "judge" / "model"
PLAN = Plan(steps=32000, batch=32, lr=2e-3, matrix_lr=4e-3, warmup=100, decay_from=0.3, seed=61, gpu_batch=512)
EASY_UNTIL = 0.3
"""Share of the steps until which some pictures are easy ones: all at first, then linearly fewer."""
TEMPERATURE = 0.1
"""Of the likeness of pictures to each other and to prototypes."""
DIMENSIONS = 96
"""Of the embeddings."""


def new_judge(tokenizer: CLIPTokenizer) -> ResidualClip:
    """An untrained CLIP: a residual network (see `eyes`), and a text transformer of 2 layers × 128."""
    torch.manual_seed(0)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(text_config=text, vision_config=UNUSED, projection_dim=DIMENSIONS, resnet=RESNET)
    return ResidualClip(config).to(memory_format=torch.channels_last)


class Judge(nn.Module):
    """A CLIP while it learns, with prototypes of all things."""

    def __init__(self, clip: ResidualClip, things: int) -> None:
        super().__init__()
        self.clip = clip
        self.prototype_embedding = nn.Parameter(torch.randn(things, DIMENSIONS) / DIMENSIONS**0.5)

    def losses(
        self, pictures: torch.Tensor, ids: torch.Tensor, label: torch.Tensor, thing: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The three losses of pictures `[N, 3, H, W]`, see `draw` for the others."""
        output = self.clip(input_ids=ids, pixel_values=pixels(pictures))
        logits, features = output.logits_per_image.float(), F.normalize(output.image_embeds.float(), dim=1)
        own = torch.arange(len(logits), device=logits.device)
        return {
            "words": (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2,
            "likeness": same_thing(features[: len(label)], label),
            "things": F.cross_entropy(self.nearest(features), thing, ignore_index=-1),
        }

    def nearest(self, features: torch.Tensor) -> torch.Tensor:
        """Likeness `[N, things]` of picture features (unit length) to all prototypes, as logits."""
        return features @ F.normalize(self.prototype_embedding, dim=1).T / TEMPERATURE


def processor(tokenizer: CLIPTokenizer) -> CLIPProcessor:
    """Resizes to the world's side and scales to [-1, 1]."""
    side = world.RESOLUTION
    images = CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return CLIPProcessor(images, tokenizer)


def same_thing(features: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Supervised contrastive loss of picture features `[N, D]` (unit length) under labels `[N]`."""
    logits = features @ features.T / TEMPERATURE
    itself = torch.eye(len(label), dtype=torch.bool, device=features.device)
    alike = (label[:, None] == label[None]) & ~itself
    log_share = logits - torch.logsumexp(logits.masked_fill(itself, -torch.inf), 1, keepdim=True)
    return -(log_share.masked_fill(~alike, 0).sum(1) / alike.sum(1).clamp(min=1)).mean()


def draw(
    pairs: Lessons, lessons: Lessons, tokenizer: CLIPTokenizer, count: int, easy: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Half pairs, half lessons: pictures, their captions' tokens, labels of the pairs alone, and things of all (-1: two)."""
    pictures, ids, label = pairs.draw_pairs(count // 2, easy, generator)
    thing = torch.where(label >= 0, label // 1000, len(world.OBJECT_NAMES) + (-label - 1) // 1000)
    specs, more = lessons.draw(count - count // 2, easy, generator)
    ids = torch.cat([ids, tokenise(tokenizer, world.captions(specs))])
    alone = torch.where(specs.second < 0, specs.object, -1)
    return jostle(torch.cat([pictures, more]), generator), ids, label, torch.cat([thing, alone])


@click.command()
def main() -> None:
    """Train the judge."""
    me = workers()
    plan = PLAN.on(me.device)
    tokenizer = CLIPTokenizer.from_pretrained(vocabulary.JUDGE_FOLDER)
    clip = new_judge(tokenizer)
    model = Judge(clip, len(world.OBJECT_NAMES) + len(wider_things())).to(me.device)
    use_fast_attention(clip.text_model, me.device)
    pairs, lessons = load("pairs"), load("lessons")

    def loss(step: int, chance: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        easy = max(0.0, 1 - step / (EASY_UNTIL * plan.steps))
        drawn = draw(pairs, lessons, tokenizer, plan.batch // me.count, easy, chance)
        losses = model.losses(*(part.to(me.device) for part in drawn))
        return sum(losses.values(), torch.zeros((), device=me.device)), {k: v.detach() for k, v in losses.items()}

    fit("judge", {"judge": model}, loss, plan)
    if me.first:
        settle(clip.vision_model, lambda chance: draw(pairs, lessons, tokenizer, 64, 0, chance)[0], me.device)
        model.eval()
        specs = world.sample_specs(512, world.HELD_OUT_SEEDS[4]).replace(second=-1)
        ids = tokenise(tokenizer, world.plain_captions(specs)).to(me.device)
        with torch.no_grad():
            output = clip(input_ids=ids, pixel_values=pixels(world.render(specs, device=me.device)))
            things = model.nearest(F.normalize(output.image_embeds, dim=1)).argmax(1).cpu() == specs.object
        right = (output.logits_per_image.argmax(1).cpu() == torch.arange(len(specs))).float().mean()
        print(f"held-out: {right:.4f} of 512 pictures find their own caption, {things.float().mean():.4f} their thing")
        clip.save_pretrained(FOLDER)
        processor(tokenizer).save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
