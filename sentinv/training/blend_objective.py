"""What blended items cost: the denoising loss to a target that the frozen model has a say in.

The answers to prompts of other things are to stay. How far one may stray is measured by what its words do, the guidance
direction: an answer that is off by so much is another picture. So their loss is the squared share of that direction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sentinv.diffusion.conversions import add_noise, target
from sentinv.generation.denoiser import encode_prompts
from sentinv.models.backbone import Backbone, Condition
from sentinv.training.blend import BlendedBatch, BlendedSet
from sentinv.training.data import Batch
from sentinv.training.objective import DenoisingObjective, denoising_loss

LEAST = 0.01
"""The guidance direction counts as so much of the answer at least: where words do nothing, nothing is to be divided by it."""

_AT_ONCE = 32  # prompts that are encoded together


class BlendedObjective(DenoisingObjective):
    """Mean squared error to the blended target, times the weight of its noise level; of other things the share that strayed.

    Args:
        backbone: the model, with the rows of the prompts' placeholders installed.
        min_snr: gamma of the min-SNR weights; None for no weights.
        frozen: makes a context in which the model is as it was; nothing, where only the rows of a word learn.
        data: whose batches it gets: what means the same in every step is encoded once, and again where the text encoders'
            precision changes. None, where it may get those of several, to encode each batch's.
        fixed_rows: the prompts of its items mean the same throughout, as those of the frozen model do in any case.
        others_weight: what an answer to another prompt costs that is off by the whole guidance direction.
    """

    def __init__(
        self,
        backbone: Backbone,
        min_snr: float | None,
        *,
        frozen: Callable[[], AbstractContextManager[None]] = nullcontext,
        data: BlendedSet | None = None,
        fixed_rows: bool = False,
        others_weight: float = 1.0,
    ) -> None:
        super().__init__(backbone, min_snr)
        self.frozen, self.data, self.fixed_rows, self.others_weight = frozen, data, fixed_rows, others_weight
        self._precision: list[torch.dtype] = []
        self._found: dict[tuple[bool, ...], Tensor] = {}

    def _encode(self) -> None:
        """Encode what means the same throughout, if the text encoders' precision is not what it was."""
        backbone, data = self.backbone, self.data
        precision = [encoder.table.weight.dtype for encoder in backbone.text_encoders]
        if precision == self._precision:
            return
        self._precision, self._nothing = precision, encode_prompts(backbone, [None])
        self._own = encode_all(backbone, data.all_ids) if data is not None and self.fixed_rows else None
        self._teacher = None if data is None else encode_all(backbone, data.teacher_ids)

    def _places(self, marks: tuple[bool, ...], device: torch.device) -> Tensor:
        """Indices of the items that are marked, int64; kept, as copying them makes the host wait."""
        if marks not in self._found:
            found = [index for index, marked in enumerate(marks) if marked]
            self._found[marks] = torch.tensor(found, dtype=torch.int64, device=device)
        return self._found[marks]

    def _told(self, batch: BlendedBatch, items: Tensor) -> Condition:
        """What the frozen model is told of some items."""
        if self._teacher is None:
            return self.backbone.encode_ids({name: ids[items] for name, ids in batch.teacher_ids.items()})
        return self._teacher[batch.teacher[items]]

    def errors(self, batch: Batch) -> Tensor:
        """Loss per item, `[B]`, with every noise level counting the same."""
        assert isinstance(batch, BlendedBatch)  # noqa: S101 - for the type checker
        noisy = add_noise(batch.latents, batch.noise, batch.alphas_cumprod)
        wanted, units = self.wanted(batch, noisy)
        condition = self.backbone.encode_ids(batch.ids) if self._own is None else self._own[batch.prompts]
        return denoising_loss(self.backbone.predict(noisy, batch.timesteps, condition), wanted, batch.mask) / units

    def weights(self, batch: Batch) -> Tensor | float:
        """What each item counts, `[B]`: its timestep's min-SNR weight, and 1 for other things.

        The weights are for what a picture shows and where. What another prompt gives changes at low noise as well, and most
        there, as a share of what its words do.
        """
        weights = super().weights(batch)
        if not isinstance(weights, Tensor) or not isinstance(batch, BlendedBatch) or batch.weights is not None:
            return weights
        return weights.index_fill(0, self._places(batch.kept, weights.device), 1.0)

    @torch.no_grad()
    def wanted(self, batch: BlendedBatch, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """The targets, and the units of the errors.

        Returns:
            The target `[B, C, h, w]` float32: the true one, or where that has no share the frozen model's answer. And `[B]`:
            what errors are divided by, 1 but for other things.
        """
        self._encode()
        backbone = self.backbone
        true = target(batch.latents, batch.noise, batch.alphas_cumprod, backbone.schedule.prediction_type).float()
        units = torch.ones(len(batch), device=noisy.device)
        if not any(batch.taught):
            return true, units
        taught, kept = (self._places(marks, noisy.device) for marks in (batch.taught, batch.kept))
        asked = torch.cat([taught, kept])
        told = Condition.joined([self._told(batch, taught), self._nothing[torch.zeros_like(kept)]])
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
def encode_all(backbone: Backbone, ids: Mapping[str, Tensor]) -> Condition:
    """Encode many prompts, some at a time.

    Args:
        backbone: with the rows of their placeholders installed.
        ids: of their tokens, `[N, L]` per text encoder.
    """
    count = len(next(iter(ids.values())))
    parts = [slice(first, first + _AT_ONCE) for first in range(0, count, _AT_ONCE)]
    return Condition.joined([backbone.encode_ids({name: own[part] for name, own in ids.items()}) for part in parts])
