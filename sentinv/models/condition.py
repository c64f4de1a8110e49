"""What goes into a model and comes out of it beside latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Condition:
    """What a UNet is told about the prompts.

    Attributes:
        hidden: `[B, L, D]` hidden states for cross-attention.
        pooled: `[B, P]` pooled embedding, for families that have one.
    """

    hidden: Tensor
    pooled: Tensor | None = None

    def __getitem__(self, index: Any) -> Condition:
        """Choose rows of the batch."""
        return Condition(self.hidden[index], None if self.pooled is None else self.pooled[index])

    @classmethod
    def joined(cls, parts: Sequence[Condition]) -> Condition:
        """Those of one batch, then those of the next; all of one model."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return cls(torch.cat([part.hidden for part in parts]), torch.cat(pooled) if pooled else None)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and standard deviation of encoded images, `[B, C, h, w]` each, not scaled yet."""

    mean: Tensor
    std: Tensor


def filled(values: Sequence[float], device: torch.device) -> Tensor:
    """Numbers `[1, C, 1, 1]` on a device, filled in there: a copy would make the host wait."""
    return torch.cat([torch.full((1, 1, 1, 1), float(value), device=device) for value in values], dim=1)
