"""Images of many prompts, each with learned words of its own, in batches that do not care which prompt an item has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from sentinv.diffusion.ddim import ddim_step, ddim_steps
from sentinv.generation.denoiser import Denoiser
from sentinv.generation.generate import GenerateConfig, GeneratedImage, Progress, latent_shape

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone


@dataclass(frozen=True, kw_only=True, eq=False)
class Wish:
    """An image that is wanted.

    Attributes:
        prompt: what to show; placeholders in their short form ``<c>``.
        concepts: the learned words that may occur in it.
        seed: of its noise, in [0, 2**63).
    """

    prompt: str
    concepts: Sequence[Concept] = field(default=())
    seed: int = 0


def generate_grid(
    backbone: Backbone, wishes: Sequence[Wish], config: GenerateConfig | None = None, on_step: Progress | None = None
) -> Iterator[GeneratedImage]:
    """Sample an image for each wish, and yield it as soon as its batch is done. Two words may bear one placeholder.

    Each is that which `generate` makes of its prompt and seed in batches of the same size.

    Args:
        backbone: the model.
        wishes: any number.
        config: how to sample; weights apply to the words of every prompt that has them.
        on_step: called after every step with (steps done, steps in all), over all batches.

    Raises:
        PromptError: If a prompt names a placeholder that is not given, or one would be cut off.
        ConceptError: If a concept does not fit the model.
    """
    from sentinv.files.images import to_pil

    config = config or GenerateConfig()
    steps, size = ddim_steps(backbone.schedule, config.steps), config.batch_size
    batches = [wishes[first : first + size] for first in range(0, len(wishes), size)]
    for index, batch in enumerate(batches):
        latents, denoise = _noise(backbone, batch, config), _denoiser(backbone, batch, config)
        for number, step in enumerate(steps, start=1):
            latents = ddim_step(latents, denoise(latents, step), step.alpha_from, step.alpha_to)
            if on_step is not None:
                on_step(index * len(steps) + number, len(batches) * len(steps))
        for wish, one in zip(batch, latents, strict=True):
            (image,) = to_pil(backbone.decode(one[None]))
            yield GeneratedImage(image, wish.seed)


def _noise(backbone: Backbone, batch: Sequence[Wish], config: GenerateConfig) -> Tensor:
    shape = latent_shape(backbone, config)
    generators = [Generator().manual_seed(wish.seed) for wish in batch]
    return torch.stack([torch.randn(shape, generator=one, dtype=torch.float32) for one in generators]).to(
        backbone.device
    )


def _denoiser(backbone: Backbone, batch: Sequence[Wish], config: GenerateConfig) -> Denoiser:
    """One denoiser of those of all prompts."""
    known: dict[tuple[str, tuple[int, ...]], Denoiser] = {}
    denoisers = []
    for wish in batch:
        key = (wish.prompt, tuple(map(id, wish.concepts)))
        if key not in known:
            negative = config.negative_prompt or None
            weights = {token: weight for token, weight in config.weights.items() if token in wish.prompt}
            known[key] = Denoiser.of(backbone, wish.prompt, wish.concepts, config.guidance_scale, negative, weights)
        denoisers.append(known[key])
    return Denoiser.together(denoisers)
