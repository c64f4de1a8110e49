"""Models that were made for few steps without guidance: Turbo, Lightning, LCM and the like.

Their weights look like those of any model, and with the usual guidance their pictures are burnt. Some configs tell; else a
name does.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

_NAMED = re.compile(r"turbo|lightning|(?<![a-z])(?:lcm|dmd2?|hyper|pcm|tcd|flash)(?![a-z])|hyper-?sd", re.IGNORECASE)

USUAL = 7.5
"""The guidance scale that suits most models."""


def own_guidance(name: str, unet: Mapping[str, Any], scheduler: Mapping[str, Any]) -> float:
    """The guidance scale that suits a model where none is asked for. One of few steps is told in a warning.

    Args:
        name: of the model, as the user or its config names it.
        unet: its config.
        scheduler: its config, with the `_class_name`.
    """
    if why := few_steps(name, unet, scheduler):
        warnings.warn(
            f"{name} is taken for a model of few steps without guidance ({why}): it draws with a guidance of 1, and 4 to 8 "
            "steps are enough; generate and edit take another by --guidance",
            stacklevel=2,
        )
        return 1.0
    if may_be_few_steps(scheduler):
        warnings.warn(
            f"{name} may be a model of few steps (its scheduler is Euler, trailing): if so, generate and edit with "
            "--guidance 1 and few --steps",
            stacklevel=2,
        )
    return USUAL


def few_steps(name: str, unet: Mapping[str, Any], scheduler: Mapping[str, Any]) -> str | None:
    """Why a model is held for one of few steps; None if nothing says that it is.

    Args:
        name: of the model, as the user or its config names it.
        unet: its config.
        scheduler: its config, with the `_class_name`.
    """
    kind = scheduler.get("_class_name")
    if kind in ("LCMScheduler", "TCDScheduler"):
        return f"its scheduler is {kind}"
    trailing = scheduler.get("timestep_spacing") == "trailing" and str(kind).startswith("Euler")
    if trailing and unet.get("addition_embed_type") == "text_time" and unet.get("sample_size") == 64:
        return "it is a Stable Diffusion XL for 512 pixels with trailing steps, as Turbo is"
    found = _NAMED.search(re.split(r"[\\/]", name.rstrip("\\/"))[-1])
    return f"its name says {found[0]!r}" if found else None


def may_be_few_steps(scheduler: Mapping[str, Any]) -> bool:
    """Whether a config looks like that of a model of few steps, and of others as well."""
    plain = scheduler.get("prediction_type", "epsilon") == "epsilon" and not scheduler.get("rescale_betas_zero_snr")
    kind = str(scheduler.get("_class_name"))
    return plain and kind.startswith("Euler") and scheduler.get("timestep_spacing") == "trailing"
