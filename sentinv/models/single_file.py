"""Checkpoints of Stable Diffusion in one file, in the original layout."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sentinv.errors import ModelError
from sentinv.models.asking import asked_prediction
from sentinv.models.backbone import Backbone
from sentinv.models.folders import index_of
from sentinv.models.headers import Header, read_header
from sentinv.models.kinds import UNET, check_checkpoint
from sentinv.models.names import SHORT_NAMES
from sentinv.models.parts import load_part
from sentinv.models.weights import meta_weights, refuse_missing, some

CONFIGS = {"sd1": SHORT_NAMES["sd15"], "sd2": SHORT_NAMES["sd21"], "xl": SHORT_NAMES["sdxl"]}
"""Family of a checkpoint → the repository on the hub whose configs and tokenizers it is read with: a file has none."""

_SAYS_V = ("v", "v_prediction", "vprediction", "v-prediction", "velocity")

_SQUARE = re.compile(r"([0-9]{1,5}) ?x ?\1")

_SIDES = range(256, 2048 + 1, 64)
"""Sides in pixels that are believed of a header: its latents have an eighth of that."""


def family_of(header: Header) -> str:
    """Which of `CONFIGS` a checkpoint goes with, by the width of what its UNet takes of the prompts."""
    if header.has("conditioner.embedders.1."):
        return "xl"
    words = [
        shape for key, shape in header.shapes.items() if key.startswith(UNET) and key.endswith("attn2.to_k.weight")
    ]
    return "sd2" if words and words[0][-1] == 1024 else "sd1"


def family_of_unet(config: Mapping[str, Any]) -> str:
    """Likewise by the config of a UNet."""
    if config.get("addition_embed_type") == "text_time":
        return "xl"
    return "sd2" if config.get("cross_attention_dim") == 1024 else "sd1"


def read_with(name: str, path: Path, *, vae: bool = True) -> tuple[Header, str]:
    """What a checkpoint says of itself, and the folder or hub id whose configs and tokenizers it is read with: a file has none.

    Args:
        name: how the user named it.
        path: the file.
        vae: whether it may be without an autoencoder.

    Raises:
        ModelError: If it is no whole checkpoint of a family that is supported, or its configs are out of reach.
    """
    header = read_header(name, path)
    check_checkpoint(name, header, vae=vae)
    configs = CONFIGS[family_of(header)]
    index_of(name, configs, needs=_needed(path, configs))
    return header, configs


def _needed(path: Path, configs: str) -> str:
    return f"the configs of {configs}, which {path.name} is read with and does not hold"


def load_single_file(
    name: str, path: Path, dtype: torch.dtype, device: torch.device | None = None, vae: Any = None
) -> Backbone:
    """Load a checkpoint in the original layout. Its configs come from the hub's cache or the hub.

    Args:
        name: how the user named it.
        path: the file.
        dtype: of the weights.
        device: where to, before the model is asked what it predicts.
        vae: an autoencoder to use in place of the file's own.

    Raises:
        ModelError: If it is no whole checkpoint of a family that is supported, or its configs are out of reach.
    """
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    header, configs = read_with(name, path, vae=vae is not None)
    xl = family_of(header) == "xl"
    kind: Any = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    extra: dict[str, Any] = {} if xl else {"safety_checker": None, "requires_safety_checker": False}
    extra |= {} if vae is None else {"vae": vae}

    def read() -> Any:
        try:
            return kind.from_single_file(str(path), config=configs, torch_dtype=dtype, **extra)
        except NotImplementedError as error:  # a weight without values cannot be moved
            refuse_incomplete(name, header, configs, vae=vae is None)
            raise ModelError(f"cannot load {name}: weights are missing; it is incomplete: get it again") from error

    pipeline = load_part(name, "checkpoint", read, needs=_needed(path, configs))
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        module = getattr(pipeline, part, None)
        if module is not None:
            refuse_missing(name, part, meta_weights(module))
    _refuse_surplus(name, header, pipeline.unet)
    backbone = Backbone.from_pipeline(pipeline, name)
    if device is not None:
        backbone.to(device)
    _settle_prediction(backbone, header)
    return backbone


def refuse_incomplete(name: str, header: Header, configs: str, *, vae: bool = True) -> None:
    """Refuse a file that lacks weights of its UNet or autoencoder, before any is read.

    Args:
        name: of the file.
        header: of the file.
        configs: what it is read with.
        vae: whether its own autoencoder is used.

    Raises:
        ModelError: If so.
    """
    more = "; models that are smaller than their family's (SSD-1B and the like) are read from diffusers folders"
    refuse_missing(name, "checkpoint", _missing(header, configs, vae=vae), more)


def _missing(header: Header, configs: str, *, vae: bool) -> list[str]:
    """Which weights of UNet and autoencoder a file lacks: it is converted without its values."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders import single_file_utils as original

    parts = (
        ("unet", UNet2DConditionModel, original.convert_ldm_unet_checkpoint),
        ("vae", AutoencoderKL, original.convert_ldm_vae_checkpoint),
    )
    lost = []
    with torch.device("meta"):
        for part, family, convert in parts if vae else parts[:1]:
            config = family.load_config(configs, subfolder=part)
            weights = {key: torch.empty(shape) for key, shape in header.shapes.items()}
            try:
                found = convert(weights, config=config)
            except KeyError as error:
                return [str(error.args[0])]
            lost += [f"{part}.{key}" for key in family.from_config(config).state_dict() if key not in found]
    return lost


def _refuse_surplus(name: str, header: Header, unet: Any) -> None:
    """Refuse weights of a UNet for which there is no place: they would be left out without a word.

    Raises:
        ModelError: If there are any.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    weights = {key: torch.empty(shape, device="meta") for key, shape in header.shapes.items()}
    places = unet.state_dict().keys()
    taken = {
        id(value)
        for key, value in convert_ldm_unet_checkpoint(dict(weights), config=unet.config).items()
        if key in places
    }
    more = [key for key, value in weights.items() if key.startswith(UNET) and id(value) not in taken]
    if more:
        raise ModelError(
            f"cannot load unet of {name}: {some(sorted(more))} without a place in it; the file is of another kind of model "
            "than it seems, or damaged: get it again, or as a diffusers folder"
        )


def _settle_prediction(backbone: Backbone, header: Header) -> None:
    """Find what the model predicts: what the file says, else what the model answers, else what its family does."""
    config = dict(backbone.schedule.config)
    said = said_prediction(header)
    backbone.unet.register_to_config(**own_fields(header, said))  # it is asked at its own side
    kind = said or asked_prediction(backbone) or config.get("prediction_type", "epsilon")
    config["prediction_type"] = kind
    if "ztsnr" in header.shapes and kind == "epsilon":  # which says nothing in pure noise
        warnings.warn(
            f"{backbone.name} says that it begins in pure noise (ztsnr), and not that it predicts v: it is taken for one that "
            "predicts noise and begins in some; `sentinv selftest` tells whether that is so",
            stacklevel=2,
        )
    elif "ztsnr" in header.shapes:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    backbone.unet.register_to_config(**own_fields(header, kind))
    backbone.schedule = backbone.schedule.with_config(config)


def own_fields(header: Header, prediction: str | None) -> dict[str, Any]:
    """What the config of a file's UNet has in place of what it is read with: the side, where another is told or known.

    A header may tell it (`modelspec.resolution`, if square). Stable Diffusion 2 of 512 pixels predicts noise.

    Args:
        header: of the file.
        prediction: what it predicts; None if that is not known.
    """
    told = _SQUARE.fullmatch(header.metadata.get("modelspec.resolution", "").strip().lower())
    if told and int(told[1]) in _SIDES:
        return {"sample_size": int(told[1]) // 8}
    return {"sample_size": 64} if family_of(header) == "sd2" and prediction == "epsilon" else {}


def said_prediction(header: Header) -> str | None:
    """What a file says its model predicts, in a key or in its header; None if it does not.

    Raises:
        ModelError: If it says something that is not supported.
    """
    told = header.metadata.get("modelspec.prediction_type", "").strip().lower()
    if "v_pred" in header.shapes or told in _SAYS_V:
        return "v_prediction"
    if told and told not in ("epsilon", "eps"):
        raise ModelError(f"the checkpoint's header has modelspec.prediction_type {told!r}: expected epsilon or v")
    return "epsilon" if told else None
