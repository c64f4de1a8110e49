"""Items that keep a word from being more than its thing: the picture inside the mask, the model as it was outside it.

Besides prompts that show the whole picture ("a photo of <c>"), a step has the same noisy pictures with a scene or a style in
the prompt ("a photo of <c> on the moon"). Their target is the true one inside the mask; outside it is what the frozen model
answers to the words for the thing, without the place that they name, and that scene. For styles it is that answer everywhere.
And there may be prompts of other things, on pictures of them that the model has made: those answers are
to stay. The frozen model is never told the learned word: one that has kept its table would hand the table on. What the items
cost is in `sentinv.training.blend_objective`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Generator, Tensor

from sentinv.concepts.prompts import fill
from sentinv.concepts.scenes import SCENES, THINGS, without_scene
from sentinv.concepts.tokens import tokenize
from sentinv.generation.generate import GenerateConfig, generate_latents
from sentinv.training.data import Batch, TrainingSet, only
from sentinv.training.reaction import thing_mask

if TYPE_CHECKING:
    from sentinv.concepts.placeholder import PlaceholderRows
    from sentinv.files.decoding import Picture
    from sentinv.models.backbone import Backbone
    from sentinv.training.config import TrainConfig
    from sentinv.training.rescue import NoRescue

SCENE_PROMPT = "a photo of {}"
OTHERS = 8
"""Pictures of other things that the model makes to keep its answers to them."""

OTHER_PROMPTS = 5 * OTHERS
"""Prompts of these things: each with five looks, of which its picture has one."""

ANYTHING = "an object"
"""What a thing is called of which nobody has said what it is."""

_SAMPLING = GenerateConfig(steps=10)


def named(thing: str, token: str) -> str:
    """Words for a thing, or `ANYTHING`, with a warning.

    Args:
        thing: words that say what it is; "" if there are none.
        token: its placeholder.
    """
    if thing:
        return thing
    warnings.warn(
        f"nobody has said what {token} is, so it is taken for {ANYTHING!r}: a --phrase to start from, or --words of "
        "sentinv tune, says it better",
        stacklevel=3,
    )
    return ANYTHING


@dataclass(frozen=True)
class BlendedBatch(Batch):
    """B noisy latents, some of which the frozen model has a say in.

    Attributes:
        prompts: which prompt of `BlendedSet.prompts` each item has, `[B]` int64.
        teacher: which prompt of `BlendedSet.teacher_prompts` the frozen model gets, `[B]` int64; no matter where it gets none.
        teacher_ids: token ids of these, `[B, L]` per text encoder.
        own: the share of the true target, `[B, 1, h, w]` in [0, 1]; the rest is the frozen model's answer.
        taught: whether it is asked, one of each item.
        kept: whether it is of another thing, whose answers are to stay, one of each item. Both are the same in every step, and
            so no host has to wait for them.
    """

    prompts: Tensor
    teacher: Tensor
    teacher_ids: Mapping[str, Tensor]
    own: Tensor
    taught: tuple[bool, ...]
    kept: tuple[bool, ...]


@dataclass(frozen=True)
class Blend:
    """The prompts of blended items, and of those that must not change.

    Attributes:
        scenes: prompts with ``{}`` that name a place.
        styles: prompts with ``{}`` that name a style.
        thing: what the frozen model is told in place of the learned word.
        others: prompts of other things; none where no items have them.
        count: items per step with one of the first two.
        others_count: items per step with one of the last.
    """

    scenes: tuple[str, ...]
    styles: tuple[str, ...]
    thing: str
    others: tuple[str, ...]
    count: int
    others_count: int

    @classmethod
    def of(cls, config: TrainConfig, words: str, others_count: int = 0) -> Blend:
        """What a config asks for.

        Args:
            config: of the training.
            words: for the thing; where it is, is left out.
            others_count: items per step with prompts of other things.
        """
        places = config.scenes if config.scenes is not None else SCENES
        styles = config.styles if config.styles is not None else config.usual_styles
        scenes = tuple(f"{SCENE_PROMPT} {place}" for place in places)
        looks = (SCENE_PROMPT, *scenes, *styles)
        count = OTHER_PROMPTS if others_count else 0
        others = tuple(fill(looks[5 * n % len(looks)], THINGS[n % OTHERS]) for n in range(count))
        return cls(scenes, styles, without_scene(words), others, config.blended, others_count)

    @property
    def own(self) -> tuple[str, ...]:
        """All prompts of blended items."""
        return (*self.scenes, *self.styles)


class BlendedSet(TrainingSet):
    """The images of one concept, ready to draw blended batches from. Otherwise as `TrainingSet`.

    Args:
        backbone: without adapters, or with such as do nothing yet.
        images: as for `TrainingSet`; where one has no mask, the thing is found by `thing_mask`.
        rows: of the placeholders that prompts may have, installed.
        config: as for `TrainingSet`.
        blend: the further prompts.
        token: the placeholder that prompts have; the only one there are rows of, if not given.

    Attributes:
        prompts: all that items may have: templates, blended ones, those of other things.
        teacher_prompts: what the frozen model gets for all but the templates, in the same order.
        own: the share of the true target where a place is named, `[images and mirrored ones, 1, h, w]`.
    """

    def __init__(
        self,
        backbone: Backbone,
        images: Sequence[Image.Image | Picture],
        rows: PlaceholderRows,
        config: TrainConfig,
        blend: Blend,
        token: str | None = None,
    ) -> None:
        super().__init__(backbone, images, rows, config, token)
        token = token or only(rows.vocabulary)
        self.blend = blend
        self.prompts = [*self.templates, *(fill(prompt, token) for prompt in blend.own), *blend.others]
        self.teacher_prompts = [*(fill(prompt, blend.thing) for prompt in blend.own), *blend.others]
        self.all_ids = tokenize(backbone, self.prompts, rows)
        self.teacher_ids = tokenize(backbone, self.teacher_prompts)
        places = [1.0] * len(blend.scenes) + [0.0] * (len(blend.styles) + len(blend.others))
        self._has_place = torch.tensor(places, device=backbone.device)[:, None, None, None]
        self.own = self._mirrored_too(torch.cat(self._things())).to(backbone.device)
        self.others = self._other_pictures() if blend.others_count else None

    @property
    def finite(self) -> bool:
        """Whether what the model said of things and made of others are numbers."""
        return all(bool(torch.isfinite(one).all()) for one in (self.own, self.others) if one is not None)

    def _things(self) -> list[Tensor]:
        """Where the thing is in each picture, `[1, 1, h, w]`: its mask, or what is found where it has none."""
        places, still = [prompt.removeprefix(f"{SCENE_PROMPT} ") for prompt in self.blend.scenes], torch.zeros(1)
        things = []
        for index, mask in enumerate(self.masks):
            mean = self.moments.mean[index : index + 1]
            latents = self.backbone.sample_latents(mean, still.to(mean.device), still.to(mean.device))
            found = mask is None and self.blend.count > 0
            things.append(thing_mask(self.backbone, latents, self.blend.thing, places) if found else self._share(mask))
        return things

    def _other_pictures(self) -> Tensor:
        """What the model makes of the first prompts of other things, `[OTHERS, C, h, w]`: clean, scaled latents."""
        seed = self.config.seed
        made = [
            generate_latents(
                self.backbone, prompt, generators=[Generator().manual_seed(seed + number)], config=_SAMPLING
            )
            for number, prompt in enumerate(self.blend.others[:OTHERS])
        ]
        return torch.cat(made)

    def draw(self, generator: Generator) -> BlendedBatch:
        """Draw a batch; every random number is of this generator, which is on the CPU."""
        batch, which, templates = self.draw_pictures(generator)
        plain, blend, first = len(batch), self.blend, len(self.templates)
        items = [torch.arange(plain)]
        prompts = []
        for count, low, high in (
            (blend.count, 0, len(blend.own)),
            (blend.others_count, len(blend.own), len(self.teacher_prompts)),
        ):
            items.append(torch.randperm(plain, generator=generator)[:count])
            prompts.append(first + torch.randint(low, max(high, low + 1), (count,), generator=generator))
        further = self.to_device(torch.cat(prompts))
        drawn = self._extended(batch, which, self.to_device(torch.cat(items)), torch.cat([templates, further]))
        if self.others is None:
            return drawn
        shown = self.others[(further[blend.count :] - first - len(blend.own)) % OTHERS]
        kept = tuple(item >= len(drawn) - len(shown) for item in range(len(drawn)))
        return replace(drawn, latents=torch.cat([drawn.latents[: -len(shown)], shown]), kept=kept)

    def evaluation_batches(self, weights: Tensor | None = None) -> list[Batch]:
        """The fixed grid twice: with the first template, and blended, with one prompt after the other."""
        batches: list[Batch] = []
        begin, device = 0, self.backbone.device
        for batch in super().evaluation_batches(weights):
            count = len(batch)
            numbers = torch.arange(begin, begin + count)
            which, order = (numbers % self.image_count).to(device), torch.arange(count, device=device)
            batches.append(self._extended(batch, which, order, torch.zeros(count, dtype=torch.int64, device=device)))
            if self.blend.count:
                prompts = len(self.templates) + numbers % len(self.blend.own)
                batches.append(self._extended(batch, which, order, prompts.to(device), plain=0))
            begin += count
        return batches

    def _extended(
        self, batch: Batch, which: Tensor, items: Tensor, prompts: Tensor, plain: int | None = None
    ) -> BlendedBatch:
        """Make a batch of items of another: the first `plain` as they are, all of its own if None, the others blended."""
        plain = len(batch) if plain is None else plain
        teacher = (prompts - len(self.templates)).clamp(min=0)
        own, mask = self._has_place[teacher] * self.own[which[items]], None
        own[:plain] = 1
        if self.mask is not None:
            mask = torch.ones_like(own)
            mask[:plain] = self.mask[which[items]][:plain]
        return BlendedBatch(
            latents=batch.latents[items],
            noise=batch.noise[items],
            timesteps=batch.timesteps[items],
            alphas_cumprod=batch.alphas_cumprod[items],
            ids={name: ids[prompts] for name, ids in self.all_ids.items()},
            mask=mask,
            prompts=prompts,
            teacher=teacher,
            teacher_ids={name: ids[teacher] for name, ids in self.teacher_ids.items()},
            own=own,
            taught=tuple(item >= plain for item in range(len(items))),
            kept=(False,) * len(items),
            weights=None if batch.weights is None else batch.weights[items],
        )


def blended_set(make: Callable[[], BlendedSet], rescue: NoRescue) -> BlendedSet:
    """Make a set, and make it again in float32 where half precision overflows: it asks the model before the first step does."""
    data = make()
    if not data.finite and rescue.more_precision():
        warnings.warn("the model's answers to the picture are not finite: going on in float32", stacklevel=3)
        data = make()
    return data
