"""What a model predicts, and how far it is from what it should have: conversions, targets, loss, timesteps.

Notation: x_t = sqrt(a) x0 + sqrt(1 - a) eps, with a = alphas_cumprod[t]; v = sqrt(a) eps - sqrt(1 - a) x0 (Salimans & Ho
2022, arXiv:2202.00512). For flow matching x_t = (1 - s) x0 + s eps, and the velocity is eps - x0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def coefficients(alphas_cumprod: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Scale of the signal and of the noise, sqrt(a) and sqrt(1 - a), with the dimensions of `like` `[B, ...]`.

    A scalar on the CPU stays there: copying it would make the host wait for an accelerator.
    """
    alpha = alphas_cumprod.to(torch.float32)
    if alpha.ndim or alpha.device.type != "cpu":
        alpha = alpha.to(like.device).reshape(-1, *[1] * (like.ndim - 1))
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
