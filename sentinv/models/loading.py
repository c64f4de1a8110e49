"""How a backbone is loaded: part by part, from whatever its name stands for."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from sentinv.errors import ModelError
from sentinv.models.backbone import Backbone
from sentinv.models.built_in import TOYBOX
from sentinv.models.names import GUIDANCE_SCALES, SUPPORTED, source_of
from sentinv.models.parts import load_part
from sentinv.models.single_file import load_single_file
from sentinv.models.text_encoder import TextEncoder


def load(
    name: str | Path = TOYBOX, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> Backbone:
    """Load a model, frozen.

    Args:
        name: "toybox" (built in), a diffusers folder, a single checkpoint file, a short name of `SHORT_NAMES`, or a hub id.
        device: where to; the first accelerator there is, else the CPU, if not given.
        dtype: of the frozen weights; float32 on the CPU and float16 elsewhere (bfloat16 where it is at home), if not given.

    Returns:
        The backbone.

    Raises:
        ModelError: If the model is missing, incomplete, cannot be reached or is of a family that is not supported.
    """
    target = torch.device(device) if device is not None else best_device()
    precision = dtype or best_dtype(target)
    source = source_of(name)
    if isinstance(source, Path):
        backbone = load_single_file(str(name), source, precision)
    else:
        backbone = _load_folder(str(name), source, precision)
    for module in (backbone.unet, backbone.vae, *(encoder.model for encoder in backbone.text_encoders)):
        module.to(target)
    return backbone


def load_tokenizers(name: str | Path = TOYBOX) -> list[Any]:
    """Load the tokenizers of a model, one for each text encoder, and nothing else.

    Raises:
        ModelError: As `load`. The tokenizer of a single checkpoint file comes with the whole of it, so that is loaded.
    """
    source = source_of(name)
    if isinstance(source, Path):
        backbone = load_single_file(str(name), source, torch.float16)
        return [encoder.tokenizer for encoder in backbone.text_encoders]
    _, *encoders = parts_of(str(name), source)
    return [_limited(_tokenizer(str(name), source, part), _text_config(str(name), source, part)) for part in encoders]


def text_widths(name: str | Path = TOYBOX) -> dict[str, int] | None:
    """Length of the rows of each text encoder of a model, by its configs; None for a single file, which has none.

    Raises:
        ModelError: As `load`.
    """
    source = source_of(name)
    if isinstance(source, Path):
        return None
    _, *encoders = parts_of(str(name), source)
    configs = {part.replace("bert", "text_encoder"): _text_config(str(name), source, part) for part in encoders}
    return {part: config.hidden_size for part, config in configs.items()}


def _load_folder(name: str, source: str, dtype: torch.dtype) -> Backbone:
    """Load the parts one by one: quicker than the pipeline, and nothing else is downloaded."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    autoencoder, *encoders = parts_of(name, source)
    unet = _weights(name, source, "unet", UNet2DConditionModel, torch_dtype=dtype)
    vae_class = autoencoder_class(name, source, autoencoder)
    vae = _weights(name, source, autoencoder, vae_class, torch_dtype=dtype)
    text_encoders = [_text_encoder(name, source, part, dtype) for part in encoders]
    schedule = load_part(name, "scheduler", lambda: DDIMScheduler.load_config(source, subfolder="scheduler"))
    clips = {"clip_sample": schedule.get("clip_sample", False)}  # DDIMScheduler's default would be to clip
    scheduler = load_part(name, "scheduler", lambda: DDIMScheduler.from_config(schedule, **clips))
    zeros = bool(_index(name, source).get("force_zeros_for_empty_prompt", len(encoders) > 1))
    scale = GUIDANCE_SCALES.get(name, 7.5)
    return Backbone(name, unet, vae, text_encoders, scheduler, guidance_scale=scale, zeros_for_empty_prompt=zeros)


def _pretrained(name: str, source: str, part: str, family: Any, **options: Any) -> Any:
    return load_part(name, part, lambda: family.from_pretrained(source, subfolder=part, **options))


def _weights(name: str, source: str, part: str, family: Any, **options: Any) -> Any:
    """Load a part that has weights; where there are none but in half precision (`*.fp16.safetensors`), those."""

    def read() -> Any:
        try:
            return family.from_pretrained(source, subfolder=part, **options)
        except OSError:
            with suppress(OSError, ValueError):
                return family.from_pretrained(source, subfolder=part, variant="fp16", **options)
            raise

    return load_part(name, part, read)


def autoencoder_class(name: str, source: str, part: str) -> Any:
    """The class of a model's autoencoder, by its config."""
    from diffusers import AutoencoderKL, VQModel

    config = load_part(name, part, lambda: AutoencoderKL.load_config(source, subfolder=part))
    return VQModel if config.get("_class_name") == "VQModel" else AutoencoderKL


def text_encoder_class(part: str) -> Any:
    """The class of a text encoder, by what its pipeline calls it."""
    if part == "bert":
        from diffusers.pipelines.latent_diffusion import LDMBertModel

        return LDMBertModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel


def _text_encoder(name: str, source: str, part: str, dtype: torch.dtype) -> TextEncoder:
    model = _weights(name, source, part, text_encoder_class(part), dtype=dtype)
    words = _limited(_tokenizer(name, source, part), model.config)
    return TextEncoder(part.replace("bert", "text_encoder"), words, model)


def _text_config(name: str, source: str, part: str) -> Any:
    return _pretrained(name, source, part, text_encoder_class(part).config_class)


def _limited(words: Any, config: Any) -> Any:
    """The tokenizer with the limit of its text encoder: without a config of its own it has none, and a BERT's is 512."""
    words.model_max_length = min(words.model_max_length, config.max_position_embeddings)
    return words


def _tokenizer(name: str, source: str, encoder: str) -> Any:
    from transformers import BertTokenizer, CLIPTokenizer

    part = "tokenizer_2" if encoder == "text_encoder_2" else "tokenizer"
    words = _pretrained(name, source, part, BertTokenizer if encoder == "bert" else CLIPTokenizer)
    if len(words) < 256:  # what transformers builds, silently, where it finds no vocabulary
        raise ModelError(f"cannot load {part} of {name}: its vocabulary is missing; the model is incomplete")
    return words


def parts_of(name: str, source: str) -> tuple[str, ...]:
    """What a model calls its autoencoder and its text encoders."""
    found = str(_index(name, source).get("_class_name"))
    if found not in SUPPORTED:
        raise ModelError(f"expected {name} to be a {' or '.join(SUPPORTED)}, got {found}: choose another model")
    return SUPPORTED[found]


def _index(name: str, source: str) -> dict[str, Any]:
    """What model_index.json says."""

    def read() -> dict[str, Any]:
        from huggingface_hub import hf_hub_download

        folder, file = Path(source), "model_index.json"
        path = folder / file if folder.is_dir() else Path(hf_hub_download(source, file))
        return dict(json.loads(path.read_text(encoding="utf-8")))

    return load_part(name, "model_index.json", read)


def best_device() -> torch.device:
    """CUDA, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def best_dtype(device: torch.device) -> torch.dtype:
    """What `load` takes on a device if it is not told."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported(False) else torch.float16
