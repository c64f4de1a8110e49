"""The training loop: batch, loss, backward, step, report; and what it does when its numbers go wrong.

It trains named parameters, in groups that each have a learning rate: the rows of placeholders, or whatever else takes part in
an objective. There is one optimiser, one format of checkpoints and one best state for all of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from sentinv.errors import TrainingError
from sentinv.training.checkpoint import Checkpoint, copies_on_cpu
from sentinv.training.history import RUNAWAY, WRONG, History, StepRecord
from sentinv.training.rescue import Measures, NoRescue
from sentinv.training.rolling import gradients, rolling

if TYPE_CHECKING:
    from sentinv.training.config import TrainConfig
    from sentinv.training.data import Batch, Data
    from sentinv.training.lengths import Lengths
    from sentinv.training.objective import Objective

OnStep = Callable[[StepRecord], None]

Watch = Callable[["Loop"], None]
"""Called after every step with the run; it may draw from the parameters as they are, and `Loop.end` ends it there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ParameterGroup:
    """Parameters that are trained at one learning rate.

    Attributes:
        parameters: name → float32 parameter of two dimensions. All names of a run differ; checkpoints have them.
        learning_rate: AdamW's step size at its highest, > 0.
        usual_norm: name → usual norm of a row of that parameter; one `RUNAWAY` times as long has run away.
        lengths: what holds the rows' lengths; None to leave them alone.
    """

    parameters: Mapping[str, nn.Parameter]
    learning_rate: float
    usual_norm: Mapping[str, float] = field(default_factory=dict)
    lengths: Lengths | None = None


class Loop:
    """A training run: everything that a checkpoint has to hold.

    Args:
        data: what a step draws.
        objective: what it costs.
        groups: what is trained.
        config: steps, batches, schedule, evaluations, seed.
        evaluation: the fixed grid on which the run is evaluated, from its start; without one it never is.
        rescue: what may be done where numbers or memory fail.
        on_step: called with each step's record, `steps_per_sync` of them at a time.
        steps_per_sync: steps between two looks at the losses, ≥ 1. Looking makes the host wait for an accelerator.

    Attributes:
        step: steps done.
        best: parameters of the smallest evaluation loss so far, by name, on the CPU.
        history: records and evaluations so far.
        together: of how many runs a call of the model has the items where several share their steps, ≥ 1. With one a run has
            the bits of a run of its own. Where it is more, calls that lack items are filled up: their shape, which decides on
            the kernels that compute them, depends on no neighbour, and so the bits do not either.
    """

    def __init__(
        self,
        data: Data,
        objective: Objective,
        groups: Sequence[ParameterGroup],
        config: TrainConfig,
        *,
        evaluation: Sequence[Batch] = (),
        rescue: NoRescue | None = None,
        on_step: OnStep | None = None,
        steps_per_sync: int = 1,
    ) -> None:
        self.data, self.objective, self.groups, self.config = data, objective, groups, config
        self.evaluation, self.rescue, self.on_step = evaluation, rescue or NoRescue(), on_step
        self.steps_per_sync = steps_per_sync
        self.parameters = {name: parameter for group in groups for name, parameter in group.parameters.items()}
        self.usual_norm = {name: norm for group in groups for name, norm in group.usual_norm.items()}
        self._on_cuda = all(parameter.device.type == "cuda" for parameter in self.parameters.values())
        self.optimizer = torch.optim.AdamW(
            [{"params": [*group.parameters.values()], "lr": group.learning_rate} for group in groups],
            betas=config.betas,
            weight_decay=0.0,
            fused=self._on_cuda or None,  # one launch; its count of steps is on the device
        )
        self.generator = Generator().manual_seed(config.seed)
        self.history = History()
        self.together = 1
        self.step = 0
        self.best = self._copy()
        self._good = (0, self._state())
        self._pending: list[tuple[int, Tensor, float]] = []
        self._learning_rate = 0.0

    def steps(self) -> Iterator[int]:
        """Train to the end, yielding after every step."""
        for _ in rolling([self]):
            yield self.step

    @property
    def over(self) -> bool:
        """Whether there is no further step."""
        return self.step >= self.config.steps or bool(self.history.stop)

    def begin(self) -> None:
        """Evaluate the start, if that has not been done."""
        if self.evaluation and not self.history.evaluations:
            self._evaluate_start()

    def draw(self) -> Batch:
        """Draw the next step's batch."""
        self._learning_rate = self._set_learning_rates()
        return self.data.draw(self.generator)

    def advance(self, loss: Tensor) -> None:
        """Take the step whose gradients are there; `loss` is that of its batch."""
        self._update()
        self.step += 1
        self._pending.append((self.step, loss, self._learning_rate))
        evaluate = self.step % self.config.evaluate_every == 0 or self.step == self.config.steps
        if evaluate or len(self._pending) >= self.steps_per_sync:
            self.settle(evaluate=evaluate)

    def end(self) -> None:
        """End the run after this step: somebody has seen enough. What it has come to is evaluated once more."""
        self.settle()
        if self.evaluation and self.history.evaluations[-1][0] != self.step:
            loss = self._evaluate()
            if math.isfinite(loss):
                self._note(loss)
        self.history.stop = self.history.stop or "asked"

    def _set_learning_rates(self) -> float:
        """Set the learning rate of each group for the next step, and return the first group's."""
        share = self.config.share_of_rate(self.step)
        for ours, theirs in zip(self.groups, self.optimizer.param_groups, strict=True):
            theirs["lr"] = ours.learning_rate * share
        return self.groups[0].learning_rate * share

    def _update(self) -> None:
        """Step the parameters along their gradients, and hold the lengths of those that have some to keep."""
        held = [group for group in self.groups if group.lengths is not None]
        for group in held:
            group.lengths.before_step(group.parameters)  # type: ignore[union-attr]
        self.optimizer.step()
        for group in held:
            group.lengths.after_step(group.parameters)  # type: ignore[union-attr]

    def backward(self, batch: Batch) -> Tensor:
        """Compute the gradient of the batch's mean loss, and return that loss."""
        return gradients([self], [batch])[0]

    def settle(self, *, evaluate: bool = False) -> None:
        """Read what the last steps gave, check it and report it. Reading makes the host wait for the device."""
        if not self._pending:
            return
        losses = torch.stack([loss for _, loss, _ in self._pending]).tolist()
        records = [StepRecord(step, loss, rate) for (step, _, rate), loss in zip(self._pending, losses, strict=True)]
        self._pending.clear()
        evaluate = evaluate and bool(self.evaluation)
        wrong = self._wrong(losses)
        loss = self._evaluate() if evaluate and not wrong else 0.0
        if wrong or not math.isfinite(loss):
            self._roll_back(records, wrong or "not finite")
            return
        self._good = (self.step, self._state())
        if evaluate:
            records[-1] = replace(records[-1], evaluation=loss)
            self._note(loss)
        self.history.records += records
        for record in records if self.on_step is not None else ():
            self.on_step(record)  # type: ignore[misc]

    # Evaluation

    def _evaluate_start(self) -> None:
        loss = self._evaluate()
        if not math.isfinite(loss) and self.rescue.more_precision():
            warnings.warn(f"the loss of the start is {loss}: going on in float32", stacklevel=3)
            loss = self._evaluate()
        if not math.isfinite(loss):
            precision = str(self.objective.dtype).removeprefix("torch.")
            raise TrainingError(
                f"the loss of the start is {loss}, computed in {precision}: the model is damaged or does not suit the image; "
                "sentinv selftest tells more"
            )
        self._note(loss)

    @torch.no_grad()
    def _evaluate(self) -> float:
        """What is minimised, on the fixed grid."""

        def work() -> float:
            batches = [part for batch in self.evaluation for part in batch.parts(self._evaluation_parts(len(batch)))]
            return torch.cat([self.objective(batch) for batch in batches]).mean().item()

        return self.rescue.attempt(work)

    def _evaluation_parts(self, count: int) -> int:
        """Of so many items of the grid: none larger than those of a step, where a step is computed in parts."""
        parts = self.rescue.measures.parts
        return 1 if parts == 1 else -(-count // -(-self.config.items // parts))

    def _note(self, loss: float) -> None:
        """Write down the loss on the grid; keep the parameters if they are the best."""
        history, config = self.history, self.config
        if not history.evaluations or loss < history.best_loss:
            history.best_step = self.step
            self.best = self._copy()
        history.evaluations.append((self.step, loss))
        if config.stop == "auto" and history.stale(config.min_improvement) >= config.patience:
            history.stop = "auto"

    # What goes wrong

    @torch.no_grad()
    def _wrong(self, losses: Sequence[float]) -> str:
        """What is wrong with the state, as `history.stop` has it; "" if nothing is."""
        rows = [self.parameters[name].norm(dim=1).max() / own for name, own in self.usual_norm.items()]
        whole = nn.utils.get_total_norm(list(self.parameters.values()))
        total, *shares = torch.stack([whole, *rows]).tolist()
        if not all(map(math.isfinite, [*losses, total, *shares])):
            return "not finite"
        return "runaway" if any(share > RUNAWAY for share in shares) else ""

    def _roll_back(self, records: Sequence[StepRecord], wrong: str) -> None:
        """Go back to the last good state, and on from there in more precision, or end."""
        first = next((record.step for record in records if not math.isfinite(record.loss)), records[0].step)
        self.step, state = self._good
        self._put_back(state)
        if wrong == "not finite" and self.rescue.more_precision():
            text = f"{WRONG[wrong]} at step {first}: going on from step {self.step} in float32"
        else:
            loss = self._evaluate() if self.evaluation else math.nan
            if math.isfinite(loss) and self.step not in [step for step, _ in self.history.evaluations[-1:]]:
                self._note(loss)
            self.history.stop = wrong
            text = f"{WRONG[wrong]} at step {first}: stopped, the last good rows are kept; try a smaller learning rate"
            if wrong == "not finite" and self.objective.dtype != torch.float32:
                text += ", or float32"
        warnings.warn(text, stacklevel=3)

    # State

    def _copy(self) -> dict[str, Tensor]:
        return copies_on_cpu(self.parameters)

    def _state(self) -> dict[str, Tensor]:
        """Parameters, optimiser and random state: copies, on the CPU."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state.get(parameter, {})
            found |= {f"parameter.{name}": parameter, **{f"adamw.{key}.{name}": own for key, own in moments.items()}}
        return {"generator": self.generator.get_state(), **copies_on_cpu(found)}

    @torch.no_grad()
    def _put_back(self, tensors: Mapping[str, Tensor]) -> None:
        self.generator.set_state(tensors["generator"])
        self.optimizer.state.clear()
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"parameter.{name}"])
            if f"adamw.step.{name}" in tensors:
                self.optimizer.state[parameter] = {
                    key: tensors[f"adamw.{key}.{name}"]
                    .to("cpu" if key == "step" and not self._on_cuda else parameter.device)
                    .clone()
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }

    def checkpoint(self, settings: Mapping[str, Any]) -> Checkpoint:
        """The state after the current step; steps that are pending are settled first."""
        self.settle()
        tensors = self._state() | {f"best.{name}": value for name, value in self.best.items()}
        state = {"history": self.history.to_json(), "measures": asdict(self.rescue.measures)}
        return Checkpoint(self.step, tensors, state, settings)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a saved state."""
        self.step = checkpoint.step
        self.history = History.from_json(checkpoint.state["history"])
        self.rescue.take(Measures(**checkpoint.state["measures"]))
        self._put_back(checkpoint.tensors)
        self.best = {name: checkpoint.tensors[f"best.{name}"].clone() for name in self.parameters}
        self._good = (self.step, self._state())
