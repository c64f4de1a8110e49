"""What a file or folder is that somebody gives as a model: whole, or a part, or something else, by its keys alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sentinv.errors import ModelError
from sentinv.models.headers import WHOLE, Header, is_shard, refuse_quantised

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT = ("cond_stage_model.", "conditioner.embedders.")


def check_checkpoint(name: str, header: Header, *, vae: bool) -> None:
    """Refuse a file that is not a whole checkpoint of Stable Diffusion.

    Args:
        name: of the file.
        header: of the file.
        vae: whether an autoencoder is given with it.

    Raises:
        ModelError: If so. It names what the file is, and what is missing.
    """
    if is_shard(Path(name)):
        raise ModelError(f"{name} is one of several files that are a model together: {WHOLE}")
    for what, is_it in _KINDS:
        if is_it(header):
            raise ModelError(f"{name} is {what}")
    refuse_quantised(name, header)
    if not header.has(UNET):
        found = next(iter(header.shapes), "nothing")
        raise ModelError(f"{name} is not a checkpoint of Stable Diffusion (it holds {found[:60]} …): {WHOLE}")
    if not header.has(*TEXT):
        raise ModelError(
            f"{name} is a UNet {'and autoencoder ' if header.has(VAE) else ''}without a text encoder: {WHOLE}"
        )
    if header.has(f"{UNET}label_emb."):
        for index, which in enumerate(("first", "second")):
            if not header.has(f"conditioner.embedders.{index}."):
                raise ModelError(
                    f"{name} is a checkpoint of Stable Diffusion XL without its {which} text encoder: {WHOLE}"
                )
    if not (header.has(VAE) or vae):
        raise ModelError(f"{name} is a checkpoint without an autoencoder: give one with --vae")


def _first_convolution(header: Header, *keys: str) -> int | None:
    """Channels that a UNet takes."""
    shapes = [header.shapes[key] for key in keys if key in header.shapes]
    return shapes[0][1] if shapes and len(shapes[0]) == 4 else None


def _other_channels(header: Header) -> bool:
    return _first_convolution(header, f"{UNET}input_blocks.0.0.weight") not in (None, 4)


def _is_whole(header: Header) -> bool:
    return header.has(UNET) and header.has(VAE) and header.has(*TEXT)


def _has_other_blocks(header: Header) -> bool:
    """Whether there is a network in the place of the UNet that is none, as later families have."""
    return any(
        header.has(start) and not header.has(f"{start}input_blocks.0.0.") for start in (UNET, "diffusion_model.")
    )


def _is_vae(header: Header) -> bool:
    return not header.has(UNET) and (
        header.has(VAE) or (header.has("decoder.conv_in", "vae.decoder.conv_in") and header.holds("encoder.conv_in"))
    )


def _is_embedding(header: Header) -> bool:
    small = all(len(shape) in (1, 2) and shape[0] <= 8192 for shape in header.shapes.values())
    return len(header.shapes) in (1, 2) and small


_KINDS: tuple[tuple[str, Callable[[Header], bool]], ...] = (
    ("an empty safetensors file: get it again", lambda h: not h.shapes),
    (f"an IP-Adapter, which steers a model and is none: {WHOLE}", lambda h: h.has("image_proj", "ip_adapter")),
    (
        f"a LoRA, which goes on top of a model and is none: {WHOLE}",
        lambda h: (
            not _is_whole(h)  # one that was merged may have been left in a checkpoint
            and (
                h.holds("lora_up", "lora_down", "lora_A", "lora_B", "lora.up.", "lora.down.")
                or h.holds("hada_w1", "lokr_w", "oft_blocks")
                or h.has("lora_unet_", "lora_te")
            )
        ),
    ),
    ("a learned word and no model: give it to `generate` or `edit` with --concept", _is_embedding),
    (
        f"a ControlNet or the like, which steers a model and is none: {WHOLE}",
        lambda h: (
            h.holds("control_model.", "controlnet_", "input_hint_block", "zero_convs.", "controlnet_down_blocks")
            or h.has("lllite_", "adapter.body.", "adapter.conv_in.", "body.0.in_conv.", "body.0.block1.")
        ),
    ),
    (f"a motion module, which moves a model and is none: {WHOLE}", lambda h: h.holds("motion_modules.")),
    (
        f"a hypernetwork, which goes on top of a model and is none: {WHOLE}",
        lambda h: any(re.match(r"\d+\.\d\.linear\.", key) for key in h.shapes),
    ),
    (
        f"an upscaler, which makes pictures larger: {WHOLE}",
        lambda h: h.has("conv_first.", "model.1.sub.", "params_ema.", "body.0.rdb1."),
    ),
    (
        f"a pipeline of diffusers in one file: {WHOLE}",
        lambda h: h.has("unet.") and h.has("vae.", "text_encoder."),
    ),
    (
        f"a model of another family (Stable Diffusion 3, Flux or the like): {WHOLE} of Stable Diffusion 1, 2 or XL",
        lambda h: (
            h.holds("joint_blocks.", "double_blocks.", "single_blocks.", "transformer_blocks.0.norm1_context")
            or h.holds("txt_in.", "t_block.", "cap_embedder.", "double_layers.", "patchify_proj.", "mlp_t5.")
            or h.has("head.head.", "clip_txt", "pretransform.", "blocks.0.self_attn.")
            or _has_other_blocks(h)
        ),
    ),
    (
        "a model that takes more than words (GLIGEN, unCLIP), which is not supported: choose another",
        lambda h: h.holds("position_net.", ".fuser.") or h.has("embedder.model.visual.", "noise_augmentor."),
    ),
    (
        f"a checkpoint that has only averaged weights (model_ema) and not the UNet itself: {WHOLE}",
        lambda h: h.has("model_ema.") and not h.has(UNET),
    ),
    (
        "a checkpoint whose text encoder has names of an old layout, without text_model: convert it with the program that "
        "it comes from",
        lambda h: h.has("cond_stage_model.transformer.embeddings."),
    ),
    (
        "a model of another noise process (EDM), as Playground 2.5 and CosXL are, which is not supported: choose another",
        lambda h: h.has("edm_mean", "edm_std", "edm_vpred"),
    ),
    (
        "the refiner of Stable Diffusion XL, which only finishes pictures: give the base model",
        lambda h: h.has("conditioner.embedders.0.model.") and not h.has("conditioner.embedders.1."),
    ),
    (
        f"a video model of Stable Diffusion, which is not supported: {WHOLE}",
        lambda h: h.has("conditioner.embedders.3.") or h.holds(".time_stack.", ".time_mixer", "temporal_transformer"),
    ),
    (
        "a model for inpainting or other inputs: expected a UNet that takes the 4 channels of its latents; choose another",
        _other_channels,
    ),
    (f"an autoencoder alone, without UNet and text encoder: give it with --vae, and {WHOLE} with --model", _is_vae),
    (
        f"half of an autoencoder, or a tiny one: {WHOLE}",
        lambda h: (
            not h.has(UNET) and h.has("taesd", "decoder.layers.", "encoder.layers.0.weight", "1.weight", "decoder.1.")
        ),
    ),
    (
        f"a UNet alone, without autoencoder and text encoder: {WHOLE}",
        lambda h: (
            (h.has(UNET) and not h.has(VAE, *TEXT))
            or h.has("input_blocks.0.0.", "down_blocks.0.resnets.", "down_blocks.0.attentions.", "diffusion_model.")
        ),
    ),
    (
        f"a CLIP of pictures or another model that looks at them, and no text-to-image model: {WHOLE}",
        lambda h: not h.has(UNET) and h.has("vision_model.", "visual.", "vit.", "text_decoder."),
    ),
    (
        f"a text encoder alone, without UNet and autoencoder: {WHOLE}",
        lambda h: (
            not h.has(UNET)
            and (
                h.has("text_model.", "transformer.resblocks.", "transformer.text_model.", "text_projection", *TEXT)
                or h.has(
                    "encoder.block.0.", "shared.weight", "embeddings.", "encoder.layers.0.self_attn", "model.layers.0."
                )
            )
        ),
    ),
)
"""What a file can be beside a whole checkpoint, in the order in which it is looked for, and how to tell."""


def explain_folder(name: str, folder: Path) -> str:
    """What a folder is that has no model_index.json, and what to do."""
    config = _json(folder / "config.json")
    kind = str(config.get("_class_name") or next(iter(config.get("architectures") or ()), ""))
    inside = ("*/" * depth + "model_index.json" for depth in (1, 2, 3))
    inner = next((path.parent for pattern in inside for path in sorted(folder.glob(pattern))), None)
    if inner is not None:
        return f"got {name}: the model is in {inner.relative_to(folder)} inside it: give that folder"
    if (folder / "adapter_config.json").is_file() or any(folder.glob("*lora*.safetensors")):
        return f"got {name}, which holds a LoRA, on top of a model and none itself: {WHOLE}"
    if any(folder.glob("learned_embeds*")):
        return f"got {name}, which holds a learned word: give it to `generate` with --concept, and {WHOLE} with --model"
    if kind:
        part = _PARTS.get(kind, f"a {kind}")
        vae = ": give it with --vae" if kind in ("AutoencoderKL", "VQModel") else ""
        return f"got {name}, which is {part} alone{vae or f': {WHOLE}'}"
    if (folder / "tokenizer_config.json").is_file():
        return f"got {name}, which is a tokenizer alone: {WHOLE}"
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if files:
        return f"got {name}, which holds {', '.join(files[:3])}: give one of these files, or the folder around it"
    if not any(folder.iterdir()):
        return f"got {name}, which is an empty folder: {WHOLE}"
    return f"got {name}: give the folder that holds it"


_PARTS = {
    "UNet2DConditionModel": "a UNet",
    "AutoencoderKL": "an autoencoder",
    "VQModel": "an autoencoder",
    "AutoencoderTiny": "a tiny autoencoder",
    "ControlNetModel": "a ControlNet",
    "CLIPTextModel": "a text encoder",
    "CLIPTextModelWithProjection": "a text encoder",
    "CLIPModel": "a CLIP",
    "T5EncoderModel": "a text encoder",
}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
