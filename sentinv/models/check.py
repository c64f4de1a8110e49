"""Whether a model is one that we know how to run: judged once, by its configs, before anything is drawn or loaded.

The configs are taken as they were written. A library fills in what a config lacks, without a word: so a scheduler of another
noise process becomes one with betas, and a field that it does not know is left out of the forward pass. What is supported is
listed here, and everything else is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sentinv.errors import ModelError

Config = Mapping[str, Any]


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

SCHEDULERS = (
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
"""Schedulers of the discrete noise process that Stable Diffusion was trained with: their configs say its betas."""

_UNET_VALUES: dict[str, tuple[Any, ...]] = {
    "addition_embed_type": (None, "text_time"),
    "attention_type": (None, "default"),
    "center_input_sample": (None, False),
    "class_embed_type": (None,),
    "class_embeddings_concat": (None, False),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "num_class_embeds": (None,),
    "time_cond_proj_dim": (None,),
}
"""Fields by which a UNet's forward pass needs other inputs → values with which it does not."""

_VAE_VALUES: dict[str, tuple[Any, ...]] = {"in_channels": (None, 3), "out_channels": (None, 3)}
_SCHEDULER_VALUES: dict[str, tuple[Any, ...]] = {
    "beta_schedule": (None, "linear", "scaled_linear", "squaredcos_cap_v2"),
    "clip_sample": (None, False),
    "sigma_max": (None,),
    "sigma_min": (None,),
    "snr_shift_scale": (None, 1.0),
    "thresholding": (None, False),
    "timestep_spacing": (None, "leading", "trailing", "linspace"),
    "timestep_type": (None, "discrete"),
    "use_flow_sigmas": (None, False),
}
"""Likewise for schedulers: another noise process, or samples cut off, which ruins latents."""

_TEXT_VALUES: dict[str, tuple[Any, ...]] = {
    "activation_function": (None, "gelu"),
    "add_cross_attention": (None, False),
    "hidden_act": (None, "gelu", "quick_gelu"),
    "is_decoder": (None, False),
    "model_type": (None, "clip", "clip_text_model", "ldmbert"),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
    "return_dict": (None, True),
}
"""Likewise for text encoders: another network than CLIP's, or numbers that are none of their own."""

_HARMLESS = frozenset(
    "decay inv_gamma min_decay optimization_step power update_after_step use_ema_warmup "  # noqa: SIM905 - of EMA
    "architectures dtype dropout torch_dtype timestep_values requires_safety_checker "
    "cross_attention_hidden_size finetuning_task gradient_checkpointing prefix sep_token_id torchscript "  # of old ones
    "task_specific_params tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class "
    "use_attention_mask use_bfloat16".split()
)
_ADVICE = {
    "quantization_config": "quantised models are not supported: get it in 16 bits",
    "return_dict": "set it to true there",
    **dict.fromkeys(("clip_sample", "thresholding"), "it ruins latents: set it to false in the scheduler's config"),
    "time_cond_proj_dim": "that is a latent consistency model which takes its guidance as an input: use the LoRA of it, or "
    "another model",
}


def check_model(model: Described) -> None:
    """Refuse a model that cannot be run as what it is.

    Raises:
        ModelError: If a class, a field of a config or the fit of two parts is not one that is supported. It names it.
    """
    for part, found in model.classes.items():
        if part in CLASSES and found not in CLASSES[part]:
            raise ModelError(
                f"{model.name}: expected a {part} of class {' or '.join(CLASSES[part][:2])}, got {found}: choose another model"
            )
    _check_scheduler(model)
    _check_fields(model.name, "unet", model.unet, _known("UNet2DConditionModel"), _UNET_VALUES)
    kind = str(model.vae.get("_class_name", "AutoencoderKL"))
    if kind not in CLASSES["vqvae"]:
        raise ModelError(
            f"{model.name}: expected an autoencoder of class AutoencoderKL, got {kind}: choose another model"
        )
    _check_fields(model.name, "autoencoder", model.vae, _known(kind), _VAE_VALUES)
    _check_channels(model)
    for part, config in model.text_configs.items():
        check_text_config(model.name, part, config)
    _check_widths(model)


def check_text_config(model: str, part: str, config: Config) -> None:
    """Refuse a text encoder by its config, before it is built.

    Raises:
        ModelError: If a field is not one that is supported. It names it.
    """
    _check_fields(model, part, config, _known_of_text(), _TEXT_VALUES)
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
    _check_fields(model.name, "scheduler", config, _known(*SCHEDULERS), _SCHEDULER_VALUES)


def _fits(config: Config, name: str) -> bool:
    return config.get(name) in _SCHEDULER_VALUES[name]


def _check_fields(
    model: str, part: str, config: Config, known: frozenset[str], values: Mapping[str, tuple[Any, ...]]
) -> None:
    """Refuse fields that nobody knows, and values that need what is not given."""
    for name, value in config.items():
        if name.startswith("_") or name in _HARMLESS:
            continue
        if name in values:
            if value not in values[name]:
                wanted = " or ".join(str(one) for one in values[name] if one is not None) or "none"
                advice = _ADVICE.get(name, "such models are not supported")
                raise ModelError(f"{model}: the {part}'s config has {name} {value}, expected {wanted}: {advice}")
        elif name not in known and value not in (None, False, "", [], {}, ()):
            raise ModelError(
                f"{model}: the {part}'s config has {name}, which is not known here: what it changes is not supported; take it "
                "out of the config if it changes nothing"
            )


@lru_cache
def _known(*classes: str) -> frozenset[str]:
    """What the constructors of classes of diffusers take."""
    import diffusers

    return frozenset(name for one in classes for name in _parameters(diffusers, one))


@lru_cache
def _known_of_text() -> frozenset[str]:
    """What configs of text encoders hold: of their classes, and what transformers writes into those of all models."""
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig
    from transformers import CLIPTextConfig, GenerationConfig

    classes = (*inspect.signature(CLIPTextConfig).parameters, *inspect.signature(LDMBertConfig).parameters)
    return frozenset((*classes, *CLIPTextConfig().to_dict(), *vars(GenerationConfig())))


def _parameters(library: Any, name: str) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(getattr(library, name).__init__).parameters)
    except (AttributeError, ImportError):  # one whose own dependencies are not installed
        return ()


def _check_channels(model: Described) -> None:
    latents = model.vae.get("latent_channels", 3 if model.vae.get("_class_name") == "VQModel" else 4)
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
