"""Train the classifier: what a picture shows, by attribute; and export the part of it that names objects.

One `ViTForImageClassification` whose logits are the labels of six attributes in a row (object, colour, pattern,
scene, style, hand), a softmax each. It judges generated pictures, so half of what it learns from at the end has been
through the autoencoder: it must not lean on a texture that no generated picture can have. Of two
things, each is half of the answer. The `class` initializer gets the same network with the object labels alone, so that
any program can use it as an ordinary image classifier.
"""

from __future__ import annotations

import re

import click
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from sentinv.initializers.class_ import ClassLabel

from . import captions as language
from . import vae, world
from .fit import RUNS, Plan, fit, use_fast_attention, workers
from .lessons import load
from .styles import STYLES
from .surety import note_threshold

ATTRIBUTES_FOLDER = RUNS / "classifier" / "attributes"
CLASSIFIER_FOLDER = RUNS / "classifier" / "classifier"
PLAN = Plan(steps=48000, batch=16, lr=1e-3, matrix_lr=2e-3, warmup=200, decay_from=0.4, seed=41, gpu_batch=256)
EASY_UNTIL = 0.3
"""Share of the steps until which some pictures are easy ones: all at first, then linearly fewer."""
ROUND_TRIP_FROM = 0.8
"""Share of the steps after which half of the pictures have been through the autoencoder, which takes half the time."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "object": world.OBJECT_NAMES,
    "colour": ("natural", *world.COLOUR_NAMES[1:]),
    "pattern": language.PATTERNS,
    "scene": world.SCENE_NAMES,
    "style": STYLES,
    "hand": world.HAND_NAMES,
}
"""Attribute → its labels, in the order of the logits."""


def split_logits(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Cut logits `[N, labels]` into one block for each attribute."""
    return dict(zip(ATTRIBUTES, logits.split([len(v) for v in ATTRIBUTES.values()], dim=1), strict=True))


VISION = {
    "image_size": world.RESOLUTION,
    "patch_size": 16,
    "hidden_size": 160,
    "intermediate_size": 480,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
}
"""The vision transformer of each part that looks at pictures: 4 layers of width 160 on patches of 16 by 16 pixels.

Patches of 8 by 8 would be four times as many.
"""


def new_classifier() -> ViTForImageClassification:
    """An untrained vision transformer (see `VISION`)."""
    torch.manual_seed(0)
    labels = [f"{attribute}: {label}" for attribute, names in ATTRIBUTES.items() for label in names]
    return ViTForImageClassification(
        ViTConfig(
            **VISION,
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )
    )


def processor() -> ViTImageProcessor:
    """Resizes to the world's side and scales to [-1, 1]."""
    side = {"height": world.RESOLUTION, "width": world.RESOLUTION}
    return ViTImageProcessor(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def objects_only(model: ViTForImageClassification) -> ViTForImageClassification:
    """The same network with only the object labels, under their plain names."""
    config = ViTConfig.from_dict(model.config.to_dict())
    config.id2label = dict(enumerate(ATTRIBUTES["object"]))
    config.label2id = {label: i for i, label in enumerate(ATTRIBUTES["object"])}
    small = ViTForImageClassification(config)
    state = model.state_dict()
    for key in ("classifier.weight", "classifier.bias"):
        state[key] = state[key][: len(ATTRIBUTES["object"])]
    small.load_state_dict(state)
    return small


@torch.no_grad()
def hand_over(vision: nn.Module) -> None:
    """Start another part's vision transformer, BLIP's or CLIP's, from the trained classifier's.

    BLIP's is then the same function; CLIP's has a layer norm more, and another kind of GELU.

    Args:
        vision: one of the same sizes (see `VISION`); changed in place.
    """
    own = vision.state_dict()
    taught = ViTForImageClassification.from_pretrained(ATTRIBUTES_FOLDER, dtype=torch.float32).vit.state_dict()
    state = {_NAMES.sub(lambda found: _NAMED[found[0]], key): value for key, value in taught.items()}
    bias = "embeddings.patch_embedding.bias"
    if bias not in own:
        state["embeddings.position_embedding"][:, 1:] += state.pop(bias)
        state["embeddings.position_embedding.weight"] = state.pop("embeddings.position_embedding")
    for key in own:
        if ".qkv." in key:
            state[key] = torch.cat([state.pop(key.replace("qkv", f"{letter}_proj")) for letter in "qkv"])
        elif ".projection." in key:
            state[key] = state.pop(key.replace("projection", "out_proj"))
    vision.load_state_dict({k: v.reshape(own[k].shape) for k, v in state.items()}, strict=False)


_NAMED = {
    "cls_token": "class_embedding",
    "position_embeddings": "position_embedding",
    "patch_embeddings.projection": "patch_embedding",
    "layers.": "encoder.layers.",
    "attention.o_proj": "self_attn.out_proj",
    "attention.": "self_attn.",
    "layernorm_before": "layer_norm1",
    "layernorm_after": "layer_norm2",
    "layernorm.": "post_layernorm.",
}
"""Names in ViT → names in BLIP's and CLIP's vision transformers."""
_NAMES = re.compile("|".join(re.escape(name) for name in _NAMED))


def accuracy(model: ViTForImageClassification, specs: world.Specs, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """Whether each attribute of each picture is told right: attribute → `[N]` bool.

    A pencil sketch has no colour: there, colour counts as right.
    """
    with torch.no_grad():
        logits = torch.cat([model(part * 2 - 1).logits for part in pictures.split(128)])
    right = {k: v.argmax(1).cpu() == getattr(specs, k) for k, v in split_logits(logits).items()}
    right["colour"] |= specs.style == STYLES.index("pencil sketch")
    return right


@torch.no_grad()
def round_trip(autoencoder: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Pictures `[N, 3, H, W]` in [0, 1], encoded and decoded again."""
    latents = autoencoder.encode(pictures * 2 - 1).latent_dist.mean
    return autoencoder.decode(latents).sample.float().clamp(-1, 1) / 2 + 0.5


def wanted(specs: world.Specs) -> dict[str, torch.Tensor]:
    """What the classifier learns to say: attribute → labels `[N]`, -100 for none; of objects `[N, objects]`, halves."""
    targets = {k: getattr(specs, k).clone() for k in ATTRIBUTES}
    pairs = specs.second >= 0
    for k in ("colour", "pattern"):
        targets[k][pairs] = -100
    targets["colour"][specs.style == STYLES.index("pencil sketch")] = -100
    targets["hand"][(specs.colour > 0) | (specs.style > 0)] = -100
    first, second = (F.one_hot(x.clamp(min=0), len(world.OBJECT_NAMES)).float() for x in (specs.object, specs.second))
    targets["object"] = torch.where(pairs[:, None], (first + second) / 2, first)
    return targets


@click.command()
def main() -> None:
    """Train the classifier."""
    me = workers()
    plan = PLAN.on(me.device)
    model = new_classifier().to(me.device)
    use_fast_attention(model, me.device)
    lessons = load("lessons")
    autoencoder = AutoencoderKL.from_pretrained(vae.FOLDER, dtype=torch.float32).to(me.device).eval()

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        easy = max(0.0, 1 - step / (EASY_UNTIL * plan.steps))
        specs, pictures = lessons.draw(plan.batch // me.count, easy, generator)
        pictures = pictures.to(me.device)
        if step >= ROUND_TRIP_FROM * plan.steps:
            pictures[::2] = round_trip(autoencoder, pictures[::2])
        blocks = split_logits(model(pictures * 2 - 1).logits.float())
        told = {k: target.to(me.device) for k, target in wanted(specs).items() if (target >= 0).any()}
        losses = {k: F.cross_entropy(blocks[k], target) for k, target in told.items()}
        one = specs.second < 0
        rates = {
            k: (blocks[k].argmax(1).cpu() == getattr(specs, k))[one].float().mean() for k in ("object", "scene", "hand")
        }
        return sum(losses.values(), torch.zeros((), device=me.device)), rates

    fit("classifier", {"classifier": model}, loss, plan)
    if me.first:
        model.eval()
        specs = world.sample_specs(2048, world.HELD_OUT_SEEDS[2]).replace(second=-1)
        pictures = world.render(specs, device=me.device)
        back = torch.cat([round_trip(autoencoder, part) for part in pictures.split(128)])
        for name, shown in (("renders", pictures), ("renders through the autoencoder", back)):
            right = accuracy(model, specs, shown)
            print(f"held-out {name}: " + "  ".join(f"{k} {v.float().mean():.4f}" for k, v in right.items()))
        named = objects_only(model)
        for folder, part in ((ATTRIBUTES_FOLDER, model), (CLASSIFIER_FOLDER, named)):
            part.save_pretrained(folder)
            processor().save_pretrained(folder)
        note_threshold(named, CLASSIFIER_FOLDER, ClassLabel(str(CLASSIFIER_FOLDER), device="cpu"))


if __name__ == "__main__":
    main()
