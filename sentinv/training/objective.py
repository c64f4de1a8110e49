"""What a batch costs: the denoising loss, each noise level by its weight.

The loop minimises the mean of what an objective says of a batch's items. Another objective is another callable: it may ask the
model twice, say as it was and as it is becoming, and mix two targets by a mask; all that it needs is in the batch or in itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from sentinv.diffusion.conversions import add_noise, target

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone
    from sentinv.training.data import Batch


class Objective(Protocol):
    """What the loop asks of an objective. It never makes the host wait, so that it can be captured in a CUDA graph."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision that it is computed in."""
        ...

    def __call__(self, batch: Batch) -> Tensor:
        """What is minimised, per item, `[B]` float32, differentiable."""
        ...


class DenoisingObjective:
    """Mean squared error of the model's prediction, times the weight of its noise level.

    Args:
        backbone: the model, with the rows of the prompts' placeholders installed.
        min_snr: gamma of the min-SNR weights for latents of `REFERENCE_SIDE`, as `TrainConfig` has it; None for no weights.

    Attributes:
        gamma: that of this model's latents, by `own_gamma`; None for no weights.
    """

    def __init__(self, backbone: Backbone, min_snr: float | None) -> None:
        self.backbone = backbone
        self.gamma = own_gamma(backbone, min_snr)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the model."""
        return self.backbone.dtype

    def __call__(self, batch: Batch) -> Tensor:
        """What is minimised, per item, `[B]`."""
        return self.errors(batch) * self.weights(batch)

    def errors(self, batch: Batch) -> Tensor:
        """Denoising loss per item, `[B]`, with every noise level counting the same."""
        backbone = self.backbone
        noisy = add_noise(batch.latents, batch.noise, batch.alphas_cumprod)
        prediction = backbone.predict(noisy, batch.timesteps, backbone.encode_ids(batch.ids))
        wanted = target(batch.latents, batch.noise, batch.alphas_cumprod, backbone.schedule.prediction_type)
        return denoising_loss(prediction, wanted, batch.mask)

    def weights(self, batch: Batch) -> Tensor | float:
        """What each item counts, `[B]`: its timestep's min-SNR weight, unless the batch says otherwise."""
        if batch.weights is not None:
            return batch.weights
        return 1.0 if self.timestep_weights is None else self.timestep_weights[batch.timesteps]

    @cached_property
    def timestep_weights(self) -> Tensor | None:
        """Min-SNR weight of every timestep `[T]`, on average 1 so that losses stay comparable; None for no weighting."""
        if self.gamma is None:
            return None
        schedule = self.backbone.schedule
        alphas_cumprod = schedule.alphas_cumprod.to(self.backbone.device)
        weights = min_snr_weights(alphas_cumprod, self.gamma, schedule.prediction_type)
        return weights / weights.mean()

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch]) -> tuple[float, float]:
        """Means over the fixed grid: of what is minimised, and of the loss without weights."""
        errors = [self.errors(batch) for batch in batches]
        weighted = [error * self.weights(batch) for error, batch in zip(errors, batches, strict=True)]
        return torch.cat(weighted).mean().item(), torch.cat(errors).mean().item()


REFERENCE_SIDE = 16
"""Latents along a side of the model that the default gamma was found on."""


def gamma_of(min_snr: float, side: int) -> float:
    """Gamma of the min-SNR weights for latents of another side: it grows with the square.

    This is an extrapolation between published settings, not a law: `docs/models.md` has the curves, and what else it could be.

    Args:
        min_snr: gamma for latents of `REFERENCE_SIDE`, > 0.
        side: latents along a side of the square that is trained on, ≥ 1.
    """
    return min_snr * (side / REFERENCE_SIDE) ** 2


def own_gamma(backbone: Backbone, min_snr: float | None) -> float | None:
    """Gamma for the latents of a model, by `gamma_of`; None for no weights."""
    return None if min_snr is None else gamma_of(min_snr, backbone.latent_side)


def min_snr_weights(alphas_cumprod: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Loss weights `[B]` that cap the signal-to-noise ratio at gamma (Hang et al. 2023, arXiv:2303.09556, section 3.4).

    For v-prediction, whose loss carries a factor of SNR + 1, they are divided by it.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    capped = snr.clamp(max=gamma)
    match prediction_type:
        case "epsilon":
            return capped / snr.clamp(min=1e-8)
        case "v_prediction":
            return capped / (snr + 1)
        case "sample":
            return capped
    raise ValueError(f"min-SNR weights are not defined for prediction type {prediction_type!r}")


def denoising_loss(prediction: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error per item, `[B]` float32.

    Args:
        prediction: `[B, C, h, w]`.
        wanted: the same shape.
        mask: `[B, 1, h, w]` weights of the pixels, ≥ 0; the mean is over their sum, so a small mask counts fully.
    """
    error = (prediction.float() - wanted.float()).square().mean(dim=1, keepdim=True)
    if mask is None:
        return error.flatten(1).mean(dim=1)
    return (error * mask).flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1).clamp(min=1e-8)
