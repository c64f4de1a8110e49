"""How much a learned word counts in a prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sentinv.concepts.prompts import split_at_placeholders
from sentinv.errors import PromptError

if TYPE_CHECKING:
    from torch import Tensor

    from sentinv.models.backbone import Backbone, Condition

Weights = Mapping[str, float]
"""Placeholder → weight: 1 changes nothing, more is more of it, at 0 nothing attends to it."""


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
    backbone: Backbone, condition: Condition, ids: Mapping[str, Tensor], words: Sequence[tuple[Sequence[int], float]]
) -> Condition:
    """Let words count for more or less: go away from the states of the prompt in which no token attends to them, or towards.

    Of three ways this has the best likeness to the prompt for a given one to the picture (`benchmarks/weights.py`); below 1 it
    is nearly what compel does.

    Args:
        backbone: whose text encoders made the states; rows are installed.
        condition: of one prompt.
        ids: token ids of the prompt, `[1, L]` per text encoder.
        words: ids of the tokens and the weight, for each word.

    Returns:
        ``states + sum of (weight - 1) * (states - states without attention to the word)``; the pooled embedding as it was.
    """
    hidden = condition.hidden.clone()
    for tokens, weight in words:
        if weight != 1:
            without = backbone.encode_ids(ids, unseen=tokens).hidden
            hidden = hidden + (weight - 1) * (condition.hidden - without)
    return type(condition)(hidden, condition.pooled)
