"""What a file or folder is that somebody gives as a model: whole, or a part, or something else, by its keys alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinv.errors import ModelError
from sentinv.models.parts import one_line
from sentinv.models.weights import POINTER

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT = ("cond_stage_model.", "conditioner.embedders.")
_WHOLE = "give a whole checkpoint, a diffusers folder or a hub id"
_CODE = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself.

    Attributes:
        shapes: of its tensors, by key.
        dtypes: likewise, as safetensors names them ("F16").
        metadata: its header's strings.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]

    def has(self, *prefixes: str) -> bool:
        """Whether a key begins with one of these."""
        return any(key.startswith(prefixes) for key in self.shapes)

    def holds(self, *parts: str) -> bool:
        """Whether one of these is in a key."""
        return any(part in key for key in self.shapes for part in parts)


def read_header(name: str, path: Path) -> Header:
    """Read the header of a checkpoint file.

    Raises:
        ModelError: If it is no safetensors file. It says what it is.
    """
    from safetensors import SafetensorError, safe_open

    try:
        start = path.open("rb").read(64)
    except OSError as error:
        raise ModelError(f"cannot read {name}: {one_line(error)}; name another file") from error
    if told := _not_safetensors(path, start):
        raise ModelError(f"{name} is {told}")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            shapes = {key: tuple(one.get_shape()) for key, one in slices.items()}
            return Header(
                shapes, {key: str(one.get_dtype()) for key, one in slices.items()}, dict(file.metadata() or {})
            )
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{name} is not a readable safetensors file: {one_line(error)}; it may be cut off: get it again"
        ) from error


def _not_safetensors(path: Path, start: bytes) -> str | None:
    """What a file is that is no safetensors file, and what to do; None if it may be one."""
    if not start:
        return "an empty file: get it again"
    if start.startswith(POINTER):
        return "a pointer of Git LFS and not the file itself: run `git lfs pull` in its folder"
    if start.startswith(b"GGUF"):
        return f"a quantised model in GGUF, which is not supported: {_WHOLE}"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a page of the web and not a model: the download needed a login or another address; get it again"
    if path.suffix.lower() in _CODE or start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return f"{path.suffix or 'a pickle'}, expected a .safetensors checkpoint: other formats can run code; convert it first"
    if path.suffix.lower() in (".onnx", ".engine", ".plan", ".mlmodelc"):
        return f"a model that is compiled for another program ({path.suffix}): {_WHOLE}"
    if path.name.endswith(".index.json"):
        return "the list of a model's parts and not the model: give the diffusers folder around it"
    if path.suffix.lower() == ".json":
        return "a config and not a model: give the diffusers folder around it"
    return None


def check_checkpoint(name: str, header: Header, *, vae: bool) -> None:
    """Refuse a file that is not a whole checkpoint of Stable Diffusion.

    Args:
        name: of the file.
        header: of the file.
        vae: whether an autoencoder is given with it.

    Raises:
        ModelError: If so. It names what the file is, and what is missing.
    """
    for what, is_it in _KINDS:
        if is_it(header):
            raise ModelError(f"{name} is {what}")
    if header.holds(".absmax", ".quant_state", "scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant"):
        raise ModelError(f"{name} is a checkpoint with quantised weights, which are not supported: get one in 16 bits")
    if not header.has(UNET):
        found = next(iter(header.shapes), "nothing")
        raise ModelError(f"{name} is not a checkpoint of Stable Diffusion (it holds {found[:60]} …): {_WHOLE}")
    missing = [] if header.has(VAE) or vae else ["autoencoder: give one with --vae"]
    if not header.has(*TEXT):
        raise ModelError(
            f"{name} is a UNet {'and autoencoder ' if header.has(VAE) else ''}without a text encoder: {_WHOLE}"
        )
    if missing:
        raise ModelError(f"{name} is a checkpoint without an {missing[0]}")


def _first_convolution(header: Header, *keys: str) -> int | None:
    """Channels that a UNet takes."""
    shapes = [header.shapes[key] for key in keys if key in header.shapes]
    return shapes[0][1] if shapes and len(shapes[0]) == 4 else None


def _other_channels(header: Header) -> bool:
    return _first_convolution(header, f"{UNET}input_blocks.0.0.weight") not in (None, 4)


def _is_vae(header: Header) -> bool:
    return not header.has(UNET) and (
        header.has(VAE) or (header.has("decoder.conv_in", "vae.decoder.conv_in") and header.holds("encoder.conv_in"))
    )


def _is_embedding(header: Header) -> bool:
    small = all(len(shape) in (1, 2) and shape[0] <= 8192 for shape in header.shapes.values())
    return len(header.shapes) in (1, 2) and small


_KINDS: tuple[tuple[str, Callable[[Header], bool]], ...] = (
    ("an empty safetensors file: get it again", lambda h: not h.shapes),
    (
        f"a LoRA, which goes on top of a model and is none: {_WHOLE}",
        lambda h: (
            h.holds(
                "lora_up", "lora_down", "lora_A", "lora_B", "lora.up.", "lora.down.", "hada_w1", "lokr_w", "oft_blocks"
            )
            or h.has("lora_unet_", "lora_te")
        ),
    ),
    ("a learned word and no model: give it to `generate` or `edit` with --concept", _is_embedding),
    (
        f"a ControlNet, which steers a model and is none: {_WHOLE}",
        lambda h: h.holds("control_model.", "controlnet_", "input_hint_block", "zero_convs.", "controlnet_down_blocks"),
    ),
    (f"an IP-Adapter, which steers a model and is none: {_WHOLE}", lambda h: h.has("image_proj", "ip_adapter")),
    (f"a motion module, which moves a model and is none: {_WHOLE}", lambda h: h.holds("motion_modules.")),
    (
        f"a model of another family (Stable Diffusion 3, Flux or the like): {_WHOLE} of Stable Diffusion 1, 2 or XL",
        lambda h: h.holds(
            "joint_blocks.",
            "double_blocks.",
            "single_blocks.",
            "transformer_blocks.0.norm1_context",
            "txt_in.",
            "t_block.",
        ),
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
        f"a video model of Stable Diffusion, which is not supported: {_WHOLE}",
        lambda h: h.has("conditioner.embedders.3.") or h.holds(".time_stack.", ".time_mixer", "temporal_transformer"),
    ),
    (
        "a model for inpainting or other inputs: expected a UNet that takes the 4 channels of its latents; choose another",
        _other_channels,
    ),
    (f"an autoencoder alone, without UNet and text encoder: give it with --vae, and {_WHOLE} with --model", _is_vae),
    (
        f"half of an autoencoder, or a tiny one: {_WHOLE}",
        lambda h: (
            not h.has(UNET) and h.has("taesd", "decoder.layers.", "encoder.layers.0.weight", "1.weight", "decoder.1.")
        ),
    ),
    (
        f"a UNet alone, without autoencoder and text encoder: {_WHOLE}",
        lambda h: (
            (h.has(UNET) and not h.has(VAE, *TEXT)) or h.has("input_blocks.0.0.", "down_blocks.0.", "diffusion_model.")
        ),
    ),
    (
        f"a CLIP of pictures or a whole one, and no text-to-image model: {_WHOLE}",
        lambda h: not h.has(UNET) and h.has("vision_model.", "visual."),
    ),
    (
        f"a text encoder alone, without UNet and autoencoder: {_WHOLE}",
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
        return f"got {name}, which holds a LoRA, on top of a model and none itself: {_WHOLE}"
    if any(folder.glob("learned_embeds*")):
        return (
            f"got {name}, which holds a learned word: give it to `generate` with --concept, and {_WHOLE} with --model"
        )
    if kind:
        part = _PARTS.get(kind, f"a {kind}")
        vae = ": give it with --vae" if kind in ("AutoencoderKL", "VQModel") else ""
        return f"got {name}, which is {part} alone{vae or f': {_WHOLE}'}"
    if (folder / "tokenizer_config.json").is_file():
        return f"got {name}, which is a tokenizer alone: {_WHOLE}"
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if files:
        return f"got {name}, which holds {', '.join(files[:3])}: give one of these files, or the folder around it"
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
