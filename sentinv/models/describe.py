"""A model's configs as they were written, for `sentinv.models.check`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sentinv.models.check import Described

if TYPE_CHECKING:
    from sentinv.models.text_encoder import TextEncoder


def written(config: Mapping[str, Any], family: type | None = None) -> dict[str, Any]:
    """The fields that somebody wrote into a config of diffusers, without those that the class filled in.

    Args:
        config: of a part.
        family: its class, if it is loaded: a value that is not the class's default was written later.
    """
    filled = set(config.get("_use_default_values", ()))
    if family is not None:
        own = inspect.signature(family).parameters
        filled = {name for name in filled if name in own and config[name] == own[name].default}
    return {name: value for name, value in config.items() if name not in filled and name != "_use_default_values"}


def class_name(part: Any) -> str:
    """The class of a part, through `torch.compile`; of a subclass the one of the library that it is made of."""
    inner = getattr(part, "_orig_mod", part)
    return next(
        (
            kind.__name__
            for kind in type(inner).__mro__
            if kind.__module__.split(".")[0] in ("diffusers", "transformers")
        ),
        type(inner).__name__,
    )


def described(name: str, unet: Any, vae: Any, text_encoders: Sequence[TextEncoder], scheduler: Any) -> Described:
    """Describe a model by its loaded parts.

    A scheduler's own defaults are what it samples with, so they count as written.
    """
    parts = {"unet": unet, "vqvae": vae}
    parts |= {_part(encoder): encoder.model for encoder in text_encoders}
    return Described(
        name=name,
        unet=written(unet.config, type(getattr(unet, "_orig_mod", unet))),
        vae={"_class_name": class_name(vae), **written(vae.config, type(vae))},
        scheduler={**scheduler.config, "_class_name": class_name(scheduler)},
        text_encoders={
            encoder.name: encoder_sizes(encoder.model.config, encoder.tokenizer, encoder.table.weight.shape[0])
            for encoder in text_encoders
        },
        classes={part: class_name(module) for part, module in parts.items()},
        text_configs={encoder.name: encoder.model.config.to_diff_dict() for encoder in text_encoders},
    )


def encoder_sizes(config: Any, tokenizer: Any, rows: int | None = None) -> dict[str, int]:
    """What `Described.text_encoders` says of one, by its transformers config and its tokenizer."""
    eos = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    return {
        "width": config.hidden_size,
        "pooled": getattr(config, "projection_dim", 0) or 0,
        "rows": config.vocab_size if rows is None else rows,
        "words": len(tokenizer),
        "end": getattr(config, "eos_token_id", eos),
        "eos": eos,
    }


def _part(encoder: TextEncoder) -> str:
    return "bert" if class_name(encoder.model) == "LDMBertModel" else encoder.name
