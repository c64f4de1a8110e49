"""Textual inversion (Gal et al. 2022, arXiv:2208.01618): only the placeholder's rows learn, the model is frozen."""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from sentinv.batches import TrainingSet
from sentinv.checkpoint import Checkpoint, check_settings, latest_checkpoint, save_checkpoint
from sentinv.concept import Concept
from sentinv.config import TrainConfig
from sentinv.errors import Interrupted, TrainingError
from sentinv.frozen import lean_convolutions
from sentinv.history import History, StepRecord
from sentinv.initialization import Initialization, Start, starting_rows
from sentinv.interrupt import stop_request
from sentinv.placeholder import PlaceholderRows
from sentinv.provenance import provenance

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.backbone import Backbone
    from sentinv.decoding import Picture

OnStep = Callable[[StepRecord], None]

_STEPS_PER_SYNC = 10  # on accelerators; on the CPU there is nothing to wait for
_HALF_PRECISION_SCALE = 256.0  # keeps the gradients of an fp16 model above the smallest number it has


def train_concept(
    backbone: Backbone,
    images: Sequence[Image.Image | Picture],
    initialization: Initialization | Start,
    config: TrainConfig | None = None,
    *,
    token: str = "<concept>",  # noqa: S107 - not a password
    checkpoints: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
) -> tuple[Concept, History]:
    """Learn a word for what the images have in common.

    Args:
        backbone: the frozen model; it is bit for bit the same afterwards.
        images: of one concept, ≥ 1, of any size; the centre is cropped to the model's square. A `Picture` may have a
            mask, white where the concept is, which weighs the loss.
        initialization: words (or a concept) to start from, or a start made of them by `starting_rows`.
        config: hyper-parameters.
        token: the placeholder.
        checkpoints: folder for checkpoints; without it none are written.
        resume: go on from the newest checkpoint of that folder. The result has the same bytes as without the break.
        on_step: called with each step's record, on accelerators ten steps at a time, so that the host need not wait.

    Returns:
        The concept, with the rows that had the smallest loss on the fixed grid, and the history. A loss that is not
        finite ends the run early: `history.stop` says so.

    Raises:
        PromptError: If token, words or templates cannot be used.
        CheckpointError: If there is nothing to resume from, or it is of a run with other settings.
        Interrupted: After Ctrl-C or SIGTERM, when the step is done and the checkpoint saved.
        TrainingError: If not even the start has a finite loss.
    """
    config = config or TrainConfig()
    start = initialization if isinstance(initialization, Start) else starting_rows(initialization, backbone)
    rows = PlaceholderRows({token: start.rows})
    _ = backbone.fingerprint  # taken once and kept: with rows installed it would be another
    lean, checkpointed = lean_convolutions(backbone.unet), _gradient_checkpointing(backbone, config)
    with rows.installed(backbone), lean, checkpointed, stop_request() as request:
        data = TrainingSet(backbone, images, rows, config)
        run = Run(data, rows, start, config, on_step)
        settings = _settings(data, start, config, token)
        if resume:
            if checkpoints is None:
                raise ValueError("resume needs the folder of the checkpoints")
            checkpoint = latest_checkpoint(checkpoints)
            check_settings(checkpoint.settings, settings)
            run.restore(checkpoint)
        for _ in run.steps():
            asked = request.signal_number
            if checkpoints is not None and (asked is not None or run.step % config.checkpoint_every == 0):
                save_checkpoint(checkpoints, run.checkpoint(settings))
            if asked is not None:
                kept = (
                    "resume to go on"
                    if checkpoints is not None
                    else "nothing was saved, for want of a checkpoint folder"
                )
                raise Interrupted(f"stopped after step {run.step} of {config.steps}: {kept}", asked)
    history = run.history
    if config.steps and not history.learned:
        warnings.warn(
            f"nothing was learned: no step had a smaller evaluation loss than the start ({history.start_loss:.4f}), "
            "whose rows are kept; try another learning rate or more steps",
            stacklevel=2,
        )
    metadata = provenance(backbone, start, config, history, run.best)
    return Concept(token=token, rows=run.best, base_model=backbone.name, metadata=metadata), history


class Run:
    """The state of a training run: everything that a checkpoint has to hold.

    Attributes:
        step: steps done.
        best: rows of the smallest evaluation loss so far, on the CPU.
        history: records and evaluations so far.
    """

    def __init__(
        self,
        data: TrainingSet,
        rows: PlaceholderRows,
        start: Start,
        config: TrainConfig,
        on_step: OnStep | None = None,
    ) -> None:
        self.data, self.rows, self.config, self.on_step = data, rows, config, on_step
        self.start = {name: value.to(data.backbone.device) for name, value in start.rows.items()}
        self.limits = {
            encoder.name: config.max_norm * encoder.median_norm
            for encoder in data.backbone.text_encoders
            if config.max_norm is not None
        }
        self.optimizer = torch.optim.AdamW(
            rows.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        self.generator = Generator().manual_seed(config.seed)
        self.grid = data.evaluation_batches()
        self.scale = _HALF_PRECISION_SCALE if data.backbone.dtype == torch.float16 else 1.0
        self.history = History()
        self.step = 0
        self.best = self._copy()
        self._good = self._copy()
        self._pending: list[tuple[int, Tensor, float]] = []

    def steps(self) -> Iterator[int]:
        """Train to the end, yielding after every step."""
        begun = time.perf_counter()
        if not self.history.evaluations:
            self._evaluate()
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

    def train_step(self) -> None:
        """One step: batch, loss, backward, update."""
        learning_rate = learning_rate_at(self.step, self.config)
        batch = self.data.draw(self.generator)
        loss = self.data.loss(batch).mean()
        (self.scale * (loss + self._pull())).backward()
        for parameter in self.rows.parameters():
            if parameter.grad is not None:
                parameter.grad /= self.scale
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._limit_norms()
        self.step += 1
        self._pending.append((self.step, loss.detach(), learning_rate))

    def _pull(self) -> Tensor | float:
        if not self.config.pull:
            return 0.0
        distances = [(self.rows.rows[name] - start).square().mean() for name, start in self.start.items()]
        return self.config.pull * torch.stack(distances).mean()

    @torch.no_grad()
    def _limit_norms(self) -> None:
        for name, limit in self.limits.items():
            parameter = self.rows.rows[name]
            parameter *= (limit / parameter.norm(dim=1, keepdim=True)).clamp(max=1)

    def settle(self, evaluate: bool = False) -> None:
        """Read what the last steps gave, and check it. Reading makes the host wait for the device."""
        if not self._pending:
            return
        losses = torch.stack([loss for _, loss, _ in self._pending]).tolist()
        records = [StepRecord(step, loss, rate) for (step, _, rate), loss in zip(self._pending, losses, strict=True)]
        self._pending.clear()
        if not (all(map(math.isfinite, losses)) and all(torch.isfinite(p).all() for p in self.rows.parameters())):
            self._roll_back(records)
            return
        self._good = self._copy()
        if evaluate:
            records[-1] = replace(records[-1], evaluation=self._evaluate())
        self.history.records += records
        if self.on_step is not None:
            for record in records:
                self.on_step(record)

    def _evaluate(self) -> float:
        loss = self.data.evaluate(self.grid)
        history, config = self.history, self.config
        if not history.evaluations and not math.isfinite(loss):
            raise TrainingError(
                f"the loss of the start is {loss}: the model's dtype ({self.data.backbone.dtype}) may be too small for it; "
                "try float32"
            )
        if not history.evaluations or loss < history.best_loss:
            history.best_step = self.step
            self.best = self._copy()
        history.evaluations.append((self.step, loss))
        if config.stop == "auto" and history.stale(config.min_improvement) >= config.patience:
            history.stop = "auto"
        return loss

    def _roll_back(self, records: list[StepRecord]) -> None:
        first = next((record.step for record in records if not math.isfinite(record.loss)), records[0].step)
        with torch.no_grad():
            for name, parameter in self.rows.rows.items():
                parameter.copy_(self._good[name])
        self.step = records[0].step - 1
        self._evaluate()
        self.history.stop = "not finite"
        warnings.warn(
            f"the loss or the rows were not finite at step {first}: stopped, the last good rows are kept; "
            "try a smaller learning rate, or float32",
            stacklevel=4,
        )

    def _copy(self) -> dict[str, Tensor]:
        return {name: parameter.detach().cpu().clone() for name, parameter in self.rows.rows.items()}

    def checkpoint(self, settings: dict[str, Any]) -> Checkpoint:
        """The state after the current step."""
        self.settle()
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state()}
        for name, parameter in self.rows.rows.items():
            tensors[f"rows.{name}"] = parameter
            tensors[f"best.{name}"] = self.best[name]
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adamw.{name}.{key}"] = value
        return Checkpoint(self.step, tensors, self.history.to_json(), settings)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a saved state."""
        tensors = checkpoint.tensors
        self.step = checkpoint.step
        self.history = History.from_json(checkpoint.state)
        self.generator.set_state(tensors["generator"])
        for name, parameter in self.rows.rows.items():
            parameter.copy_(tensors[f"rows.{name}"])
            self.best[name] = tensors[f"best.{name}"].clone()
            self.optimizer.state[parameter] = {
                key: tensors[f"adamw.{name}.{key}"].to("cpu" if key == "step" else parameter.device).clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
        self._good = self._copy()


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Learning rate of a step, counted from 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * (config.final_learning_rate + (1 - config.final_learning_rate) * share)


@contextmanager
def _gradient_checkpointing(backbone: Backbone, config: TrainConfig) -> Iterator[None]:
    if not config.gradient_checkpointing or backbone.unet.is_gradient_checkpointing:
        yield
        return
    backbone.unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        backbone.unet.disable_gradient_checkpointing()


def _settings(data: TrainingSet, start: Start, config: TrainConfig, token: str) -> dict[str, Any]:
    """What has to be the same for a run to go on, as JSON has it."""
    settings = json.loads(json.dumps(asdict(config)))  # lists for tuples, as a checkpoint gives them back
    del settings["checkpoint_every"]
    prompts = [ids.cpu() for ids in data.ids.values()]
    masks = [] if data.mask is None else [data.mask.cpu()]
    return settings | {
        "token": token,
        "model": data.backbone.fingerprint,
        "dtype": str(data.backbone.dtype),
        "start": _digest(list(start.rows.values())),
        "images": _digest([data.pixels]),
        "masks": _digest(masks),
        "prompts": _digest(prompts),
    }


def _digest(tensors: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
