"""What a model predicts, found by asking it: where neither its file nor its scheduler's config says."""

from __future__ import annotations

import math

import torch

from sentinv.models.backbone import Backbone
from sentinv.models.condition import Condition


@torch.no_grad()
def asked_prediction(backbone: Backbone) -> str | None:
    """What a model predicts, found by asking it about noise; None if it cannot be told, as of weights that nobody trained.

    On pure noise at the last timestep a model of noise answers with nearly that noise; one of v with nearly the negative
    image, which has nothing of it. Whether the answer means anything is seen on a little noise at an early timestep: there
    a trained model of either kind answers with the noise. An answer that is not finite says nothing.
    """
    last = backbone.schedule.train_timesteps - 1
    alpha = backbone.schedule.alphas_cumprod[last // 20]
    little = _likeness(backbone, last // 20, float((1 - alpha).sqrt()))
    if not little > 0.3:
        return None
    much = _likeness(backbone, last, 1.0)
    return None if math.isnan(much) else "epsilon" if much > 0.5 else "v_prediction"


def _likeness(backbone: Backbone, timestep: int, sigma: float) -> float:
    """Cosine of noise and of the answer to it without a picture and without words."""
    unet = backbone.unet.config
    noise = torch.randn(1, unet.in_channels, 64, 64, generator=torch.Generator().manual_seed(0)).to(backbone.device)
    wide = sum(encoder.dim for encoder in backbone.text_encoders)
    hidden = torch.zeros(1, backbone.text_encoders[0].max_length, wide, device=backbone.device, dtype=backbone.dtype)
    pooled = None
    if backbone.is_xl:
        width = unet.projection_class_embeddings_input_dim - 6 * unet.addition_time_embed_dim
        pooled = torch.zeros(1, width, device=backbone.device, dtype=backbone.dtype)
    times = torch.full((1,), timestep, device=backbone.device)
    answer = backbone.predict(sigma * noise, times, Condition(hidden, pooled))
    return torch.cosine_similarity(answer.float().flatten(), noise.flatten(), dim=0).item()
