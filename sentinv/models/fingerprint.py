"""Which weights a model has, and what else decides what it gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone


def constants_digest(backbone: Backbone) -> str:
    """What else decides what a model gives, in 16 hex digits: noise schedule, sampling steps, scales and size."""
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
    return facts_digest(told)


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


def facts_digest(facts: Mapping[str, Any]) -> str:
    """Sixteen hex digits that stand for facts that JSON can say."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _named_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters by the names that they have in the newest transformers: older ones prefix those of CLIP's text model."""
    prefix = "text_model." if type(module).__name__ == "CLIPTextModel" else ""
    for name, parameter in module.named_parameters():
        yield name.removeprefix(prefix), parameter
