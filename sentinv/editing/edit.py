"""Edit a real image: invert it once, then sample from its noise with other words.

    archive = ddim_invert(backbone, image, "a photo of <c>", [concept])
    edited = edit(backbone, archive, "an oil painting of <c>", [concept])

The noise x_T stays (the bipartite inversion of Gal et al. 2022, arXiv:2208.01618, appendix); the words change. What keeps the
rest of the image in place is `EditConfig.source`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from sentinv.concepts.concept import several
from sentinv.diffusion.ddim import Step, ddim_step, ddim_steps, ddpm_sigma
from sentinv.editing.archive import Archive
from sentinv.editing.inversion import Asked, InversionConfig, check_finite, find_offsets, find_trajectory
from sentinv.files.decoding import picture_of
from sentinv.files.images import prepare, size_in_shape, to_pil
from sentinv.generation.denoiser import Denoiser
from sentinv.generation.generate import Progress
from sentinv.generation.weights import Weights

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone

Held = Literal["npi", "none", "delta", "direct"]
Blend = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class EditConfig:
    """How an inverted image is edited.

    Attributes:
        guidance_scale: how strongly the prompt leads, ≥ 0; 1 is no guidance, None the model's own, and half of that for
            "npi".
        source: what holds the image in place.
            "npi": guidance leads away from the source prompt, not from the empty one (negative-prompt inversion,
            Miyake et al. 2023, arXiv:2305.16807). Costs nothing. It strengthens what the prompts differ in and nothing
            else, and so needs less of it.
            "none": nothing; plain guidance, as Gal et al. did.
            "delta": plain guidance, and the offsets that make the source prompt walk back exactly at that guidance are added
            to the edit too (after Ju et al. 2023, arXiv:2310.01506).
            "direct": plain guidance, and the model is asked where the inversion, which must be "ddim", asked it
            (`Archive.realigned`). Costs nothing.
        skip: share of the steps that are left out at the noisy end, in [0, 1): more keeps more of the image.
        source_guidance: the guidance scale at which offsets are taken; that of the edit if None. An image inverted by
            "ddpm" always needs offsets, and Huberman-Spiegelglas et al. take 3.5 here and 15 for the edit.
        weights: placeholder → how much the word counts in the new prompt, in [0, 3].

    Raises:
        ValueError: If a value is out of its range.
    """

    guidance_scale: float | None = None
    source: Held = "npi"
    skip: float = 0.0
    source_guidance: float | None = None
    weights: Weights = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.source not in get_args(Held):
            raise ValueError(f"source must be one of {', '.join(get_args(Held))}, got {self.source!r}")
        for name in ("guidance_scale", "source_guidance"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        if not 0 <= self.skip < 1:
            raise ValueError(f"skip must be in [0, 1), got {self.skip}")

    def guidance(self, backbone: Backbone) -> float:
        """The guidance scale of the edit."""
        if self.guidance_scale is not None:
            return self.guidance_scale
        return backbone.guidance_scale / (2 if self.source == "npi" else 1)

    def offset_guidance(self, backbone: Backbone) -> float:
        """The guidance scale at which the source prompt is to walk back exactly."""
        if self.source == "npi":  # there, guidance of the source by itself is no guidance
            return 1.0
        return self.guidance(backbone) if self.source_guidance is None else self.source_guidance


@dataclass(frozen=True, eq=False)
class Edited:
    """An edited image.

    Attributes:
        image: RGB.
        latents: `[1, C, h, w]` float32, clean and scaled.
        skip: as it was sampled.
        evaluations: UNet evaluations that it cost, those of offsets that had to be taken included.
    """

    image: Image.Image
    latents: Tensor
    skip: float
    evaluations: int


def ddim_invert(
    backbone: Backbone,
    image: Image.Image,
    source_prompt: str,
    concepts: Concept | Sequence[Concept] = (),
    config: InversionConfig | None = None,
    on_step: Progress | None = None,
) -> Archive:
    """Find the noise that an image comes from.

    Args:
        backbone: the model.
        image: any size; `prepared` for the model.
        source_prompt: what it shows, such as "a photo of <c>".
        concepts: the learned words.
        config: how.
        on_step: called after every step with (steps done, steps in all).

    Raises:
        EditError: If latents are not finite, naming the first bad step.
        PromptError: If the prompt names a placeholder that is not given.
        ConceptError: If a concept does not fit the model.
        ModelError: If the scheduler's config cannot be inverted.
    """
    config, concepts = config or InversionConfig(), several(concepts)
    steps = ddim_steps(backbone.schedule, config.steps)
    pixels = prepared(backbone, image)
    latents = encode_image(backbone, pixels)
    check_finite(latents, "encoding", 0, config.steps, steps[-1])
    denoise = Denoiser.of(backbone, source_prompt, concepts, config.guidance_scale)
    trajectory = find_trajectory(denoise, latents, steps, config, on_step)
    return Archive(
        image=to_pil(pixels)[0],
        reconstruction=to_pil(backbone.decode(latents))[0],
        trajectory=replace(trajectory, states=trajectory.states.cpu()),
        steps=tuple(steps),
        config=config,
        source_prompt=source_prompt,
        model=backbone.name,
        fingerprint=backbone.fingerprint,
        prediction_type=backbone.schedule.prediction_type,
        concepts={concept.token: concept.digest for concept in concepts if concept.token in source_prompt},
        evaluations=denoise.evaluations,
    )


def edit(
    backbone: Backbone,
    archive: Archive,
    prompt: str,
    concepts: Concept | Sequence[Concept] = (),
    config: EditConfig | None = None,
    on_step: Progress | None = None,
) -> Edited:
    """Sample from an image's own noise with other words.

    Args:
        backbone: the model that the archive was made with.
        archive: the inverted image.
        prompt: what to show instead.
        concepts: the learned words of both prompts.
        config: how.
        on_step: called after every step with (steps done, steps in all).

    Raises:
        EditError: If the archive does not belong to the model or the concepts, or latents are not finite.
        PromptError: If a prompt names a placeholder that is not given.
    """
    return sweep(backbone, archive, prompt, concepts, config, on_step=on_step)[0]


def sweep(
    backbone: Backbone,
    archive: Archive,
    prompt: str,
    concepts: Concept | Sequence[Concept] = (),
    config: EditConfig | None = None,
    skips: Sequence[float] | None = None,
    on_step: Progress | None = None,
) -> list[Edited]:
    """Edit once for every skip. Offsets are taken once; their cost is counted with the first. Otherwise as `edit`."""
    config, concepts = config or EditConfig(), several(concepts)
    archive.check(backbone, concepts)
    offsets, cost = None, 0
    if needs_offsets(archive, config):
        archive, cost = take_offsets(backbone, archive, concepts, config)
        offsets = archive.offsets[config.offset_guidance(backbone)]
    away = archive.source_prompt if config.source == "npi" else None
    denoise = Denoiser.of(backbone, prompt, concepts, config.guidance(backbone), away, config.weights)
    states = archive.trajectory.states.to(backbone.device)
    ask = archive.realigned(denoise) if config.source == "direct" else denoise
    results = []
    for skip in skips if skips is not None else [config.skip]:
        first = first_step(skip, len(archive.steps))
        latents = walk(ask, states[first], archive.steps, first, offsets, archive.config.eta, on_step=on_step)
        image = to_pil(backbone.decode(latents))[0]
        results.append(Edited(image, latents, skip, cost + denoise.evaluations))
        cost = denoise.evaluations = 0
    return results


def needs_offsets(archive: Archive, config: EditConfig) -> bool:
    """Whether an edit adds offsets: those of "ddpm" are its noise, and "delta" consists of them."""
    return archive.config.eta > 0 or config.source == "delta"


def take_offsets(
    backbone: Backbone, archive: Archive, concepts: Sequence[Concept], config: EditConfig
) -> tuple[Archive, int]:
    """Put the offsets that a config needs into an archive, if they are not there yet.

    Returns:
        The archive, and the UNet evaluations that it cost.
    """
    scale = config.offset_guidance(backbone)
    if scale in archive.offsets:
        return archive, 0
    denoise = Denoiser.of(backbone, archive.source_prompt, concepts, scale)
    trajectory = replace(archive.trajectory, states=archive.trajectory.states.to(backbone.device))
    offsets = find_offsets(denoise, trajectory, archive.steps, archive.config.eta)
    return archive.with_offsets(scale, offsets), denoise.evaluations


@torch.no_grad()
def walk(
    denoise: Asked,
    latents: Tensor,
    steps: Sequence[Step],
    first: int = 0,
    offsets: Tensor | None = None,
    eta: float = 0.0,
    blend: Blend | None = None,
    on_step: Progress | None = None,
) -> Tensor:
    """Sample along steps.

    Args:
        denoise: the model with its prompts.
        latents: at the noisier end of step `first`, `[B, C, h, w]` float32.
        steps: N of them, from `ddim_steps`.
        first: the step to begin with, in [0, N).
        offsets: `[N, B, C, h, w]` to add after each step.
        eta: 1 if the offsets hold the noise of DDPM.
        blend: called after each step with the latents and the index of the level that they are at now, in [1, N]; what it
            returns goes on.
        on_step: called after every step with (steps done, steps in all).

    Raises:
        EditError: If latents are not finite, naming the first bad step.
    """
    for number, step in enumerate(steps[first:], start=first + 1):
        eps = denoise(latents, step)
        latents = ddim_step(latents, eps, step.alpha_from, step.alpha_to, eta * ddpm_sigma(step))
        if offsets is not None:
            latents = latents + offsets[number - 1].to(latents.device)
        if blend is not None:
            latents = blend(latents, number)
        check_finite(latents, "edit", number, len(steps), step)
        if on_step is not None:
            on_step(number - first, len(steps) - first)
    return latents


def first_step(skip: float, steps: int) -> int:
    """The step to begin with if a share of them is skipped; the last one is always made."""
    return min(round(skip * steps), steps - 1)


def prepared(backbone: Backbone, image: Image.Image) -> Tensor:
    """Scale an image to the model's area in the image's own shape: `[1, 3, H, W]` in [-1, 1].

    Sides are multiples of `Backbone.size_multiple`, so that a little may be cut off at two edges.
    """
    upright = picture_of(image).image
    return prepare(upright, prepared_size(backbone, upright), multiple=backbone.size_multiple)


def prepared_size(backbone: Backbone, image: Image.Image) -> tuple[int, int]:
    """Height and width that an upright image is `prepared` to."""
    return size_in_shape((image.height, image.width), backbone.resolution, backbone.size_multiple)


def encode_image(backbone: Backbone, pixels: Tensor) -> Tensor:
    """Clean, scaled latents `[1, C, h, w]` of an image: the mean of what the autoencoder sees."""
    moments = backbone.encode(pixels)
    return backbone.sample_latents(moments.mean, moments.std, torch.zeros_like(moments.mean))
