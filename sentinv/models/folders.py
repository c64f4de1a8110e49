"""What a diffusers folder, or a repository of the hub in its layout, says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentinv.errors import ModelError
from sentinv.models.check import CLASSES, Described, check_text_config
from sentinv.models.describe import encoder_sizes, written
from sentinv.models.names import SUPPORTED
from sentinv.models.parts import load_part
from sentinv.models.weights import refuse_pointers, refuse_wordless

_OTHERS = {
    "StableDiffusionXLImg2ImgPipeline": "that is the refiner, or for changing pictures: give the base model",
    "LatentConsistencyModelPipeline": "latent consistency models take their guidance as an input, which is not supported",
    "StableDiffusionInpaintPipeline": "models for inpainting are not supported: give the base model",
}


def index_of(name: str, source: str, *, needs: str = "") -> dict[str, Any]:
    """What model_index.json says.

    Args:
        name: of the model.
        source: folder or hub id.
        needs: as for `load_part`.

    Raises:
        ModelError: If it cannot be read.
    """

    def read() -> dict[str, Any]:
        from huggingface_hub import hf_hub_download

        folder, file = Path(source), "model_index.json"
        if folder.is_dir():
            refuse_pointers(source, "")
        path = folder / file if folder.is_dir() else Path(hf_hub_download(source, file))
        return as_config(json.loads(path.read_text(encoding="utf-8-sig")))

    return load_part(name, "model_index.json", read, needs=needs)


def parts_of(name: str, source: str) -> tuple[str, ...]:
    """What a model calls its autoencoder and its text encoders.

    Raises:
        ModelError: If its pipeline is not one that is supported.
    """
    found = index_of(name, source).get("_class_name")
    if not isinstance(found, str) or found not in SUPPORTED:
        compiled = str(found).startswith(("Onnx", "ORT", "OV", "Flax"))
        advice = (
            "it is made for another library: get it with .safetensors files" if compiled else "choose another model"
        )
        got = "nothing in its model_index.json" if found is None else found
        raise ModelError(
            f"expected {name} to be a {' or '.join(SUPPORTED)}, got {got}: {_OTHERS.get(str(found), advice)}"
        )
    return SUPPORTED[found]


def describe_folder(name: str, source: str, vae: Any = None) -> Described:
    """Describe a model by its files, as they were written.

    Args:
        name: of the model.
        source: folder or hub id.
        vae: an autoencoder that is used in place of its own.

    Raises:
        ModelError: If one of them cannot be read, or a part is not there.
    """
    autoencoder, *encoders = parts_of(name, source)
    index = index_of(name, source)
    classes = {}
    for part in ("unet", autoencoder, *encoders, *(tokenizer_part(part) for part in encoders)):
        found = _class_in(index, part)
        if found is None and not (part == autoencoder and vae is not None):
            more = ": give one with --vae" if part == autoencoder else "; give a whole model"
            raise ModelError(f"{name} has no {part}, says its model_index.json{more}")
        if found and not (part == autoencoder and vae is not None):
            classes[part] = found
    own = written(vae.config) if vae is not None else diffusers_config(name, source, autoencoder)
    scheduler = diffusers_config(name, source, "scheduler")
    scheduler.setdefault("_class_name", _class_in(index, "scheduler") or "")
    configs = {part: text_config(name, source, part) for part in encoders}
    return Described(
        name=name,
        unet=diffusers_config(name, source, "unet"),
        vae=own,
        scheduler=scheduler,
        text_encoders={
            part.replace("bert", "text_encoder"): encoder_sizes(config, load_tokenizer(name, source, part))
            for part, config in configs.items()
        },
        classes=classes,
    )


def _class_in(index: Mapping[str, Any], part: str) -> str | None:
    """The class of a part in a model_index.json: "" if it does not say, None if it says that there is none."""
    found = index.get(part, "")
    if isinstance(found, list | tuple):
        return str(found[-1]) if found and found[-1] is not None else None
    return "" if found == "" else None


def diffusers_config(name: str, source: str, part: str) -> dict[str, Any]:
    """The config of a part, as written.

    Raises:
        ModelError: If it cannot be read.
    """
    from diffusers import DDIMScheduler, UNet2DConditionModel

    family: Any = DDIMScheduler if part == "scheduler" else UNet2DConditionModel

    def read() -> dict[str, Any]:
        refuse_pointers(source, part)
        return as_config(family.load_config(source, subfolder=part))

    return load_part(name, part, read)


def as_config(found: Any) -> dict[str, Any]:
    """What a config's file held, if it is a config.

    Raises:
        OSError: If not.
    """
    if not isinstance(found, Mapping):
        raise OSError(f"its config holds a {type(found).__name__}, expected names with values")
    return dict(found)


def text_encoder_class(part: str) -> Any:
    """The class of a text encoder, by what its pipeline calls it."""
    if part == "bert":
        from diffusers.pipelines.latent_diffusion import LDMBertModel

        return LDMBertModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel


def text_config(name: str, source: str, part: str) -> Any:
    """The config of a text encoder.

    Raises:
        ModelError: If it cannot be read, or is that of another kind of model.
    """
    family = text_encoder_class(part).config_class

    def read() -> Any:
        refuse_pointers(source, part)
        raw, _ = family.get_config_dict(source, subfolder=part)
        if not any(key for key in raw if not key.startswith("_")):  # transformers would go on with its defaults
            raise OSError("there is no config.json")
        built = next(iter(raw.get("architectures") or ()), CLASSES[part][0])
        alike = () if part == "bert" else ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel")
        if built not in (*CLASSES[part], *alike) or (alike and "clip" not in raw.get("model_type", "clip")):
            raise ModelError(
                f"{name}: expected a {part} of class {CLASSES[part][0]}, got {built}: choose another model"
            )
        inner = raw.get("text_config") if raw.get("model_type") == "clip" else None
        if isinstance(inner, Mapping):  # of which only what differs from the usual is written
            check_text_config(name, part, inner)
        else:
            check_text_config(name, part, raw, whole=part != "bert")
        return family.from_pretrained(source, subfolder=part)

    return load_part(name, part, read)


def tokenizer_part(encoder: str) -> str:
    """What a pipeline calls the tokenizer of a text encoder."""
    return "tokenizer_2" if encoder == "text_encoder_2" else "tokenizer"


def load_tokenizer(name: str, source: str, encoder: str) -> Any:
    """Load the tokenizer of a text encoder, with its limit: without a config of its own it has none, and a BERT's is 512.

    Raises:
        ModelError: If it cannot be loaded, or has no vocabulary.
    """
    from transformers import BertTokenizer, CLIPTokenizer

    part, family = tokenizer_part(encoder), BertTokenizer if encoder == "bert" else CLIPTokenizer

    def read() -> Any:
        refuse_pointers(source, part)
        return family.from_pretrained(source, subfolder=part)

    words = load_part(name, part, read)
    refuse_wordless(name, part, words)
    words.model_max_length = min(words.model_max_length, text_config(name, source, encoder).max_position_embeddings)
    return words
