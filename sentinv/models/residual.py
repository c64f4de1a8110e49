"""BLIP and CLIP that see with a residual network, as CLIP's first ones did (Radford et al. 2021), not with a transformer.

The built-in captioner and judge are such: of few pictures a small residual network learns far more than a small transformer.
Apart from that they are transformers' own classes: they train, generate, save and load alike.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import BlipForConditionalGeneration, CLIPModel, ResNetConfig, ResNetModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class Places(nn.Module):
    """A residual network in the place of a vision transformer: its last map as a sequence, a token for each place.

    Args:
        config: `ResNetConfig`, as a dictionary.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.resnet = ResNetModel(ResNetConfig(**config))

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Look at pictures `[N, 3, H, W]`: tokens `[N, places, C]`, and their mean `[N, C]`."""
        seen = self.resnet(pixel_values)
        return BaseModelOutputWithPooling(
            last_hidden_state=seen.last_hidden_state.flatten(2).mT, pooler_output=seen.pooler_output.flatten(1)
        )


class ResidualBlip(BlipForConditionalGeneration):
    """A BLIP whose config has `resnet`, the config of what it sees with.

    Of `vision_config` only `hidden_size` counts, for BLIP gives it to the text model: it is the width of the last map.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vision_model = Places(config.resnet)  # type: ignore[assignment]


class ResidualClip(CLIPModel):
    """A CLIP whose config has `resnet`, the config of what it sees with; `vision_config` counts for nothing."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vision_model = Places(config.resnet)
        self.visual_projection = nn.Linear(config.resnet["hidden_sizes"][-1], config.projection_dim)
