"""What a batch costs."""

from __future__ import annotations

from torch import Tensor


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
