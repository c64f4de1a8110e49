"""How long the rows of a word may get.

A text encoder's first layers normalise what they read, a row and its position together: the longer the row, the less is left
of the position, and of the words beside it. Rows of published text encoders are of much the same length, and the model knows
no others. (Not of the built-in one, whose words that were trained are two to four times as long as the median of all.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Lengths:
    """Keeps rows between two lengths.

    Attributes:
        least: parameter name → shortest length of each row, `[n, 1]`, ≥ 0.
        most: parameter name → longest length of each row, `[n, 1]`.
        fixed: whether both are the same: gradients then lose their part along the row.
    """

    least: Mapping[str, Tensor]
    most: Mapping[str, Tensor]
    fixed: bool

    @classmethod
    @torch.no_grad()
    def fixed_to(cls, parameters: Mapping[str, nn.Parameter]) -> Lengths:
        """Every row keeps the length that it has now."""
        now = {name: parameter.norm(dim=1, keepdim=True) for name, parameter in parameters.items()}
        return cls(now, now, True)

    @classmethod
    @torch.no_grad()
    def up_to(cls, parameters: Mapping[str, nn.Parameter], limits: Mapping[str, float]) -> Lengths:
        """No row gets longer than the limit of its parameter, or than it is now."""
        now = {name: parameter.norm(dim=1, keepdim=True) for name, parameter in parameters.items()}
        return cls(
            {name: torch.zeros_like(own) for name, own in now.items()},
            {name: own.clamp(min=limits[name]) for name, own in now.items()},
            False,
        )

    @torch.no_grad()
    def before_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Take out of gradients what would only change a length that is fixed."""
        for parameter in parameters.values() if self.fixed else ():
            if parameter.grad is not None:
                direction = nn.functional.normalize(parameter, dim=1)
                parameter.grad -= (parameter.grad * direction).sum(dim=1, keepdim=True) * direction

    @torch.no_grad()
    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Bring rows back to a length that they may have."""
        for name, parameter in parameters.items():
            length = parameter.norm(dim=1, keepdim=True).clamp(min=1e-12)
            parameter.mul_(torch.maximum(torch.minimum(length, self.most[name]), self.least[name]) / length)
