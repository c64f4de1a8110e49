"""Whether a model is one that we know how to run: judged once, by its configs, before anything is drawn or loaded.

The configs are taken as they were written. A library fills in what a config lacks, without a word: so a scheduler of another
noise process becomes one with betas, and a field that it does not know is left out of the forward pass. What is supported is
listed here, and everything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sentinv.errors import ModelError
from sentinv.models.fields import (
    SCHEDULER_VALUES,
    SCHEDULERS,
    TEXT_VALUES,
    UNET_VALUES,
    VAE_VALUES,
    Config,
    check_fields,
    check_kinds,
    check_said,
    known,
    known_of_text,
)


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a model is made of.

    Attributes:
        name: how the user named it.
        unet: its config, as written.
        vae: config of the autoencoder, as written.
        scheduler: config, as written; with the `_class_name`.
        text_encoders: name → width of its rows ("width"), of its pooled embedding ("pooled"; 0 if none), size of its
            vocabulary ("rows") and of its tokenizer's ("words"), where its pooled embedding is looked for ("end") and where
            its tokenizer puts the end ("eos").
        classes: part → name of its class. Only those that are known are in it.
        text_configs: name of a text encoder → its config, as written, where it was not judged before it was built.
    """

    name: str
    unet: Config
    vae: Config
    scheduler: Config
    text_encoders: Mapping[str, Mapping[str, int]]
    classes: Mapping[str, str] = field(default_factory=dict)
    text_configs: Mapping[str, Config] = field(default_factory=dict)


CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "vqvae": ("AutoencoderKL", "VQModel"),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "bert": ("LDMBertModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast", "BertTokenizer", "BertTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
"""Part of a pipeline → the classes that it may be of."""


def check_model(model: Described) -> None:
    """Refuse a model that cannot be run as what it is.

    Raises:
        ModelError: If a class, a field of a config or the fit of two parts is not one that is supported. It names it.
    """
    told = {"unet": model.unet.get("_class_name", "")}  # a model_index.json need not say it
    for part, found in (*model.classes.items(), *told.items()):
        if found and part in CLASSES and found not in CLASSES[part]:
            raise ModelError(
                f"{model.name}: expected a {part} of class {' or '.join(CLASSES[part][:2])}, got {found}: choose another model"
            )
    _check_scheduler(model)
    check_fields(model.name, "unet", model.unet, known("UNet2DConditionModel"), UNET_VALUES)
    check_said(model.name, "unet", model.unet, ("sample_size",))
    check_kinds(model.name, "unet", model.unet)
    kind = str(model.vae.get("_class_name", "AutoencoderKL"))
    if kind not in CLASSES["vqvae"]:
        raise ModelError(
            f"{model.name}: expected an autoencoder of class AutoencoderKL, got {kind}: choose another model"
        )
    check_fields(model.name, "autoencoder", model.vae, known(kind), VAE_VALUES)
    check_kinds(model.name, "autoencoder", model.vae)
    _check_latents(model)
    _check_channels(model)
    for part, config in model.text_configs.items():
        check_text_config(model.name, part, config)
    _check_widths(model)


def check_files(model: Described) -> None:
    """Refuse configs of files that leave to the library what it cannot know; of parts that are loaded it is known.

    Raises:
        ModelError: If a field is not said. It names it.
    """
    heads = () if model.unet.get("num_attention_heads") is not None else ("attention_head_dim",)
    check_said(model.name, "unet", model.unet, heads)
    if model.unet.get("addition_embed_type") == "text_time":  # the library's is that of Stable Diffusion 1 and 2
        check_said(model.name, "autoencoder", model.vae, ("scaling_factor",))


def check_text_config(model: str, part: str, config: Config, *, whole: bool = False) -> None:
    """Refuse a text encoder by its config, before it is built.

    Args:
        model: name of the model.
        part: name of the text encoder.
        config: as written.
        whole: whether it is all that is written, so that what it lacks would be the library's.

    Raises:
        ModelError: If a field is not one that is supported, or is not said. It names it.
    """
    if whole:
        check_said(model, part, config, ("num_attention_heads", "hidden_act"))
    check_fields(model, part, config, known_of_text(), TEXT_VALUES)
    width, heads, end = (
        config.get(name, usual)
        for name, usual in (("hidden_size", 512), ("num_attention_heads", 8), ("eos_token_id", 2))
    )
    if not (isinstance(heads, int) and heads > 0 and isinstance(width, int) and width % heads == 0):
        raise ModelError(
            f"{model}: the {part}'s config has num_attention_heads {heads}, expected a divisor of its hidden_size, {width}: "
            "it is not the config of its weights; get the model again"
        )
    if not isinstance(end, int):
        raise ModelError(
            f"{model}: the {part}'s config has eos_token_id {end}, expected a number: its tokenizer's last token"
        )


def _check_scheduler(model: Described) -> None:
    config, kind = model.scheduler, str(model.scheduler.get("_class_name", ""))
    begins = config.get("beta_start") is not None and config.get("beta_end") is not None
    other = [name for name in ("sigma_max", "sigma_min", "timestep_type", "use_flow_sigmas") if not _fits(config, name)]
    if kind not in SCHEDULERS or other or not (begins or config.get("trained_betas") is not None):
        why = f" with {other[0]} {config[other[0]]}" if kind in SCHEDULERS and other else ""
        why = why or (" without them" if kind in SCHEDULERS else "")
        raise ModelError(
            f"{model.name}: expected a scheduler with betas, as Stable Diffusion 1, 2 and XL have, got "
            f"{kind or 'one of an unknown class'}{why}: models of other noise processes (EDM, flow matching) are not supported"
        )
    if config.get("trained_betas") is None and not config.get("beta_schedule"):
        raise ModelError(
            f"{model.name}: the scheduler's config does not say its beta_schedule: add the one that the model was trained with"
        )
    check_fields(model.name, "scheduler", config, known(*SCHEDULERS), SCHEDULER_VALUES)
    check_kinds(model.name, "scheduler", config)


def _fits(config: Config, name: str) -> bool:
    return config.get(name) in SCHEDULER_VALUES[name]


def _latent_channels(vae: Config) -> int:
    return vae.get("latent_channels", 3 if vae.get("_class_name") == "VQModel" else 4)


def _check_latents(model: Described) -> None:
    count = _latent_channels(model.vae)
    lengths = {name: len(model.vae.get(name) or ()) for name in ("latents_mean", "latents_std")}
    if any(lengths.values()) and set(lengths.values()) != {count}:
        told = " and ".join(f"{length} of {name}" for name, length in lengths.items())
        raise ModelError(
            f"{model.name}: expected a mean and a deviation for each of the {count} channels of its latents, got {told} in the "
            "autoencoder's config: get the model again"
        )


def _check_channels(model: Described) -> None:
    latents = _latent_channels(model.vae)
    taken, given = model.unet.get("in_channels", 4), model.unet.get("out_channels", 4)
    if taken != latents:
        raise ModelError(
            f"{model.name}: expected a UNet that takes the {latents} channels of its latents, got one with {taken}: models "
            "for inpainting or other inputs are not supported"
        )
    if given != latents:
        raise ModelError(
            f"{model.name}: expected a UNet that answers with {latents} channels, got {given}: models with a learned "
            "variance are not supported"
        )


def _check_widths(model: Described) -> None:
    encoders, unet = model.text_encoders, model.unet
    wide = unet.get("cross_attention_dim", 1280)
    wanted = {wide} if isinstance(wide, int) else set(wide)
    got = sum(one["width"] for one in encoders.values())
    if wanted != {got}:
        told = " and ".join(str(one) for one in sorted(wanted))
        raise ModelError(
            f"{model.name}: expected text encoders of width {told} together, as the UNet takes them, got {got}: they are not "
            "those of this model"
        )
    for name, one in encoders.items():
        if one["words"] > one["rows"]:
            raise ModelError(
                f"{model.name}: the tokenizer of {name} has {one['words']} words, and the text encoder rows for "
                f"{one['rows']}: they do not belong together"
            )
    if unet.get("addition_embed_type") == "text_time":
        name, last = list(encoders.items())[-1]
        _check_pooled(model, last["pooled"])
        if last["end"] not in (2, last["eos"]):  # 2 stands for the token with the largest id
            raise ModelError(
                f"{model.name}: {name} looks for the end of a prompt at token {last['end']}, its tokenizer puts {last['eos']} "
                f"there: set eos_token_id to {last['eos']} in the config of {name}"
            )


def _check_pooled(model: Described, pooled: int) -> None:
    """Stable Diffusion XL is told six sizes; its refiner five, the last of which is a score."""
    taken, each = model.unet.get("projection_class_embeddings_input_dim"), model.unet.get("addition_time_embed_dim")
    if taken != pooled + 6 * (each or 0):
        what = ": that is a refiner, which is told a score" if taken == pooled + 5 * (each or 0) else ""
        raise ModelError(
            f"{model.name}: expected a UNet of Stable Diffusion XL that takes {pooled} + 6 x {each} numbers beside the "
            f"prompts, got {taken}{what}; give a base model"
        )
