"""Train the judge: a CLIP model with towers of its own, which shares no weight with what it judges.

Two losses: each picture finds its caption among those of the batch and each caption its picture (Radford et al. 2021),
and each picture finds the pictures of the same thing in the same colour by other hands, in other scenes, sizes and
styles (Khosla et al. 2020, "Supervised Contrastive Learning"). The second makes likeness follow the thing: the rest of
the batch has the same scenes, styles and colours with other things in them.
"""

from __future__ import annotations

import click
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from . import vocabulary, world
from .classifier import VISION
from .fit import RUNS, Plan, fit, use_fast_attention, workers
from .latents import tokenise
from .lessons import load

FOLDER = RUNS / "judge" / "model"
PLAN = Plan(steps=14000, batch=48, lr=1e-3, matrix_lr=2e-3, warmup=200, decay_from=0.4, seed=61, gpu_batch=512)
EASY_UNTIL = 0.3
"""Share of the steps until which some pictures are easy ones: all at first, then linearly fewer."""
TEMPERATURE = 0.1
"""Of the likeness of pictures."""


def new_judge(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP: vision transformer (see `VISION`), text transformer of 2 layers × 128."""
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
    return CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=96))


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


@click.command()
def main() -> None:
    """Train the judge."""
    me = workers()
    plan = PLAN.on(me.device)
    tokenizer = CLIPTokenizer.from_pretrained(vocabulary.JUDGE_FOLDER)
    model = new_judge(tokenizer).to(me.device)
    use_fast_attention(model, me.device)
    drawn = load("pairs")

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        easy = max(0.0, 1 - step / (EASY_UNTIL * plan.steps))
        pictures, ids, label = drawn.draw_pairs(plan.batch // me.count, easy, generator)
        output = model(input_ids=ids.to(me.device), pixel_values=pictures.to(me.device) * 2 - 1)
        logits = output.logits_per_image.float()
        own = torch.arange(len(logits), device=me.device)
        words_loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        likeness = same_thing(F.normalize(output.image_embeds.float(), dim=1), label.to(me.device))
        return words_loss + likeness, {"top1": (logits.argmax(1) == own).float().mean(), "likeness": likeness.detach()}

    fit("judge", {"judge": model}, loss, plan)
    if me.first:
        model.eval()
        specs = world.sample_specs(512, world.HELD_OUT_SEEDS[4]).replace(second=-1)
        with torch.no_grad():
            logits = model(
                input_ids=tokenise(tokenizer, world.plain_captions(specs)).to(me.device),
                pixel_values=world.render(specs, device=me.device) * 2 - 1,
            ).logits_per_image
        right = (logits.argmax(1).cpu() == torch.arange(len(specs))).float().mean()
        print(f"held-out: {right:.4f} of 512 pictures find their own caption")
        model.save_pretrained(FOLDER)
        processor(tokenizer).save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
