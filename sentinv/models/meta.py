"""A model's networks on torch's "meta" device, which knows shapes and no values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sentinv.models.check import check_files, check_model
from sentinv.models.folders import describe_folder, parts_of, text_config, text_encoder_class
from sentinv.models.names import Place, source_of
from sentinv.models.parts import load_part
from sentinv.models.single_file import own_fields, read_with, refuse_incomplete, said_prediction
from sentinv.models.vae import autoencoder_class, load_vae


def networks_on_meta(place: Place) -> tuple[Any, Any, list[Any]]:
    """UNet, autoencoder and text encoders of a model without values, which is judged first as `load` judges it.

    Args:
        place: the model, and the autoencoder that is used in place of its own.

    Raises:
        ModelError: If the model's configs cannot be loaded, or are of a model that is not supported.
    """
    from diffusers import UNet2DConditionModel

    own: dict[str, Any] = {}
    name, source = place.model, source_of(place.model)
    if isinstance(source, Path):
        header, source = read_with(name, source, vae=place.vae is not None)
        refuse_incomplete(name, header, source, vae=place.vae is None)
        own = own_fields(header, said_prediction(header))
    part, *encoders = parts_of(name, source)
    given = None if place.vae is None else load_vae(place.vae, source, torch.float16, part=part)
    described = describe_folder(name, source, given)
    model = replace(described, unet={**described.unet, **own})
    check_model(model)
    check_files(model)
    vae_class = type(given) if given is not None else autoencoder_class(name, source, part)
    configs = {one: text_config(name, source, one) for one in encoders}
    with torch.device("meta"):
        unet = load_part(name, "unet", lambda: UNet2DConditionModel.from_config(model.unet))
        vae = load_part(name, part, lambda: vae_class.from_config(given.config if given is not None else model.vae))
        return unet, vae, [load_part(name, one, lambda: text_encoder_class(one)(configs[one])) for one in encoders]  # noqa: B023
