"""DDIM: one step for both directions, and the levels it walks (Song et al. 2021, arXiv:2010.02502, equation 12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sentinv.diffusion.conversions import to_epsilon, to_x0
from sentinv.errors import ModelError

if TYPE_CHECKING:
    from sentinv.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class Step:
    """One step of sampling, from the noisier side to the cleaner.

    Attributes:
        timestep: the label that the model is asked with.
        alpha_from: alphas_cumprod at the noisier end.
        alpha_to: alphas_cumprod at the cleaner end.
    """

    timestep: int
    alpha_from: float
    alpha_to: float

    @property
    def from_nothing(self) -> bool:
        """Whether it starts in pure noise, with a signal-to-noise ratio of exactly zero (Lin et al. 2024, arXiv:2305.08891)."""
        return self.alpha_from <= 0


def direction(prediction: Tensor, noisy: Tensor, step: Step, prediction_type: str) -> Tensor:
    """What `ddim_step` needs of a model's answer at the noisier end of a step.

    Epsilon; from pure noise, where that is the latents themselves and says nothing, the velocity v, which is -x0 there.

    Args:
        prediction: the answer, `[B, C, h, w]`.
        noisy: the latents it was asked about, the same shape.
        step: the step that begins there.
        prediction_type: of the model; "epsilon" cannot start from pure noise.
    """
    level = torch.tensor(step.alpha_from)
    convert = to_x0 if step.from_nothing else to_epsilon
    found = convert(prediction, noisy, level, prediction_type)
    return -found if step.from_nothing else found


def ddim_step(
    latents: Tensor, eps: Tensor, alpha_from: float | Tensor, alpha_to: float | Tensor, sigma: float = 0.0
) -> Tensor:
    """Move latents along the deterministic DDIM path from one noise level to another.

    Args:
        latents: x at `alpha_from`, `[B, C, h, w]` float32.
        eps: the noise in it, the same shape; if one of the levels is pure noise, the velocity there: see `direction`.
        alpha_from: alphas_cumprod of `latents`, in [0, 1].
        alpha_to: alphas_cumprod to go to, in [0, 1]; larger denoises, smaller inverts.
        sigma: standard deviation of the fresh noise that the caller adds afterwards, in [0, sqrt(1 - alpha_to)].

    Returns:
        x at `alpha_to`; with a sigma, its mean before the fresh noise.
    """
    source, destination = (torch.as_tensor(alpha, dtype=latents.dtype) for alpha in (alpha_from, alpha_to))
    if not isinstance(alpha_from, Tensor) and alpha_from <= 0:  # x0 is -v, eps the latents
        return (1 - destination - sigma**2).clamp(min=0).sqrt() * latents - destination.sqrt() * eps
    if not isinstance(alpha_to, Tensor) and alpha_to <= 0:  # the same, solved for the latents
        return (latents + source.sqrt() * eps) / (1 - source).sqrt()
    x0 = (latents - (1 - source).sqrt() * eps) / source.sqrt()
    return destination.sqrt() * x0 + (1 - destination - sigma**2).clamp(min=0).sqrt() * eps


def ddpm_sigma(step: Step) -> float:
    """Standard deviation of the fresh noise that makes a DDIM step one of DDPM (equation 16 with eta = 1)."""
    return ((1 - step.alpha_to) / (1 - step.alpha_from) * (1 - step.alpha_from / step.alpha_to)) ** 0.5


def ddim_steps(schedule: NoiseSchedule, count: int) -> list[Step]:
    """The steps of sampling, from noise to image. Walked backwards they are those of inversion.

    Spacing ("leading", "trailing", "linspace"), `steps_offset` and `set_alpha_to_one` are those of the scheduler's config,
    and mean what they mean in diffusers' `DDIMScheduler`.

    Args:
        schedule: the model's noise schedule.
        count: how many, in [1, train_timesteps].

    Raises:
        ValueError: If `count` is out of range.
        ModelError: If the config clips or thresholds samples, which no latent model survives; if it begins in pure noise and
            the model predicts epsilon, which says nothing there; or if its `steps_offset` leaves no room for so many steps.
    """
    config, total = schedule.config, schedule.train_timesteps
    if not 1 <= count <= total:
        raise ValueError(f"steps must be in [1, {total}], got {count}")
    for option in ("clip_sample", "thresholding"):
        if config.get(option):
            raise ModelError(
                f"{schedule.model}: the scheduler's {option} is on, which ruins latents: set it to false in its config"
            )
    timesteps = _timesteps(config.get("timestep_spacing", "leading"), count, total, config.get("steps_offset", 0))
    alphas = [float(alpha) for alpha in schedule.alphas_cumprod]
    steps = []
    for timestep in timesteps:
        previous = timestep - total // count
        alpha_to = alphas[previous] if previous >= 0 else schedule.final_alpha_cumprod
        steps.append(Step(timestep, alphas[timestep], alpha_to))
    if steps[0].from_nothing and schedule.prediction_type == "epsilon":
        raise ModelError(
            f"{schedule.model}: the noise schedule begins in pure noise (rescale_betas_zero_snr), where epsilon says nothing: "
            "set prediction_type to v_prediction if the model predicts v, else rescale_betas_zero_snr to false"
        )
    return steps


def _timesteps(spacing: str, steps: int, total: int, offset: int) -> list[int]:
    """Timesteps from high to low (Lin et al. 2024, arXiv:2305.08891, table 2), rounded as diffusers rounds them."""
    match spacing:
        case "leading":
            if (steps - 1) * (total // steps) + offset >= total:
                raise ModelError(
                    f"with a steps_offset of {offset} there are at most {total - offset} steps, got {steps}: take fewer"
                )
            return [index * (total // steps) + offset for index in reversed(range(steps))]
        case "trailing":
            return [int(one) - 1 for one in np.round(np.arange(total, 0, -total / steps))[:steps]]
        case "linspace":
            return [int(one) for one in np.linspace(0, total - 1, steps).round()[::-1]]
    raise ModelError(f"expected a timestep_spacing of leading, trailing or linspace, got {spacing!r}")
