"""The fields of configs: which are known, of which kind their values are, and which values are supported."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from sentinv.errors import ModelError

Config = Mapping[str, Any]

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

UNET_VALUES: dict[str, tuple[Any, ...]] = {
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

VAE_VALUES: dict[str, tuple[Any, ...]] = {"in_channels": (None, 3), "out_channels": (None, 3)}
SCHEDULER_VALUES: dict[str, tuple[Any, ...]] = {
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

TEXT_VALUES: dict[str, tuple[Any, ...]] = {
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


class Kind(NamedTuple):
    """What a field holds.

    Attributes:
        says: it, in words.
        holds: whether a value is one.
    """

    says: str
    holds: Callable[[Any], bool]


def _is_whole(value: Any, least: int = 1) -> bool:
    return type(value) is int and value >= least


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are(value: Any, one: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(one, value))


_WHOLE = Kind("a whole number of at least 1", _is_whole)
_WHOLES = Kind("whole numbers of at least 1", lambda value: _is_whole(value) or _are(value, _is_whole))
_NUMBERS = Kind("a list of numbers, or none", lambda value: value is None or _are(value, _is_number))
_BETA = Kind("a number between 0 and 1", lambda value: value is None or (_is_number(value) and 0 < value < 1))

KINDS: dict[str, dict[str, Kind]] = {
    "unet": {
        "in_channels": _WHOLE,
        "out_channels": _WHOLE,
        "sample_size": _WHOLES,
        "cross_attention_dim": _WHOLES,
        "attention_head_dim": _WHOLES,
        "layers_per_block": _WHOLES,
        "block_out_channels": _WHOLES,
    },
    "autoencoder": {
        "block_out_channels": _WHOLES,
        "latent_channels": _WHOLE,
        "scaling_factor": Kind("a number above 0", lambda value: _is_number(value) and value > 0),
        "shift_factor": Kind("a number, or none", lambda value: value is None or _is_number(value)),
        "latents_mean": _NUMBERS,
        "latents_std": _NUMBERS,
    },
    "scheduler": {
        "num_train_timesteps": _WHOLE,
        "steps_offset": Kind("a whole number of at least 0", lambda value: _is_whole(value, 0)),
        "beta_start": _BETA,
        "beta_end": _BETA,
        "trained_betas": Kind("a list of numbers, or none", lambda value: value is None or _are(value, _is_number)),
    },
}
"""Part → field → what it holds: another kind of value would end in an error of a library."""


def check_kinds(model: str, part: str, config: Config) -> None:
    """Refuse fields that hold what they can't.

    Raises:
        ModelError: If there is one. It names it.
    """
    for name, kind in KINDS[part].items():
        if name in config and not kind.holds(config[name]):
            raise ModelError(
                f"{model}: the {part}'s config has {name} {config[name]!r:.60}, expected {kind.says}: it is not the config of "
                "its weights; get the model again"
            )


def check_said(model: str, part: str, config: Config, names: Collection[str]) -> None:
    """Refuse a config that lacks a field which no weight shows and for which a library has a value of its own.

    Raises:
        ModelError: If it lacks one. It names it.
    """
    lacking = next((name for name in names if name not in config), None)
    if lacking is not None:
        raise ModelError(
            f"{model}: the {part}'s config does not say its {lacking}, which its weights do not show: add what it was trained "
            "with, or get the model again"
        )


def check_fields(
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
def known(*classes: str) -> frozenset[str]:
    """What the constructors of classes of diffusers take."""
    import diffusers

    return frozenset(name for one in classes for name in _parameters(diffusers, one))


@lru_cache
def known_of_text() -> frozenset[str]:
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
