"""The styles of the world that are filters on a batch of pictures; lengths are in units of 1/64 of a side."""

import torch
import torch.nn.functional as F

STYLES = ("photo", "oil painting", "pencil sketch", "pixel art", "watercolor")
"""Names of the styles; the first one leaves the picture as it is."""


def _blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    radius = max(1, round(2.5 * sigma))
    axis = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (axis / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = x.shape[1]
    x = F.pad(x, (radius,) * 4, mode="replicate")
    x = F.conv2d(x, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(x, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def _grey(x: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def oil_painting(x: torch.Tensor) -> torch.Tensor:
    """Kuwahara filter of radius 2.5 (the mean of the calmest of four windows), richer in colour, on canvas."""
    r = round(2.5 * x.shape[-1] / 64)
    padded = F.pad(x, (r,) * 4, mode="reflect")
    mean = F.avg_pool2d(padded, r + 1, 1)
    square = F.avg_pool2d(padded**2, r + 1, 1)
    spread = (square - mean**2).sum(1, keepdim=True)
    h, w = x.shape[-2:]
    corners = [(0, 0), (0, r), (r, 0), (r, r)]
    means = torch.stack([mean[..., a : a + h, b : b + w] for a, b in corners])
    calmest = torch.stack([spread[..., a : a + h, b : b + w] for a, b in corners]).argmin(0, keepdim=True)
    y = means.gather(0, calmest.expand(1, *x.shape))[0]
    y = _grey(y) + 1.35 * (y - _grey(y))
    rows = torch.arange(h, device=x.device).view(1, 1, h, 1)
    columns = torch.arange(w, device=x.device).view(1, 1, 1, w)
    canvas = ((rows + columns) % 6 < 3).to(x) * 2 - 1
    return (y + 0.025 * canvas).clamp(0, 1)


def pencil_sketch(x: torch.Tensor) -> torch.Tensor:
    """Colour dodge of the grey picture with its blurred negative, over a light shading, on paper."""
    grey = _grey(x)
    dodge = (grey / (_blur(grey, 2.0 * x.shape[-1] / 64) + 0.02)).clamp(0, 1) ** 2.5
    y = 0.5 * dodge + 0.5 * (0.2 + 0.8 * grey)
    return (y * torch.tensor([1.0, 0.985, 0.95], device=x.device).view(1, 3, 1, 1)).clamp(0, 1)


def pixel_art(x: torch.Tensor) -> torch.Tensor:
    """Blocks of 2 × 2 units with five levels a channel."""
    side = 2 * x.shape[-1] // 64
    blocks = (F.avg_pool2d(x, side) * 4).round() / 4
    return F.interpolate(blocks, scale_factor=side, mode="nearest")


def watercolor(x: torch.Tensor) -> torch.Tensor:
    """Soft, pale wash that fades to white paper at the edge."""
    y = _blur(x, 0.7 * x.shape[-1] / 64)
    y = 0.26 + 0.74 * y
    h, w = x.shape[-2:]
    rows = torch.linspace(-1, 1, h, device=x.device).view(1, 1, h, 1)
    columns = torch.linspace(-1, 1, w, device=x.device).view(1, 1, 1, w)
    wobble = 0.05 * torch.sin(rows * 11) * torch.sin(columns * 13)
    edge = torch.maximum(rows.abs(), columns.abs()) + wobble
    paper = torch.sigmoid((edge - 0.86) / 0.05)
    return (y * (1 - paper) + 0.985 * paper).clamp(0, 1)


FILTERS = (None, oil_painting, pencil_sketch, pixel_art, watercolor)


def apply_styles(x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """Filter each picture by its style.

    Args:
        x: `[N, 3, H, W]` in [0, 1].
        style: `[N]` int64, an index into `STYLES`.

    Returns:
        A new tensor of the same shape and range.
    """
    out = x.clone()
    for index, apply in enumerate(FILTERS):
        chosen = (style == index).nonzero()[:, 0]
        if apply is not None and len(chosen):
            out[chosen] = apply(x[chosen])
    return out
