"""How much a learned word counts in a prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sentinv.concepts.prompts import split_at_placeholders
from sentinv.errors import PromptError

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone, Condition

Weights = Mapping[str, float]
"""Placeholder → weight: 1 changes nothing, more is more of it, 0 is as if the prompt were empty in its place."""


def check_weights(weights: Weights, prompt: str) -> None:
    """Refuse weights that cannot be used.

    Raises:
        PromptError: If a word that is weighed is not in the prompt, or a weight is not in [0, 3].
    """
    for token, weight in weights.items():
        if not (math.isfinite(weight) and 0 <= weight <= 3):
            raise PromptError(f"expected a weight from 0 to 3 for {token}, got {weight:g}: useful are 0.5 to 1.5")
        if token not in split_at_placeholders(prompt, {token: [-1]}):
            raise PromptError(
                f"{token} has a weight and does not occur in the prompt: write it there, or leave the weight out"
            )


def weighed(
    backbone: Backbone,
    condition: Condition,
    empty: Condition,
    ids: Mapping[str, Tensor],
    places: Sequence[tuple[Sequence[int], float]],
) -> Condition:
    """Scale the states of some tokens, away from those of the empty prompt or towards them.

    Args:
        backbone: whose text encoders made the states.
        condition: of one prompt.
        empty: of the empty prompt.
        ids: token ids of the prompt, `[1, L]` per text encoder.
        places: ids of the tokens and their weight, for each word.

    Returns:
        The prompt's states, those of the words being ``empty + weight * (state - empty)`` at their places.
    """
    hidden, first = condition.hidden.clone(), 0
    for encoder in backbone.text_encoders:
        last = first + encoder.model.config.hidden_size
        own, none = hidden[..., first:last], empty.hidden[..., first:last]
        for tokens, weight in places:
            chosen = torch.isin(ids[encoder.name], torch.tensor(tokens, device=hidden.device))[..., None]
            own.copy_(torch.where(chosen, none + weight * (own - none), own))
        first = last
    return type(condition)(hidden, condition.pooled)
