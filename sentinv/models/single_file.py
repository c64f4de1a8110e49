"""Checkpoints of Stable Diffusion in one file, in the original layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sentinv.errors import ModelError
from sentinv.models.backbone import Backbone
from sentinv.models.names import SHORT_NAMES
from sentinv.models.parts import load_part, one_line


def load_single_file(name: str, path: Path, dtype: torch.dtype) -> Backbone:
    """Load a checkpoint in the original layout. Its configs come from the hub's cache or the hub."""
    if path.suffix != ".safetensors":
        raise ModelError(
            f"expected a .safetensors checkpoint, got {path.name}: other formats can run code; convert it first"
        )
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            xl = any(key.startswith("conditioner.embedders.1.") for key in keys)
            words = [
                key for key in keys if key.startswith("model.diffusion_model.") and key.endswith("attn2.to_k.weight")
            ]
            two = bool(words) and not xl and file.get_slice(words[0]).get_shape()[-1] == 1024
    except SafetensorError as error:
        raise ModelError(f"{name} is not a readable safetensors file: {one_line(error)}") from error
    family: Any = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    extra: dict[str, Any] = {} if xl else {"safety_checker": None, "requires_safety_checker": False}
    if two:
        extra["config"] = SHORT_NAMES["sd21"]
    pipeline = load_part(name, "checkpoint", lambda: family.from_single_file(str(path), torch_dtype=dtype, **extra))
    if two and _predicts_noise(pipeline.unet, pipeline.scheduler.config.num_train_timesteps - 1):
        pipeline.scheduler.register_to_config(prediction_type="epsilon")
        pipeline.unet.register_to_config(sample_size=64)
    return Backbone.from_pipeline(pipeline, name)


@torch.no_grad()
def _predicts_noise(unet: Any, last: int) -> bool:
    """Whether a UNet's answer to pure noise at the last timestep is that noise.

    A file of Stable Diffusion 2 does not say whether it predicts noise, at 512 pixels, or v, at 768. There v is nearly the
    negative image, which has nothing of the noise.
    """
    size = (1, unet.config.in_channels, 64, 64)
    noise = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(unet.dtype)
    nothing = torch.zeros(1, 77, unet.config.cross_attention_dim, dtype=unet.dtype)
    answer = unet(noise, last, encoder_hidden_states=nothing).sample
    return torch.cosine_similarity(answer.float().flatten(), noise.float().flatten(), dim=0).item() > 0.5
