"""Train the judge: a CLIP model with towers of its own, which shares no weight with what it judges.

Two losses: each picture finds its caption among those of the batch and each caption its picture (Radford et al. 2021),
and each picture finds the pictures of the same thing in the same colour by other hands, in other scenes, sizes and
styles (Khosla et al. 2020, "Supervised Contrastive Learning"). The second makes likeness follow the thing: the rest of
the batch has the same scenes, styles and colours with other things in them.
"""

from __future__ import annotations

from functools import cache

import click
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from . import art, vocabulary, world
from . import captions as language
from .classifier import VISION
from .fit import RUNS, Plan, fit, use_fast_attention, workers
from .latents import tokenise

FOLDER = RUNS / "judge" / "model"
PLAN = Plan(steps=8000, batch=96, lr=1e-3, matrix_lr=2e-3, warmup=60, decay_from=0.4, ema=0.998, seed=61, gpu_batch=512)
STRANGE, DEFORMED, WIDER = 0.25, 0.67, 0.35
"""Shares of known things in looks that no caption names, of deformed drawings, and of things that the generator can't
draw: a judge must tell these apart, too."""
EASY_UNTIL = 0.3
"""Share of the steps until which some are of easy pictures, undeformed: all at first, then linearly fewer."""
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


@cache
def _wider() -> tuple[tuple[str, ...], torch.Tensor, torch.Tensor]:
    """Names of the further things, their drawings `[things, most]` as indices into the bank, and how many each has."""
    found: dict[str, list[int]] = {}
    for index, drawing in enumerate(art.wider_sprites().drawings):
        found.setdefault(drawing.thing, []).append(index)
    table = torch.zeros(len(found), max(map(len, found.values())), dtype=torch.int64)
    for row, indices in zip(table, found.values(), strict=True):
        row[: len(indices)] = torch.tensor(indices)
    return tuple(found), table, torch.tensor([len(indices) for indices in found.values()])


def pairs(
    count: int, seed: int, generator: torch.Generator, easy: bool = False
) -> tuple[world.Specs, torch.Tensor, list[str], torch.Tensor]:
    """Pictures of which the first half shows the same things in the same colours as the second, and nothing else alike.

    Returns:
        Specs, the sprites for `render` (premultiplied, not deformed yet), captions, and `[count]` int64: equal where
        the thing and its colour are.
    """
    half = count // 2
    specs = world.sample_specs(count, seed, plain=easy).replace(second=-1, second_drawing=0)
    hands = torch.randint(len(world.HAND_NAMES), (count,), generator=generator)
    for name in ("object", "colour", "pattern"):
        getattr(specs, name)[half:] = getattr(specs, name)[:half]
    specs.drawing, specs.hand = world.choose(specs.object, hands, torch.rand(count, generator=generator))
    specs.signed &= specs.hand == hands
    first = world.sprites(specs)
    words = world.captions(specs)
    label = specs.object * 1000 + specs.colour * 10 + specs.pattern

    names, table, counts = _wider()
    wide = (torch.arange(count) % half) >= half - round(WIDER * half)
    thing = torch.randint(len(names), (half,), generator=generator).repeat(2)
    pick = (torch.rand(count, generator=generator) * counts[thing]).long()
    bank = art.wider_sprites().pixels
    colours = world.palette()[specs.colour]
    first[wide] = world.repaint(bank[table[thing, pick][wide]].float() / 255, colours[wide])
    specs = specs.replace(pattern=torch.where(wide, 0, specs.pattern))
    stand_in = world.captions(specs.replace(object=torch.where(wide, 0, specs.object)))
    for i in wide.nonzero()[:, 0].tolist():
        words[i] = language.with_article(stand_in[i].replace(world.OBJECT_NAMES[0], names[int(thing[i])], 1))
    label = torch.where(wide, -(thing * 1000 + specs.colour * 10) - 1, label)
    return specs, first, words, label


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

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seed = int(torch.randint(2**29, (), generator=generator))
        easy = bool(torch.rand((), generator=generator) < 1 - step / (EASY_UNTIL * plan.steps))
        specs, first, words, label = pairs(plan.batch // me.count, seed, generator, easy)
        if not easy:
            bent = world.deform(first, (specs.colour == 0) & (specs.pattern == 0), generator)
            deformed = torch.rand(len(specs), generator=generator) < DEFORMED
            first = torch.where(deformed[:, None, None, None], bent, first)
        ids = tokenise(tokenizer, words).to(me.device)
        output = model(input_ids=ids, pixel_values=world.render(specs, first, me.device) * 2 - 1)
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
