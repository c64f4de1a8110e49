"""Autoencoders: the model's own, or one that is given in its place."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sentinv.errors import ModelError
from sentinv.models.describe import written
from sentinv.models.folders import as_config, diffusers_config
from sentinv.models.headers import Header, read_header, refuse_quantised
from sentinv.models.kinds import UNET, VAE, explain_folder
from sentinv.models.parts import load_part, local_path
from sentinv.models.single_file import CONFIGS, family_of, family_of_unet
from sentinv.models.weights import load_whole, meta_weights, read_weights, refuse_missing

_EXPECTED = "expected --vae to be a folder, a .safetensors file or a hub id of an AutoencoderKL"


def autoencoder_class(name: str, source: str, part: str) -> Any:
    """The class of a model's autoencoder, by its config."""
    from diffusers import AutoencoderKL, VQModel

    return VQModel if diffusers_config(name, source, part).get("_class_name") == "VQModel" else AutoencoderKL


def load_vae(name: str, model: str, dtype: torch.dtype, part: str = "vae") -> Any:
    """Load an autoencoder to be used with a model.

    Args:
        name: a folder, a single file (an autoencoder or a whole checkpoint), or a hub id.
        model: folder or hub id of the model: it says what the autoencoder's file or config does not.
        dtype: of the weights.
        part: what the model calls its autoencoder.

    Raises:
        ModelError: If it is none, or is made for other latents than the model's.
    """
    path = local_path(name)
    if path.is_file():
        return _from_file(name, path, model, dtype, part)
    if path.is_dir() and not (path / "config.json").is_file() and not (path / "vae" / "config.json").is_file():
        raise ModelError(f"{_EXPECTED}, {explain_folder(name, path)}")
    if not path.exists() and name.count("/") != 1:
        raise ModelError(f"{_EXPECTED}, got {name}, which does not exist")
    return _from_folder(name, str(path) if path.is_dir() else name, model, dtype, part)


def _from_folder(name: str, source: str, model: str, dtype: torch.dtype, part: str) -> Any:
    from diffusers import AutoencoderKL

    folder = "vae" if _has_vae_inside(source) else ""
    inside = {"subfolder": folder} if folder else {}
    config = load_part(name, "autoencoder", lambda: as_config(AutoencoderKL.load_config(source, **inside)))
    kind = config.get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        raise ModelError(f"{_EXPECTED}, got a {kind} in {name}: choose another")
    own = _own_config(model, part)
    _check_scale(name, config, own)
    vae = load_whole(
        name, "autoencoder", lambda: read_weights(AutoencoderKL, source, folder, dtype=dtype), surplus=False
    )
    if "scaling_factor" not in config and "scaling_factor" in own:
        vae.register_to_config(scaling_factor=own["scaling_factor"])
    return vae


def _has_vae_inside(source: str) -> bool:
    """Whether a folder or repository is that of a whole model."""
    if Path(source).is_dir():
        return (Path(source) / "vae" / "config.json").is_file()
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        hf_hub_download(source, "config.json")
    except EntryNotFoundError as error:
        return not isinstance(error, FileNotFoundError)  # that is one which is not in the cache
    except (HfHubHTTPError, OSError):
        return False
    return False


def _from_file(name: str, path: Path, model: str, dtype: torch.dtype, part: str) -> Any:
    from diffusers import AutoencoderKL

    header = read_header(name, path)
    refuse_quantised(name, header)
    if not _is_autoencoder(header):
        found = next(iter(header.shapes), "nothing")
        raise ModelError(f"{_EXPECTED}, got {name}, which holds no autoencoder (but {found[:60]} …)")
    own = _own_config(model, part)
    if not own:  # a model without one, which is why this is given
        model, part = CONFIGS[family_of_unet(diffusers_config(model, model, "unet"))], "vae"
        own = _own_config(model, part)
    _check_family(name, path, header, model)

    def read() -> Any:
        try:
            return AutoencoderKL.from_single_file(str(path), config=model, subfolder=part, torch_dtype=dtype)
        except NotImplementedError as error:  # a weight without values cannot be moved
            raise ModelError(
                f"cannot load autoencoder of {name}: weights of it are missing; it is incomplete: get it again, or another one"
            ) from error

    needs = f"the config of {model}, which {path.name} is read with and does not hold"
    vae = load_part(name, "autoencoder", read, needs="" if Path(model).is_dir() else needs)
    refuse_missing(name, "autoencoder", meta_weights(vae))
    if "scaling_factor" in own:
        vae.register_to_config(scaling_factor=own["scaling_factor"])
    return vae


def _is_autoencoder(header: Header) -> bool:
    return header.has(VAE) or (header.holds("encoder.conv_in.weight") and header.holds("decoder.conv_in.weight"))


def _check_family(name: str, path: Path, header: Header, model: str) -> None:
    """Hold what a file says of its family against the model's: the weights of both have the same names and shapes.

    Raises:
        ModelError: If it is of Stable Diffusion XL and the model is none, or the other way round.
    """
    is_xl = family_of_unet(diffusers_config(model, model, "unet")) == "xl"
    said = header.metadata.get("modelspec.architecture", "").lower()
    if header.has(UNET) or "stable-diffusion" in said:
        says_xl = family_of(header) == "xl" if header.has(UNET) else "xl" in said
        if says_xl != is_xl:
            of, wanted = ("XL", "1 and 2") if says_xl else ("1 or 2", "XL")
            raise ModelError(
                f"{name} has the autoencoder of Stable Diffusion {of}, whose latents are not those of {wanted}: give one of "
                "this family"
            )
    elif "xl" in path.stem.lower() and not is_xl:
        warnings.warn(
            f"{name} is called an autoencoder of XL, which the model is not: if colours are wrong, give another",
            stacklevel=2,
        )


def _own_config(model: str, part: str) -> Mapping[str, Any]:
    """The config of the autoencoder that a model has itself; nothing where it has none."""
    try:
        return diffusers_config(model, model, part)
    except ModelError:
        return {}


def _check_scale(name: str, config: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse an autoencoder whose latents have another scale than the model's: it belongs to another family."""
    given, wanted = (written(one).get("scaling_factor") for one in (config, own))
    if given is not None and wanted is not None and abs(given - wanted) > 1e-3 * abs(wanted):
        raise ModelError(
            f"{name} is made for latents that are scaled by {given}, the model's by {wanted}: it belongs to another family "
            "of models; give one of this family"
        )
