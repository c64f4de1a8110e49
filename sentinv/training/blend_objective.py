"""What blended items cost: the denoising loss to a target that the frozen model has a say in.

The answers to prompts of other things are to stay. How far one may stray is measured by what its words do, the guidance
direction: an answer that is off by so much is another picture. So their loss is the squared share of that direction.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sentinv.diffusion.conversions import add_noise, target
from sentinv.generation.denoiser import encode_prompts
from sentinv.models.backbone import Backbone, Condition
from sentinv.training.blend import BlendedBatch, BlendedSet
from sentinv.training.data import Batch, copied_to
from sentinv.training.objective import DenoisingObjective, denoising_loss

LEAST = 0.01
"""The guidance direction counts as so much of the answer at least: where words do nothing, nothing is to be divided by it."""

_AT_ONCE = 32  # prompts that are encoded together


class BlendedObjective(DenoisingObjective):
    """Mean squared error to the blended target, times the weight of its noise level; of other things the share that strayed.

    Args:
        data: whose batches it gets.
        min_snr: gamma of the min-SNR weights; None for no weights.
        frozen: makes a context in which the model is as it was; nothing, where only the rows of a word learn.
        fixed_rows: prompts mean the same throughout, and are encoded once.
        others_weight: what an answer to another prompt costs that is off by the whole guidance direction.

    Attributes:
        teacher: the encoded `BlendedSet.teacher_prompts`, and no prompt as the last.
    """

    capturable = False  # it looks for the items whose target is the frozen model's

    def __init__(
        self,
        data: BlendedSet,
        min_snr: float | None,
        *,
        frozen: Callable[[], AbstractContextManager[None]] = nullcontext,
        fixed_rows: bool = False,
        others_weight: float = 1.0,
    ) -> None:
        super().__init__(data.backbone, min_snr)
        self.frozen, self.others_weight = frozen, others_weight
        self.teacher = _joined([encode_all(data.backbone, data.teacher_ids), encode_prompts(data.backbone, [None])])
        self.conditions = encode_all(data.backbone, data.all_ids) if fixed_rows else None

    def errors(self, batch: Batch) -> Tensor:
        """Loss per item, `[B]`, with every noise level counting the same."""
        assert isinstance(batch, BlendedBatch)  # noqa: S101 - for the type checker
        noisy = add_noise(batch.latents, batch.noise, batch.alphas_cumprod)
        wanted, units = self.wanted(batch, noisy)
        condition = self.backbone.encode_ids(batch.ids) if self.conditions is None else self.conditions[batch.prompts]
        return denoising_loss(self.backbone.predict(noisy, batch.timesteps, condition), wanted, batch.mask) / units

    def weights(self, batch: Batch) -> Tensor | float:
        """What each item counts, `[B]`: its timestep's min-SNR weight, and 1 for other things.

        The weights are for what a picture shows and where. What another prompt gives changes at low noise as well, and most
        there, as a share of what its words do.
        """
        weights = super().weights(batch)
        if not isinstance(weights, Tensor) or not isinstance(batch, BlendedBatch) or batch.weights is not None:
            return weights
        return torch.where(copied_to(batch.kept, weights.device), 1.0, weights)

    @torch.no_grad()
    def wanted(self, batch: BlendedBatch, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """The targets, and the units of the errors.

        Returns:
            The target `[B, C, h, w]` float32: the true one, or where that has no share the frozen model's answer. And `[B]`:
            what errors are divided by, 1 but for other things.
        """
        backbone = self.backbone
        true = target(batch.latents, batch.noise, batch.alphas_cumprod, backbone.schedule.prediction_type).float()
        taught, kept = (marks.nonzero()[:, 0] for marks in (batch.taught, batch.kept))
        units = torch.ones(len(batch), device=noisy.device)
        if not len(taught):
            return true, units
        asked = copied_to(torch.cat([taught, kept]), noisy.device)
        taught, kept = asked[: len(taught)], asked[len(taught) :]
        none = torch.full_like(kept, len(self.teacher.hidden) - 1)
        told = self.teacher[torch.cat([batch.teacher[taught], none])]
        with self.frozen():
            answers = backbone.predict(noisy[asked], batch.timesteps[asked], told)
        wanted = true.clone()
        wanted[taught] = torch.lerp(answers[: len(taught)], true[taught], batch.own[taught])
        size, least = (
            one.square().flatten(1).mean(dim=1) for one in (wanted[kept] - answers[len(taught) :], wanted[kept])
        )
        units[kept] = torch.maximum(size, LEAST**2 * least) / self.others_weight
        return wanted, units


@torch.no_grad()
def encode_all(backbone: Backbone, ids: dict[str, Tensor]) -> Condition:
    """Encode many prompts, some at a time."""
    count = len(next(iter(ids.values())))
    return _joined(
        [
            backbone.encode_ids({name: own[first : first + _AT_ONCE] for name, own in ids.items()})
            for first in range(0, count, _AT_ONCE)
        ]
    )


def _joined(parts: list[Condition]) -> Condition:
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Condition(torch.cat([part.hidden for part in parts]), torch.cat(pooled) if pooled else None)
