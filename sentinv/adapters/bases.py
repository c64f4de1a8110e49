"""Which of the well-known bases a LoRA is for, told without a model: by shapes, names and headers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sentinv.adapters.lora import Lora
from sentinv.adapters.names import flat

UNETS: Mapping[str, Mapping[str, Any]] = {
    "sd1": {
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sd2": {
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
"""Short name of a base, as in `concepts.layouts.WIDTHS` → its UNet, where that is not diffusers' own default."""

NAMES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}

_TOLD = {
    "sd1": ("stable-diffusion-v1", "sd_v1", "sd_1"),
    "sd2": ("stable-diffusion-v2", "sd_v2", "sd_2"),
    "sdxl": ("stable-diffusion-xl", "sdxl"),
}
"""Base → how what headers say of it begins: modelspec's architecture, and kohya's ss_base_model_version."""

_CROSS = ("attn2_to_k", "attn2_to_v")


def base_of_lora(lora: Lora) -> str:
    """Short name of the base that a LoRA is for, as far as it shows.

    What reads the prompt has the width of the base's text encoders, and tells; where a LoRA has no such layer, its header may.

    Returns:
        "sd1", "sd2" or "sdxl"; "" if it is for none of them, or nothing tells.
    """
    widths = {layer.down.shape[1] for name, layer in lora.layers.items() if flat(name).endswith(_CROSS)}
    if widths:
        return next((base for base, unet in UNETS.items() if widths == {unet["cross_attention_dim"]}), "")
    told = [lora.metadata.get(key, "") for key in ("modelspec.architecture", "ss_base_model_version")]
    return next((base for base, starts in _TOLD.items() for one in told if one.startswith(starts)), "")


def base_of_unet(unet: Any) -> str:
    """Short name of the base that a UNet is of, by the width of what it reads; "" for one of another width."""
    width = unet.config.cross_attention_dim
    return next((base for base, config in UNETS.items() if config["cross_attention_dim"] == width), "")


@cache
def bare_unet(base: str) -> Any:
    """The UNet of a base without weights, on torch's "meta" device."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**UNETS[base])
