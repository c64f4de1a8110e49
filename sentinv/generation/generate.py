"""Images from a prompt, with learned words in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from sentinv.diffusion.ddim import Step, ddim_step, ddim_steps
from sentinv.generation.denoiser import Denoiser
from sentinv.generation.weights import Weights

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How images are sampled.

    Attributes:
        steps: DDIM steps, ≥ 1. Twice as many give other detail (`benchmarks/sampling_steps.py`).
        guidance_scale: classifier-free guidance (Ho & Salimans 2022), ≥ 0; 1 turns it off, None is the model's own.
        negative_prompt: what guidance leads away from; "" for no prompt.
        weights: placeholder → how much the word counts in the prompt, in [0, 3]; 1 where it is not named.
        batch_size: images sampled at a time, ≥ 1.
        height: of the images in pixels, a multiple of the VAE's scale; the model's own if None.
        width: likewise.

    Raises:
        ValueError: If a value is out of its range.
    """

    steps: int = 25
    guidance_scale: float | None = None
    negative_prompt: str = ""
    weights: Weights = field(default_factory=dict)
    batch_size: int = 4
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or not 0 <= (self.guidance_scale or 0) < float("inf"):
            raise ValueError(
                f"expected steps and batch_size of at least 1 and a finite guidance_scale of at least 0, got {self}"
            )


@dataclass(frozen=True, eq=False)
class GeneratedImage:
    """An image that was made.

    Attributes:
        image: RGB.
        seed: of its noise.
    """

    image: Image.Image
    seed: int


def generate(
    backbone: Backbone,
    prompt: str,
    concepts: Concept | Sequence[Concept] = (),
    *,
    count: int = 1,
    seed: int = 0,
    config: GenerateConfig | None = None,
    on_step: Progress | None = None,
) -> list[Image.Image]:
    """Sample images.

    Image i has a generator of its own, seeded with `seed + i`: it does not depend on count or batch size, and plain
    diffusers makes the same image with that generator and its `DDIMScheduler`.

    Args:
        backbone: the model.
        prompt: what to show; placeholders in their short form ``<c>``.
        concepts: the learned word or words that may occur in the prompt and the negative prompt.
        count: how many images, ≥ 1.
        seed: of the first image, in [0, 2**63).
        config: how to sample.
        on_step: called after every step with (steps done, steps in all), over all batches.

    Returns:
        `count` RGB images.

    Raises:
        PromptError: If the prompt names a placeholder that is not given, or one would be cut off.
        ConceptError: If a concept does not fit the model.
    """
    made = generate_images(backbone, prompt, concepts, count=count, seed=seed, config=config, on_step=on_step)
    return [one.image for one in made]


def generate_images(
    backbone: Backbone,
    prompt: str,
    concepts: Concept | Sequence[Concept] = (),
    *,
    count: int = 1,
    seed: int = 0,
    config: GenerateConfig | None = None,
    on_step: Progress | None = None,
) -> Iterator[GeneratedImage]:
    """Sample images and yield them as soon as their batch is done. Otherwise as `generate`."""
    from sentinv.files.images import to_pil

    generators = seeded(seed, count)
    batches = generate_batches(backbone, prompt, concepts, generators=generators, config=config, on_step=on_step)
    seeds = iter(range(seed, seed + count))
    for batch in batches:
        images = [image for one in batch for image in to_pil(backbone.decode(one[None]))]
        yield from (GeneratedImage(image, next(seeds)) for image in images)


def generate_beside(
    backbone: Backbone,
    prompt: str,
    concepts: tuple[Concept, Concept],
    *,
    count: int = 1,
    seed: int = 0,
    config: GenerateConfig | None = None,
    on_step: Progress | None = None,
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Sample the same seeds with two states of a word, in batches that hold both. Otherwise as `generate`."""
    from sentinv.files.images import to_pil

    config = config or GenerateConfig()
    steps = ddim_steps(backbone.schedule, config.steps)
    one, other = (_denoiser(backbone, prompt, concept, config) for concept in concepts)
    batches = _noise(backbone, seeded(seed, count), config)
    made: tuple[list[Image.Image], list[Image.Image]] = ([], [])
    for index, noise in enumerate(batches):
        told = _later(on_step, index * len(steps), len(batches) * len(steps))
        latents = sample(Denoiser.together([one, other]), noise.repeat(2, 1, 1, 1), steps, told)
        for images, half in zip(made, latents.chunk(2), strict=True):
            images += [image for latent in half for image in to_pil(backbone.decode(latent[None]))]
    return made


def seeded(seed: int, count: int) -> list[Generator]:
    """Make generators on the CPU, seeded with `seed`, `seed + 1` and so on."""
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return [Generator().manual_seed(seed + index) for index in range(count)]


def generate_latents(
    backbone: Backbone,
    prompt: str,
    concepts: Concept | Sequence[Concept] = (),
    *,
    generators: Sequence[Generator],
    config: GenerateConfig | None = None,
    on_step: Progress | None = None,
) -> Tensor:
    """Sample latents `[len(generators), C, h, w]` float32, one per generator. Otherwise as `generate`."""
    batches = generate_batches(backbone, prompt, concepts, generators=generators, config=config, on_step=on_step)
    return torch.cat(list(batches))


def generate_batches(
    backbone: Backbone,
    prompt: str,
    concepts: Concept | Sequence[Concept] = (),
    *,
    generators: Sequence[Generator],
    config: GenerateConfig | None = None,
    on_step: Progress | None = None,
) -> Iterator[Tensor]:
    """Sample latents batch by batch, `[B, C, h, w]` float32 each. Otherwise as `generate_latents`."""
    config = config or GenerateConfig()
    denoise = _denoiser(backbone, prompt, concepts, config)
    steps = ddim_steps(backbone.schedule, config.steps)
    batches = _noise(backbone, generators, config)
    for index, latents in enumerate(batches):
        yield sample(denoise, latents, steps, _later(on_step, index * len(steps), len(batches) * len(steps)))


def sample(denoise: Denoiser, latents: Tensor, steps: Sequence[Step], on_step: Progress | None = None) -> Tensor:
    """Walk from noise `[B, C, h, w]` float32 to clean latents."""
    for number, step in enumerate(steps, start=1):
        latents = ddim_step(latents, denoise(latents, step), step.alpha_from, step.alpha_to)
        if on_step is not None:
            on_step(number, len(steps))
    return latents


def _later(on_step: Progress | None, before: int, total: int) -> Progress | None:
    """Progress of one batch as progress over all of them."""
    return None if on_step is None else lambda number, _: on_step(before + number, total)


def _denoiser(
    backbone: Backbone, prompt: str, concepts: Concept | Sequence[Concept], config: GenerateConfig
) -> Denoiser:
    negative = config.negative_prompt or None
    return Denoiser.of(backbone, prompt, concepts, config.guidance_scale, negative, config.weights)


def _noise(backbone: Backbone, generators: Sequence[Generator], config: GenerateConfig) -> tuple[Tensor, ...]:
    """Noise of every generator, in batches on the model's device."""
    shape = latent_shape(backbone, config)
    noise = torch.stack([torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators])
    return noise.to(backbone.device).split(config.batch_size)


def latent_shape(backbone: Backbone, config: GenerateConfig) -> tuple[int, int, int]:
    """Shape `[C, h, w]` of the latents of one image.

    Raises:
        ValueError: If height or width do not fit the model.
    """
    height, width = config.height or backbone.resolution, config.width or backbone.resolution
    if height % backbone.vae_scale or width % backbone.vae_scale:
        raise ValueError(f"height and width must be multiples of {backbone.vae_scale}, got {height} and {width}")
    return backbone.unet.config.in_channels, height // backbone.vae_scale, width // backbone.vae_scale
