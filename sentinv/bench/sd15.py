"""A pipeline in the shape of Stable Diffusion 1.5 with random weights: it costs what the real one costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentinv.files.atomic import StrPath, atomic_folder, atomic_write

if TYPE_CHECKING:
    import torch

UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def models() -> tuple[Any, Any, Any]:
    """UNet, VAE and text encoder with random weights, on torch's current default device and dtype."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    words = TEXT["vocab_size"]
    text = CLIPTextConfig(**TEXT, bos_token_id=words - 2, eos_token_id=words - 1, pad_token_id=words - 1)
    return UNet2DConditionModel(**UNET), AutoencoderKL(**VAE), CLIPTextModel(text)


def save_pipeline(folder: StrPath, dtype: torch.dtype, seed: int = 0) -> Path:
    """Write such a pipeline to a folder that does not exist yet: about 2 GB in half precision, 4 GB in single.

    Raises:
        SentinvError: If it can't be written.
    """
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet, vae, text_encoder = (model.to(dtype) for model in models())
    with atomic_folder(folder) as target:
        pipeline: Any = StableDiffusionPipeline(
            unet=unet,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer(target / "tokenizer"),
            scheduler=DDIMScheduler(**SCHEDULE),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(target)
    return Path(folder)


def tokenizer(scratch: Path) -> Any:
    """A byte-level tokenizer with as many entries as CLIP's; most of them never occur.

    Args:
        scratch: a folder that does not exist yet, for its files.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    entries = [*letters, *(f"{letter}</w>" for letter in letters)]
    entries += [f"\u2047{index}" for index in range(TEXT["vocab_size"] - len(entries) - 2)]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    made = CLIPTokenizer(
        vocab={entry: index for index, entry in enumerate(entries)},
        merges=[],
        model_max_length=TEXT["max_position_embeddings"],
    )
    made.save_pretrained(scratch)
    atomic_write(scratch / "merges.txt", b"#version: 0.2\n", overwrite=True)
    return CLIPTokenizer.from_pretrained(scratch)
