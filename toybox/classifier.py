"""Train the classifier: what a picture shows, by attribute; and export the part of it that names objects.

One `ResNetForImageClassification` whose logits are the labels of six attributes in a row (object, colour, pattern,
scene, style, hand), a softmax each. It judges generated pictures, so a quarter of what it learns from at the end has been
through the autoencoder: it must not lean on a texture that no generated picture can have. Of two
things, each is half of the answer. The `class` initializer gets the same network with the object labels alone, so that
any program can use it as an ordinary image classifier.
"""

from __future__ import annotations

from types import SimpleNamespace

import click
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from sentinv.initializers.class_ import ClassLabel

from . import captions as language
from . import vae, world
from .eyes import TAUGHT, new_resnet, pixels, settle
from .fit import RUNS, Plan, fit, workers
from .lessons import jostle, load
from .styles import STYLES
from .surety import note_threshold

ATTRIBUTES_FOLDER = TAUGHT
CLASSIFIER_FOLDER = RUNS / "classifier" / "classifier"
PLAN = Plan(steps=38000, batch=32, lr=2e-3, matrix_lr=4e-3, warmup=100, decay_from=0.3, seed=41, gpu_batch=256)
EASY_UNTIL = 0.3
"""Share of the steps until which some pictures are easy ones: all at first, then linearly fewer."""
ROUND_TRIP_FROM = 0.9
"""Share of the steps after which a quarter of the pictures have been through the autoencoder."""

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


def new_classifier() -> ResNetForImageClassification:
    """An untrained residual network."""
    labels = [f"{attribute}: {label}" for attribute, names in ATTRIBUTES.items() for label in names]
    return new_resnet(dict(enumerate(labels)))


def processor() -> ViTImageProcessor:
    """Resizes to the world's side and scales to [-1, 1]."""
    side = {"height": world.RESOLUTION, "width": world.RESOLUTION}
    return ViTImageProcessor(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def objects_only(model: ResNetForImageClassification) -> ResNetForImageClassification:
    """The same network with only the object labels, under their plain names."""
    config = ResNetConfig.from_dict(model.config.to_dict())
    config.id2label = dict(enumerate(ATTRIBUTES["object"]))
    config.label2id = {label: i for i, label in enumerate(ATTRIBUTES["object"])}
    small = ResNetForImageClassification(config)
    state = model.state_dict()
    for key in ("classifier.1.weight", "classifier.1.bias"):
        state[key] = state[key][: len(ATTRIBUTES["object"])]
    small.load_state_dict(state)
    return small.eval()


def accuracy(
    model: ResNetForImageClassification, specs: world.Specs | SimpleNamespace, pictures: torch.Tensor
) -> dict[str, torch.Tensor]:
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
    lessons = load("lessons")
    autoencoder = AutoencoderKL.from_pretrained(vae.FOLDER, dtype=torch.float32).to(me.device).eval()

    def loss(step: int, chance: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        easy = max(0.0, 1 - step / (EASY_UNTIL * plan.steps))
        specs, pictures = lessons.draw(plan.batch // me.count, easy, chance)
        pictures = jostle(pictures, chance).to(me.device)
        if step >= ROUND_TRIP_FROM * plan.steps:
            pictures[::4] = round_trip(autoencoder, pictures[::4])
        blocks = split_logits(model(pixels(pictures)).logits.float())
        told = {k: target.to(me.device) for k, target in wanted(specs).items() if (target >= 0).any()}
        losses = {k: F.cross_entropy(blocks[k], target) for k, target in told.items()}
        one = specs.second < 0
        rates = {
            k: (blocks[k].argmax(1).cpu() == getattr(specs, k))[one].float().mean() for k in ("object", "scene", "hand")
        }
        return sum(losses.values(), torch.zeros((), device=me.device)), rates

    fit("classifier", {"classifier": model}, loss, plan)
    if me.first:
        settle(model, lambda chance: lessons.draw(64, 0, chance)[1], me.device)
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
