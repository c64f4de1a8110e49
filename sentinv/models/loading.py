"""How a backbone is loaded: part by part, from whatever its name stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sentinv.errors import ModelError
from sentinv.models.asking import asked_prediction
from sentinv.models.backbone import Backbone
from sentinv.models.built_in import TOYBOX
from sentinv.models.check import check_files, check_model
from sentinv.models.distilled import own_guidance
from sentinv.models.folders import (
    describe_folder,
    index_of,
    load_tokenizer,
    parts_of,
    text_config,
    text_encoder_class,
)
from sentinv.models.memory import free_memory, in_bytes, is_out_of_memory, release
from sentinv.models.names import GUIDANCE_SCALES, source_of
from sentinv.models.single_file import load_single_file, read_with
from sentinv.models.text_encoder import TextEncoder
from sentinv.models.vae import autoencoder_class, load_vae
from sentinv.models.weights import load_whole, read_weights, refuse_spoiled


def load(
    name: str | Path = TOYBOX,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    vae: str | Path | None = None,
) -> Backbone:
    """Load a model, frozen.

    Args:
        name: "toybox" (built in), a diffusers folder, a single checkpoint file, a short name of `SHORT_NAMES`, or a hub id.
        device: where to; the first accelerator there is, else the CPU, if not given.
        dtype: of the frozen weights; float32 on the CPU and float16 elsewhere (bfloat16 where it is at home), if not given.
        vae: an autoencoder in place of the model's own: a folder, a file or a hub id.

    Returns:
        The backbone.

    Raises:
        ModelError: If the model is missing, incomplete, cannot be reached or is of a family that is not supported; if
            weights are NaN or infinite; or if memory ends.
    """
    target = torch.device(device) if device is not None else best_device()
    precision = dtype or best_dtype(target)
    try:
        backbone = _load(name, target, precision, vae)
        parts = dict(backbone.parts)
        if vae is not None:
            refuse_spoiled(str(vae), {"autoencoder": parts.pop("vae")})
        refuse_spoiled(str(name), parts)
        return backbone
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
    release()
    half = "" if precision.itemsize == 2 else "load it in half of that (--dtype bfloat16 or float16), "
    raise ModelError(
        f"out of memory while {name} was loaded in {str(precision).removeprefix('torch.')}: {in_bytes(free_memory(target))} "
        f"are free on {target}; {half}end other programs, or name another --device or a smaller model"
    )


def _load(name: str | Path, target: torch.device, precision: torch.dtype, vae: str | Path | None) -> Backbone:
    source = source_of(name)
    if not isinstance(source, Path):
        return _load_folder(str(name), source, precision, target, vae)
    own = None
    if vae is not None:
        _, configs = read_with(str(name), source)
        own = load_vae(str(vae), configs, precision)
    return load_single_file(str(name), source, precision, target, own)


def load_tokenizers(name: str | Path = TOYBOX) -> list[Any]:
    """Load the tokenizers of a model, one for each text encoder, and nothing else.

    Raises:
        ModelError: As `load`. Those of a single checkpoint file are in the repository that has its configs.
    """
    name, source = _with_configs(name)
    _, *encoders = parts_of(name, source)
    return [load_tokenizer(name, source, part) for part in encoders]


def _with_configs(name: str | Path) -> tuple[str, str]:
    """A model that has its configs, by name and as folder or hub id: for a single file the one that it is read with."""
    source = source_of(name)
    if not isinstance(source, Path):
        return str(name), source
    _, configs = read_with(str(name), source)
    return configs, configs


def text_widths(name: str | Path = TOYBOX) -> dict[str, int]:
    """Length of the rows of each text encoder of a model, by its configs, or by those that a single file is read with.

    Raises:
        ModelError: As `load`.
    """
    name, source = _with_configs(name)
    _, *encoders = parts_of(name, source)
    configs = {part.replace("bert", "text_encoder"): text_config(name, source, part) for part in encoders}
    return {part: config.hidden_size for part, config in configs.items()}


def _load_folder(
    name: str, source: str, dtype: torch.dtype, device: torch.device, given: str | Path | None
) -> Backbone:
    """Load the parts one by one: quicker than the pipeline, and nothing else is downloaded."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    autoencoder, *encoders = parts_of(name, source)
    vae = None if given is None else load_vae(str(given), source, dtype, part=autoencoder)
    model = describe_folder(name, source, vae)
    check_model(model)
    check_files(model)
    unet = load_whole(
        name, "unet", lambda: read_weights(UNet2DConditionModel, source, "unet", dtype=dtype), surplus=False
    )
    if vae is None:
        kind = autoencoder_class(name, source, autoencoder)
        vae = load_whole(name, autoencoder, lambda: read_weights(kind, source, autoencoder, dtype=dtype), surplus=False)
    clips = {"clip_sample": False}  # DDIMScheduler's default would be to clip; a model that wants it was refused
    scale = GUIDANCE_SCALES.get(name)
    backbone = Backbone(
        name,
        unet,
        vae,
        [_text_encoder(name, source, part, dtype) for part in encoders],
        DDIMScheduler.from_config(
            {name: value for name, value in model.scheduler.items() if value is not None}, **clips
        ),
        guidance_scale=own_guidance(name, model.unet, model.scheduler) if scale is None else scale,
        zeros_for_empty_prompt=bool(index_of(name, source).get("force_zeros_for_empty_prompt", len(encoders) > 1)),
    ).to(device)
    if model.scheduler.get("prediction_type") is None and (kind := asked_prediction(backbone)):
        backbone.schedule = backbone.schedule.with_config({**backbone.schedule.config, "prediction_type": kind})
    return backbone


def _text_encoder(name: str, source: str, part: str, dtype: torch.dtype) -> TextEncoder:
    model = load_whole(name, part, lambda: read_weights(text_encoder_class(part), source, part, dtype=dtype))
    return TextEncoder(part.replace("bert", "text_encoder"), load_tokenizer(name, source, part), model)


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
