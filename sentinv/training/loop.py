"""A training run step by step: what it holds, and what it does when its numbers go wrong."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Generator, Tensor

from sentinv.errors import TrainingError
from sentinv.training.checkpoint import Checkpoint
from sentinv.training.history import History, StepRecord
from sentinv.training.rescue import Measures, Rescue

if TYPE_CHECKING:
    from sentinv.concepts.initialization import Start
    from sentinv.concepts.placeholder import PlaceholderRows
    from sentinv.training.config import TrainConfig
    from sentinv.training.data import Batch, TrainingSet

OnStep = Callable[[StepRecord], None]
Result = TypeVar("Result")

RUNAWAY = 1000.0
"""Rows that are longer than so many medians of the vocabulary end a run.

AdamW moves an entry by about the learning rate: a hundred steps at 0.02 take a row of 768 entries to at most 55, which is 146
medians in Stable Diffusion 1.5. Whatever is beyond a thousand has run away.
"""

WRONG = {
    "not finite": "the loss or the rows were not finite",
    "runaway": f"a row grew to more than {RUNAWAY:g} times the vocabulary's median length",
}
"""What `history.stop` says of a run that went wrong, in words."""

_STEPS_PER_SYNC = 10  # on accelerators; on the CPU there is nothing to wait for
_HALF_PRECISION_SCALE = 256.0  # keeps the gradients of an fp16 model above the smallest number it has


class Run:
    """The state of a training run: everything that a checkpoint has to hold.

    Attributes:
        step: steps done.
        best: rows of the smallest evaluation loss so far, on the CPU.
        history: records and evaluations so far.
        rescue: what may be done where numbers or memory fail; without it they end the run.
    """

    def __init__(
        self,
        data: TrainingSet,
        rows: PlaceholderRows,
        start: Start,
        config: TrainConfig,
        *,
        on_step: OnStep | None = None,
        rescue: Rescue | None = None,
    ) -> None:
        self.data, self.rows, self.config, self.on_step, self.rescue = data, rows, config, on_step, rescue
        self.start = {name: value.to(data.backbone.device) for name, value in start.rows.items()}
        self.medians = {encoder.name: encoder.median_norm for encoder in data.backbone.text_encoders}
        self.optimizer = torch.optim.AdamW(
            rows.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        self.generator = Generator().manual_seed(config.seed)
        self.grid = data.evaluation_batches()
        self.history = History()
        self.step = 0
        self.best = self._copy()
        self._good = (0, self._state())
        self._pending: list[tuple[int, Tensor, float]] = []

    def steps(self) -> Iterator[int]:
        """Train to the end, yielding after every step."""
        begun = time.perf_counter()
        if not self.history.evaluations:
            self._begin()
        interval = 1 if self.data.backbone.device.type == "cpu" else _STEPS_PER_SYNC
        while self.step < self.config.steps and not self.history.stop:
            self.train_step()
            evaluated = self.step % self.config.evaluate_every == 0 or self.step == self.config.steps
            if evaluated or len(self._pending) >= interval:
                self.settle(evaluated)
            self.history.seconds += time.perf_counter() - begun
            yield self.step
            begun = time.perf_counter()
        self.history.stop = self.history.stop or "steps"

    def _begin(self) -> None:
        loss = self._grid_loss()
        if not math.isfinite(loss) and self.rescue is not None and self.rescue.more_precision():
            warnings.warn(f"the loss of the start is {loss}: going on in float32", stacklevel=2)
            loss = self._grid_loss()
        if not math.isfinite(loss):
            precision = str(self.data.backbone.dtype).removeprefix("torch.")
            raise TrainingError(
                f"the loss of the start is {loss}, computed in {precision}: the model is damaged or does not suit the image; "
                "sentinv selftest tells more"
            )
        self._note(loss)

    def train_step(self) -> None:
        """One step: batch, loss, backward, update."""
        learning_rate = learning_rate_at(self.step, self.config)
        batch = self.data.draw(self.generator)
        loss = self._attempt(lambda: self._backward(batch))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self._limit_norms()
        self.step += 1
        self._pending.append((self.step, loss, learning_rate))

    def _backward(self, batch: Batch) -> Tensor:
        """Compute the gradient of the batch's mean loss, and return that loss."""
        scale = _HALF_PRECISION_SCALE if self.data.backbone.dtype == torch.float16 else 1.0
        self.optimizer.zero_grad()
        losses = []
        for part in batch.parts(self._parts):
            share = len(part) / len(batch)
            loss = self.data.loss(part).mean()
            (scale * share * (loss + self._pull())).backward()
            losses.append(share * loss.detach())
        for parameter in self.rows.parameters():
            if parameter.grad is not None:
                parameter.grad /= scale
        return torch.stack(losses).sum()

    @property
    def _parts(self) -> int:
        return 1 if self.rescue is None else self.rescue.measures.parts

    def _attempt(self, work: Callable[[], Result]) -> Result:
        return work() if self.rescue is None else self.rescue.attempt(work)

    def _pull(self) -> Tensor | float:
        if not self.config.pull:
            return 0.0
        distances = [(self.rows.rows[name] - start).square().mean() for name, start in self.start.items()]
        return self.config.pull * torch.stack(distances).mean()

    @torch.no_grad()
    def _limit_norms(self) -> None:
        if self.config.max_norm is None:
            return
        for name, parameter in self.rows.rows.items():
            limit = self.config.max_norm * self.medians[name]
            parameter *= (limit / parameter.norm(dim=1, keepdim=True)).clamp(max=1)

    def settle(self, evaluate: bool = False) -> None:
        """Read what the last steps gave, and check it. Reading makes the host wait for the device."""
        if not self._pending:
            return
        losses = torch.stack([loss for _, loss, _ in self._pending]).tolist()
        records = [StepRecord(step, loss, rate) for (step, _, rate), loss in zip(self._pending, losses, strict=True)]
        self._pending.clear()
        wrong = self._wrong(losses)
        loss = self._grid_loss() if evaluate and not wrong else 0.0
        if wrong or not math.isfinite(loss):
            self._roll_back(records, wrong or "not finite")
            return
        self._good = (self.step, self._state())
        if evaluate:
            records[-1] = replace(records[-1], evaluation=loss)
            self._note(loss)
        self.history.records += records
        if self.on_step is not None:
            for record in records:
                self.on_step(record)

    @torch.no_grad()
    def _wrong(self, losses: list[float]) -> str:
        """What is wrong with the state, as `history.stop` has it; "" if nothing is."""
        longest = [
            parameter.norm(dim=1).max().item() / self.medians[name] for name, parameter in self.rows.rows.items()
        ]
        if not all(map(math.isfinite, [*losses, *longest])):
            return "not finite"
        return "runaway" if max(longest) > max(RUNAWAY, 1.01 * (self.config.max_norm or 0)) else ""

    def _grid_loss(self) -> float:
        objective, _ = self._attempt(
            lambda: self.data.evaluate([part for batch in self.grid for part in batch.parts(self._parts)])
        )
        return objective

    def _note(self, loss: float) -> None:
        """Write down the loss on the grid; keep the rows if they are the best."""
        history, config = self.history, self.config
        if not history.evaluations or loss < history.best_loss:
            history.best_step = self.step
            self.best = self._copy()
        history.evaluations.append((self.step, loss))
        if config.stop == "auto" and history.stale(config.min_improvement) >= config.patience:
            history.stop = "auto"

    def _roll_back(self, records: list[StepRecord], wrong: str) -> None:
        """Go back to the last good state, and on from there in more precision, or end."""
        first = next((record.step for record in records if not math.isfinite(record.loss)), records[0].step)
        self.step, state = self._good
        self._put_back(state)
        if wrong == "not finite" and self.rescue is not None and self.rescue.more_precision():
            text = f"{WRONG[wrong]} at step {first}: going on from step {self.step} in float32"
        else:
            loss = self._grid_loss()
            if math.isfinite(loss) and self.step not in [step for step, _ in self.history.evaluations[-1:]]:
                self._note(loss)
            self.history.stop = wrong
            text = f"{WRONG[wrong]} at step {first}: stopped, the last good rows are kept; try a smaller learning rate"
            if wrong == "not finite" and self.data.backbone.dtype != torch.float32:
                text += ", or float32"
        warnings.warn(text, stacklevel=2)

    def _copy(self) -> dict[str, Tensor]:
        return {name: parameter.detach().cpu().clone() for name, parameter in self.rows.rows.items()}

    def _state(self) -> dict[str, Tensor]:
        """Rows, optimiser and random state: copies, on the CPU."""
        tensors = {"generator": self.generator.get_state()}
        for name, parameter in self.rows.rows.items():
            moments = self.optimizer.state.get(parameter, {})
            found = {"rows": parameter, **{f"adamw.{key}": value for key, value in moments.items()}}
            tensors |= {f"{key}.{name}": value.detach().cpu().clone() for key, value in found.items()}
        return tensors

    @torch.no_grad()
    def _put_back(self, tensors: dict[str, Tensor]) -> None:
        self.generator.set_state(tensors["generator"])
        self.optimizer.state.clear()
        for name, parameter in self.rows.rows.items():
            parameter.copy_(tensors[f"rows.{name}"])
            if f"adamw.step.{name}" in tensors:
                self.optimizer.state[parameter] = {
                    key: tensors[f"adamw.{key}.{name}"].to("cpu" if key == "step" else parameter.device).clone()
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }

    def checkpoint(self, settings: dict[str, Any]) -> Checkpoint:
        """The state after the current step."""
        self.settle()
        tensors = self._state() | {f"best.{name}": value for name, value in self.best.items()}
        measures = asdict(self.rescue.measures) if self.rescue is not None else {}
        return Checkpoint(self.step, tensors, {"history": self.history.to_json(), "measures": measures}, settings)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a saved state."""
        tensors = dict(checkpoint.tensors)
        self.step = checkpoint.step
        self.history = History.from_json(checkpoint.state["history"])
        if self.rescue is not None:
            self.rescue.take(Measures(**checkpoint.state["measures"]))
        self._put_back(tensors)
        self.best = {name: tensors[f"best.{name}"].clone() for name in self.rows.rows}
        self._good = (self.step, self._state())


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Learning rate of a step, counted from 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * (config.final_learning_rate + (1 - config.final_learning_rate) * share)
