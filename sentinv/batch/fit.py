"""How many words can be trained at a time on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sentinv.models.loading import best_device
from sentinv.models.memory import free_memory
from sentinv.training.batch import AT_ONCE
from sentinv.training.memory import training_memory

if TYPE_CHECKING:
    from sentinv.models.names import Place
    from sentinv.training.config import TrainConfig

_SHARE = 0.7
"""Of what is free beside the weights, what activations may take: kernels need room of their own."""


def evenly(count: int, most: int) -> int:
    """Size of portions of at most `most`, of which a batch of so many pictures has equal ones: what is filled up is wasted."""
    return -(-count // -(-count // most)) if count else most


def words_that_fit(base: Place, config: TrainConfig) -> int:
    """How many words to train at a time: 8, or as many as memory has room for; at least one.

    Args:
        base: the model; of a single checkpoint file nothing is known before it is loaded, and one word fits.
        config: of the training.

    Raises:
        ModelError: If the model's configs cannot be loaded.
    """
    needed = training_memory(base, config)
    free = free_memory(torch.device(base.device) if base.device else best_device())
    if needed is None or free is None:
        return 1
    room = _SHARE * (free - needed["weights"])
    return max(1, min(AT_ONCE, int(room / needed["activations"])))
