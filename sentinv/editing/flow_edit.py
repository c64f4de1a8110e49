"""Edit without inversion: from the image towards the new words, along the difference of what two prompts ask for.

FlowEdit (Kulikov et al. 2024, arXiv:2412.08629, algorithm 1) integrates the difference of two velocities, both asked with the
same fresh noise, so that an edit that changes nothing leaves the image alone. Its velocities are those of rectified flow. For
a model that sees noise, latents divided by their signal's share follow `d z / d sigma = epsilon`, with sigma the ratio of noise
to signal (Song et al. 2021, arXiv:2010.02502, equation 14), and the same algorithm holds with epsilon in the velocity's place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from sentinv.concepts.concept import several
from sentinv.diffusion.conversions import add_noise
from sentinv.diffusion.ddim import Step, ddim_steps
from sentinv.editing.edit import Edited, encode_image, first_step, prepared
from sentinv.editing.inversion import Asked, check_finite
from sentinv.files.images import to_pil
from sentinv.generation.denoiser import Denoiser

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.concepts.concept import Concept
    from sentinv.generation.generate import Progress
    from sentinv.models.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class FlowEditConfig:
    """How an image is edited along a difference.

    Attributes:
        steps: of the grid, ≥ 1.
        guidance_scale: of the new prompt, ≥ 0; the model's own if None.
        source_guidance: of the source prompt, ≥ 0; if None a quarter of the other, at least 1: the authors take 3.5 and 13.5
            for Stable Diffusion 3.
        skip: share of the steps that are left out at the noisy end, in [0, 1): more keeps more of the image. The authors leave
            out .34 for Stable Diffusion 3 and .14 for FLUX.
        averages: draws of noise a step, ≥ 1.
        seed: of the noise, in [0, 2**63).

    Raises:
        ValueError: If a value is out of its range.
    """

    steps: int = 50
    guidance_scale: float | None = None
    source_guidance: float | None = None
    skip: float = 0.0
    averages: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.averages < 1:
            raise ValueError(f"steps and averages must be at least 1, got {self}")
        for name in ("guidance_scale", "source_guidance"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        if not 0 <= self.skip < 1 or not 0 <= self.seed < 2**63:
            raise ValueError(f"skip must be in [0, 1) and seed in [0, 2**63), got {self}")


def flow_edit(
    backbone: Backbone,
    image: Image.Image,
    source_prompt: str,
    prompt: str,
    concepts: Concept | Sequence[Concept] = (),
    config: FlowEditConfig | None = None,
    on_step: Progress | None = None,
) -> Edited:
    """Edit an image without inverting it.

    Args:
        backbone: the model.
        image: any size; scaled to the model's area.
        source_prompt: what it shows.
        prompt: what to show instead.
        concepts: the learned words of both prompts.
        config: how.
        on_step: called after every step with (steps done, steps in all).

    Raises:
        EditError: If latents are not finite, naming the first bad step.
        PromptError: If a prompt names a placeholder that is not given.
        ConceptError: If a concept does not fit the model.
    """
    config, concepts = config or FlowEditConfig(), several(concepts)
    scale = backbone.guidance_scale if config.guidance_scale is None else config.guidance_scale
    held = max(1.0, scale / 4) if config.source_guidance is None else config.source_guidance
    source, target = (
        Denoiser.of(backbone, text, concepts, own) for text, own in ((source_prompt, held), (prompt, scale))
    )
    steps = ddim_steps(backbone.schedule, config.steps)
    latents = encode_image(backbone, prepared(backbone, image))
    edited = follow(source, target, latents, steps[first_step(config.skip, config.steps) :], config, on_step)
    return Edited(to_pil(backbone.decode(edited))[0], edited, config.skip, source.evaluations + target.evaluations)


@torch.no_grad()
def follow(
    source: Asked,
    target: Asked,
    latents: Tensor,
    steps: Sequence[Step],
    config: FlowEditConfig,
    on_step: Progress | None = None,
) -> Tensor:
    """Move clean latents along the difference of two answers (Kulikov et al. 2024, algorithm 1).

    Args:
        source: the model with what the image shows.
        target: the model with what it is to show.
        latents: clean and scaled, `[B, C, h, w]` float32; each image of the batch gets the same noise.
        steps: those that are made, from noise to image. One from pure noise, where no signal is left to compare, is left out.
        config: draws and seed; the rest is not looked at.
        on_step: called after every step with (steps done, steps in all).

    Raises:
        EditError: If latents are not finite, naming the first bad step.
    """
    generator, edited = Generator().manual_seed(config.seed), latents
    for number, step in enumerate(steps, start=1):
        level, moves = torch.tensor(step.alpha_from), []
        for _ in range(0 if step.from_nothing else config.averages):
            noise = torch.randn(latents.shape[1:], generator=generator, dtype=latents.dtype).to(latents.device)
            noisy = add_noise(latents, noise.expand_as(latents), level)
            moved = noisy + step.alpha_from**0.5 * (edited - latents)
            moves.append(target(moved, step) - source(noisy, step))
        if moves:
            edited = edited + (_sigma(step.alpha_to) - _sigma(step.alpha_from)) * torch.stack(moves).mean(0)
        check_finite(edited, "edit", number, len(steps), step)
        if on_step is not None:
            on_step(number, len(steps))
    return edited


def _sigma(alpha: float) -> float:
    """The ratio of noise to signal at a level."""
    return math.sqrt((1 - alpha) / alpha)
