"""What the parts that look at pictures see with: small residual networks.

Vision transformers of the same cost were tried before: of as many pictures they learn far less, and learn those by heart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from . import world
from .fit import RUNS, generator

RESNET: dict[str, Any] = {
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 128, 192],
    "depths": [1, 2, 2, 1],
    "layer_type": "basic",
}
"""He et al. 2015, "Deep Residual Learning", with six blocks: maps of 32, 16, 8 and 4 places a side."""
WIDTH: int = RESNET["hidden_sizes"][-1]
UNUSED = {
    "hidden_size": WIDTH,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": world.RESOLUTION,
}
"""Configs of BLIP and CLIP have a vision transformer, in whose place the residual network is (`sentinv.models.residual`)."""
TAUGHT = RUNS / "classifier" / "attributes"


def new_resnet(labels: dict[int, str]) -> ResNetForImageClassification:
    """An untrained residual network with a linear layer of so many outputs, laid out for convolutions on a CPU."""
    torch.manual_seed(0)
    config = ResNetConfig(**RESNET, id2label=labels, label2id={label: i for i, label in labels.items()})
    return ResNetForImageClassification(config).to(memory_format=torch.channels_last)


def pixels(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures `[N, 3, RESOLUTION, RESOLUTION]` in [0, 1] as parts that look at them take them: in [-1, 1], channels last."""
    return (pictures * 2 - 1).to(memory_format=torch.channels_last)


def hand_over(network: ResNetModel) -> None:
    """Start what another part sees with from the trained classifier; changed in place."""
    taught = ResNetForImageClassification.from_pretrained(TAUGHT, dtype=torch.float32)
    network.load_state_dict(taught.resnet.state_dict())
    network.to(memory_format=torch.channels_last)


@torch.no_grad()
def settle(network: nn.Module, draw: Callable[[torch.Generator], torch.Tensor], device: str) -> None:
    """Measure the means and variances of a trained network's normalisations anew, over 64 batches of pictures.

    Training normalises by each batch alone, so that checkpoints need not hold these; those gathered on the way are of
    the last few batches and of other weights than the average.
    """
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all
    network.train()
    for index in range(64):
        network(pixels(draw(generator(1, index))).to(device))
    network.eval()
