"""Formulas that compare pictures, and embeddings of pictures and texts."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d


def pairwise_cosine(generated: Tensor, real: Tensor) -> Tensor:
    """For each generated embedding `[N, D]` its mean cosine with the real ones `[M, D]`; all unit vectors. `[N]`."""
    return (generated @ real.T).mean(dim=1)


def mean_embedding_cosine(generated: Tensor, text: Tensor) -> float:
    """Cosine of the mean of unit vectors `[N, D]` with a text's unit vector `[D]`."""
    return torch.cosine_similarity(generated.mean(dim=0), text, dim=0).item()


def mean_squared_error(first: Tensor, second: Tensor) -> Tensor:
    """Per picture, `[N]`; pictures `[N, 3, H, W]` in [-1, 1] are compared in [0, 1]."""
    return ((first - second) / 2).square().flatten(1).mean(dim=1)


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, `[N]`, at most 100; pictures `[N, 3, H, W]` in [-1, 1]."""
    return -10 * mean_squared_error(first, second).clamp(min=1e-10).log10()


def pixel_psnr(image: Image.Image, reference: Image.Image, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit RGB images of one size; infinite where they are equal.

    Args:
        image: to be judged.
        reference: what it should be.
        mask: `[H, W]` bool, the pixels to look at; the mean is over these only.
    """
    error = (np.asarray(image, np.float64) - np.asarray(reference, np.float64)) ** 2
    mean = error.mean() if mask is None else error[mask].mean()
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861), `[N]`, mean over channels.

    Gaussian window of 11 × 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, only where the window fits.

    Args:
        first: `[N, 3, H, W]` in [-1, 1], at least 11 pixels on each side.
        second: the same shape.
    """
    position = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(position**2) / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]
    x, y = (((part.double() + 1) / 2).flatten(0, 1)[:, None] for part in (first, second))

    def blur(values: Tensor) -> Tensor:
        return conv2d(values, window)

    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (top / bottom).flatten(1).mean(dim=1).reshape(first.shape[:2]).mean(dim=1)
