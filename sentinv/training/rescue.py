"""What a run does when it cannot go on as it is: more precision where numbers overflow, less memory where it ends.

None of it changes what is learned, only how it is computed. Everything is undone when the run is over.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from sentinv.errors import TrainingError
from sentinv.models.memory import free_memory, in_bytes, is_out_of_memory, release
from sentinv.training.memory import step_memory

if TYPE_CHECKING:
    from types import TracebackType

    from sentinv.models.backbone import Backbone
    from sentinv.training.config import TrainConfig

Result = TypeVar("Result")


@dataclass(frozen=True)
class Measures:
    """What has been done so far.

    Attributes:
        float32: UNet and text encoders compute in float32, whatever they were loaded in.
        gradient_checkpointing: the UNet's activations are computed twice instead of kept.
        parts: so many parts of a batch are computed one after another, and their gradients added.
    """

    float32: bool = False
    gradient_checkpointing: bool = False
    parts: int = 1


class NoRescue:
    """Takes no measures: whatever fails is told as it is.

    Attributes:
        measures: taken so far.
    """

    def __init__(self) -> None:
        self.measures = Measures()

    def take(self, measures: Measures) -> None:
        """Take these measures, besides those that are taken."""
        self.measures = measures

    def more_precision(self) -> bool:
        """Compute in float32 from now on. Returns whether that is a change."""
        return False

    def attempt(self, work: Callable[[], Result]) -> Result:
        """Do some work."""
        return work()


class Rescue(NoRescue):
    """Takes measures, in a fixed order, inside a ``with`` block; on leaving it the model is as it was.

    Args:
        backbone: whose UNet and text encoders are meant. Rows are to be installed inside the block.
        config: of the run; its `gradient_checkpointing` is taken at once.
    """

    def __init__(self, backbone: Backbone, config: TrainConfig) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        self._undo = ExitStack()

    def __enter__(self) -> Rescue:
        parts = self.config.parts(self.backbone.latent_side)
        self.take(Measures(gradient_checkpointing=self.config.gradient_checkpointing, parts=parts))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def take(self, measures: Measures) -> None:
        """Take these measures, besides those that are taken."""
        unet = self.backbone.unet
        if measures.float32:
            with ExitStack() as begun:  # where memory ends on the way, what was begun is undone
                for module in (unet, *(encoder.model for encoder in self.backbone.text_encoders)):
                    for tensor in (*module.parameters(), *module.buffers()):
                        if tensor.is_floating_point() and tensor.dtype.itemsize < 4:
                            begun.callback(_retype, tensor, tensor.dtype)
                            _retype(tensor, torch.float32)
                self._undo.callback(begun.pop_all().close)
        if measures.gradient_checkpointing and not unet.is_gradient_checkpointing:
            self._undo.callback(unet.disable_gradient_checkpointing)
            unet.enable_gradient_checkpointing()
        self.measures = measures

    def more_precision(self) -> bool:
        """Compute in float32 from now on. Returns whether that is a change; not where there is no memory for it."""
        halves = (self.backbone.dtype, *(encoder.table.weight.dtype for encoder in self.backbone.text_encoders))
        if all(dtype.itemsize >= 4 for dtype in halves):
            return False
        try:
            self.take(replace(self.measures, float32=True))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def attempt(self, work: Callable[[], Result]) -> Result:
        """Do some work; where memory ends, need less and do it again.

        Raises:
            TrainingError: If there is nothing left that would need less.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # out of the except block: its traceback would keep the tensors of the failed work
            release()
            self._less_memory()

    def _less_memory(self) -> None:
        measures, most = self.measures, max(self.config.items, self.config.evaluation_noises)
        if not measures.gradient_checkpointing:
            self.take(replace(measures, gradient_checkpointing=True))
            what = "gradient checkpointing"
        elif measures.parts < most:
            self.take(replace(measures, parts=min(2 * measures.parts, most)))
            what = f"batches in {self.measures.parts} parts"
        else:
            raise TrainingError(
                "out of memory, even with gradient checkpointing and one item at a time: a step needs about "
                f"{in_bytes(step_memory(self.backbone))} beside the weights, {in_bytes(free_memory(self.backbone.device))} "
                "are free; use a smaller --dtype or model, another device, or end other programs"
            )
        warnings.warn(f"out of memory: going on with {what}, slower and to the same result", stacklevel=3)


def _retype(tensor: Tensor, dtype: torch.dtype) -> None:
    tensor.data = tensor.data.to(dtype)
