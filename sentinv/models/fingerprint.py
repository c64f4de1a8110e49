"""Which weights a model has, and what else decides what it gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn


def constants_digest(backbone: Any) -> str:
    """What else decides what a `Backbone` gives, in 16 hex digits: noise schedule, sampling steps, scales and size."""
    schedule, latents = backbone.schedule, backbone.vae.config
    told = {
        "alphas_cumprod": [f"{a:.6g}" for a in (*schedule.alphas_cumprod.tolist(), schedule.final_alpha_cumprod)],
        "prediction_type": schedule.prediction_type,
        "grid": [schedule.config.get("timestep_spacing", "leading"), schedule.config.get("steps_offset", 0)],
        "latents": [latents.get(name) for name in ("scaling_factor", "shift_factor", "latents_mean", "latents_std")],
        "resolution": backbone.resolution,
        "prompts": [backbone.zeros_for_empty_prompt, *(encoder.wants_mask for encoder in backbone.text_encoders)],
        "guidance_scale": backbone.guidance_scale,
    }
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def weights_digest(modules: Sequence[nn.Module]) -> str:
    """Which weights these are, in 64 hex digits; the same in every precision.

    A sha256 of every tensor's name, shape and the sign bits of at most 512 of its values. Sign bits, because rounding a weight
    to fp16 or bf16 keeps them, to zero as well; so it tells models apart, and does not prove two equal.
    """
    digest = hashlib.sha256()
    for index, module in enumerate(modules):
        for name, parameter in sorted(_named_parameters(module)):
            values = parameter.detach().flatten()
            signs = values[:: max(1, len(values) // 512)][:512].signbit()
            digest.update(f"{index} {name} {tuple(parameter.shape)} ".encode() + signs.cpu().numpy().tobytes())
    return digest.hexdigest()


def _named_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters by the names that they have in the newest transformers: older ones prefix those of CLIP's text model."""
    prefix = "text_model." if type(module).__name__ == "CLIPTextModel" else ""
    for name, parameter in module.named_parameters():
        yield name.removeprefix(prefix), parameter
