"""Train the judge: a CLIP model with towers of its own, which shares no weight with what it judges."""

from __future__ import annotations

import click
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from . import captions as language
from . import glyphs, vocabulary, world
from .fit import RUNS, Plan, fit, workers
from .latents import tokenise

FOLDER = RUNS / "judge" / "model"
PLAN = Plan(steps=1300, batch=128, lr=1e-3, matrix_lr=2e-3, warmup=60, decay_from=0.68, ema=0.996, seed=61)
WIDER_FROM = 700
"""From this step on, it sees more than the world has: a judge must tell things apart that the generator can't draw."""
STRANGE, WIDER = 0.25, 0.35
"""Shares of known objects in looks that no caption names, and of objects that the world does not have."""


def new_judge(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP: vision transformer of 4 layers × 128 on patches of 8 × 8, text transformer of 2 × 128."""
    torch.manual_seed(0)
    vision = {
        "image_size": world.RESOLUTION,
        "patch_size": 8,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
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
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))


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


def with_wider_objects(
    specs: world.Specs, first: torch.Tensor, words: list[str], generator: torch.Generator
) -> tuple[world.Specs, torch.Tensor, list[str]]:
    """Put objects that the world does not have in the place of the last `WIDER` share of a batch."""
    names, bank = list(glyphs.wider_objects()), glyphs.wider_bank()
    count = round(WIDER * len(specs))
    which = torch.randint(len(names), (count,), generator=generator)
    wide = torch.arange(len(specs)) >= len(specs) - count
    stand_in = {"object": 0, "colour": 0, "pattern": 0, "second": -1}
    specs = specs.replace(**{name: torch.where(wide, value, getattr(specs, name)) for name, value in stand_in.items()})
    captions = [
        language.with_article(text.replace(world.OBJECT_NAMES[0], names[index], 1))
        for text, index in zip(world.captions(specs[wide]), which.tolist(), strict=True)
    ]
    first = torch.cat([first[: len(first) - count], bank[which].to(first.device)])
    return specs, first, [*words[: len(words) - count], *captions]


@click.command()
def main() -> None:
    """Train the judge."""
    me = workers()
    tokenizer = CLIPTokenizer.from_pretrained(vocabulary.JUDGE_FOLDER)
    model = new_judge(tokenizer).to(me.device)

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seed = int(torch.randint(2**29, (), generator=generator))
        specs = world.sample_specs(PLAN.batch // me.count, seed)
        specs, first = world.strange_looks(specs, STRANGE if step >= WIDER_FROM else 0.0, generator, me.device)
        words = world.captions(specs)
        if step >= WIDER_FROM:
            specs, first, words = with_wider_objects(specs, first, words, generator)
        ids = tokenise(tokenizer, words).to(me.device)
        output = model(input_ids=ids, pixel_values=world.render(specs, first, me.device) * 2 - 1)
        logits = output.logits_per_image.float()
        own = torch.arange(len(logits), device=me.device)
        value = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return value, {"top1": (logits.argmax(1) == own).float().mean()}

    fit("judge", {"judge": model}, loss, PLAN)
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
