"""A LoRA around the word of a trial: trained from its last rows on, and kept as the words are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentinv.adapters.install import adapted
from sentinv.adapters.layouts import LoraLayer
from sentinv.adapters.lora import Lora
from sentinv.bench.study import key_of
from sentinv.bench.trials import TOKEN, TrainingCurve, training_pictures
from sentinv.concepts.concept import Concept
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.errors import CheckpointError
from sentinv.files.images import read_image
from sentinv.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from sentinv.training.data import TrainingSet
from sentinv.training.objective import DenoisingObjective
from sentinv.training.tune import tune

if TYPE_CHECKING:
    from torch import Tensor

    from sentinv.bench.study import Trial
    from sentinv.models.backbone import Backbone


@dataclass(frozen=True, kw_only=True, eq=False)
class TunedWord:
    """What tuning gave.

    Attributes:
        rows: of the word: those that it had, unless they learned too.
        lora: with the weights that had the smallest loss on the tuning's own grid, as `sentinv.training.tune` keeps them.
        loss: on the fixed grid of the study, with the LoRA on.
        objective: the same, with the noise levels weighted as in the training of the word.
        seconds: of the tuning, its own evaluations included.
        stop: why it ended.
    """

    rows: Mapping[str, Tensor]
    lora: Lora
    loss: float
    objective: float
    seconds: float
    stop: str

    def join(self, curve: TrainingCurve, step: int) -> None:
        """Go on with the curve of the word: `step` counts its steps and those of the tuning."""
        curve.losses.append((step, self.loss))
        curve.objectives.append((step, self.objective))
        curve.seconds.append((step, curve.seconds[-1][1] + self.seconds))
        curve.stop = self.stop

    def save(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Write it beside what was asked for.

        Raises:
            SentinvError: If it cannot be written.
        """
        layers = self.lora.layers
        tensors = {f"rows.{name}": own for name, own in self.rows.items()}
        tensors |= {f"{part}.{place}": getattr(layers[place], part) for place in layers for part in ("down", "up")}
        state = {name: value for name, value in vars(self).items() if name not in ("rows", "lora")}
        state["alphas"] = {place: layer.alpha for place, layer in layers.items()}
        write_checkpoint(path, Checkpoint(settings["tune"]["steps"], tensors, state, settings))

    @classmethod
    def read(cls, path: Path) -> TunedWord:
        """Read it back.

        Raises:
            CheckpointError: If it is missing or damaged.
        """
        saved = read_checkpoint(path)
        state, tensors = dict(saved.state), saved.tensors
        layers = {
            place: LoraLayer(tensors[f"down.{place}"], tensors[f"up.{place}"], alpha)
            for place, alpha in state.pop("alphas").items()
        }
        rows = {name.removeprefix("rows."): own for name, own in tensors.items() if name.startswith("rows.")}
        return cls(rows=rows, lora=Lora(layers=layers, token=TOKEN), **state)


def tuned_word(
    backbone: Backbone, trial: Trial, rows: Mapping[str, Tensor], settings: Mapping[str, Any], folder: Path
) -> TunedWord:
    """Train a LoRA around the word of a trial that has one, or take what was learned under the same settings before.

    Args:
        backbone: the frozen model; it is bit for bit the same afterwards.
        trial: says how; the pictures are those that the word was learned from.
        rows: of the word, per text encoder `[vectors, dim]`.
        settings: all that decides what is learned, as JSON has it, the words for the thing among it.
        folder: of what was learned.

    Raises:
        SentinvError: As `sentinv.training.tune.tune`, or if it can't be written.
    """
    path = folder / f"{key_of(settings)}.safetensors"
    try:
        return TunedWord.read(path)
    except CheckpointError:  # there is none, or it is damaged
        pass
    tuned = _tuned(backbone, trial, rows, settings["words"])
    tuned.save(path, settings)
    return tuned


def _tuned(backbone: Backbone, trial: Trial, rows: Mapping[str, Tensor], words: str) -> TunedWord:
    pictures = training_pictures(trial.concept, trial.images, masked=trial.mask)
    tuned = tune(backbone, Concept(token=TOKEN, rows=rows), pictures, trial.tuning, words=words)
    whole = replace(read_image(trial.concept.image), mask=None)
    placed = PlaceholderRows.of_concepts([tuned.concept])
    with placed.installed(backbone), adapted(backbone, [tuned.lora]):
        grid = TrainingSet(backbone, [whole], placed, trial.config).evaluation_batches()
        weighted, plain = DenoisingObjective(backbone, trial.config.min_snr).evaluate(grid)
    return TunedWord(
        rows=tuned.concept.rows,
        lora=tuned.lora,
        loss=plain,
        objective=weighted,
        seconds=tuned.history.seconds,
        stop=tuned.history.stop,
    )
