"""What a model predicts, and how far it is from what it should have: conversions, targets, loss, timesteps.

Notation: x_t = sqrt(a) x0 + sqrt(1 - a) eps, with a = alphas_cumprod[t]; v = sqrt(a) eps - sqrt(1 - a) x0 (Salimans & Ho
2022, arXiv:2202.00512). For flow matching x_t = (1 - s) x0 + s eps, and the velocity is eps - x0.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def coefficients(alphas_cumprod: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Scale of the signal and of the noise, sqrt(a) and sqrt(1 - a), with the dimensions of `like` `[B, ...]`."""
    alpha = alphas_cumprod.to(like.device, torch.float32).reshape(-1, *[1] * (like.ndim - 1))
    return alpha.sqrt(), (1 - alpha).sqrt()


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Noisy latents x_t of clean latents and noise `[B, C, h, w]`, at the levels `[B]`."""
    signal, sigma = coefficients(alphas_cumprod, latents)
    return signal * latents + sigma * noise


def target(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, prediction_type: str) -> Tensor:
    """What a perfect model of that prediction type would answer.

    Raises:
        ValueError: If the prediction type is unknown.
    """
    signal, sigma = coefficients(alphas_cumprod, latents)
    match prediction_type:
        case "epsilon":
            return noise
        case "sample":
            return latents
        case "v_prediction":
            return signal * noise - sigma * latents
        case "flow":
            return noise - latents
    raise ValueError(f"unknown prediction type {prediction_type!r}")


def to_epsilon(prediction: Tensor, noisy: Tensor, alphas_cumprod: Tensor, prediction_type: str) -> Tensor:
    """The noise that a prediction stands for.

    Args:
        prediction: the model's answer, `[B, C, h, w]`.
        noisy: the x_t it was asked about.
        alphas_cumprod: a of x_t, `[B]` or a scalar tensor. For "flow", a is (1 - s)² and x_t lies on the straight line.
        prediction_type: "epsilon", "sample", "v_prediction" or "flow".

    Raises:
        ValueError: If the prediction type is unknown.
    """
    signal, sigma = coefficients(alphas_cumprod, noisy)
    match prediction_type:
        case "epsilon":
            return prediction
        case "sample":
            return (noisy - signal * prediction) / sigma
        case "v_prediction":
            return signal * prediction + sigma * noisy
        case "flow":
            return noisy + signal * prediction
    raise ValueError(f"unknown prediction type {prediction_type!r}")


def to_x0(prediction: Tensor, noisy: Tensor, alphas_cumprod: Tensor, prediction_type: str) -> Tensor:
    """The clean latents that a prediction stands for. Arguments as for `to_epsilon`."""
    signal, sigma = coefficients(alphas_cumprod, noisy)
    match prediction_type:
        case "epsilon":
            return (noisy - sigma * prediction) / signal
        case "sample":
            return prediction
        case "v_prediction":
            return signal * noisy - sigma * prediction
        case "flow":
            return noisy - (1 - signal) * prediction
    raise ValueError(f"unknown prediction type {prediction_type!r}")


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


def stratified_timesteps(count: int, train_timesteps: int, generator: Generator) -> Tensor:
    """Draw timesteps `[count]` int64, one from each of `count` equal parts of [0, train_timesteps).

    Each is uniform on its part, so any of them chosen at random is uniform on the whole; together they vary less than
    independent draws (Kingma et al. 2021, arXiv:2107.00630, appendix I.1).
    """
    position = (torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) / count
    return (position * train_timesteps).long().clamp(max=train_timesteps - 1)


def evaluation_grid(timesteps: int, noises: int, train_timesteps: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The (timestep, noise) pairs on which all runs are compared: the same for every run, whatever its seed.

    Args:
        timesteps: how many timesteps, evenly spread, in the middle of their parts.
        noises: how many noises for each.
        train_timesteps: length of the noise schedule.
        shape: `[C, h, w]` of one latent.

    Returns:
        Timesteps `[K]` int64 and noises `[K, C, h, w]` float32, on the CPU, with K = timesteps × noises.
    """
    middles = ((torch.arange(timesteps) + 0.5) * train_timesteps / timesteps).long()
    noise = torch.randn((timesteps * noises, *shape), generator=Generator().manual_seed(0))
    return middles.repeat_interleave(noises), noise
