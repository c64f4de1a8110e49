"""One run of a study: train with the loss on the fixed grid at chosen steps, and measure images on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sentinv.concepts.initialization import Start
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.errors import SentinvError
from sentinv.files.decoding import Picture
from sentinv.files.images import read_image, read_mask
from sentinv.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from sentinv.training.data import TrainingSet
from sentinv.training.graphs import with_graph
from sentinv.training.lean_convolutions import lean_convolutions
from sentinv.training.loop import Loop
from sentinv.training.objective import DenoisingObjective
from sentinv.training.train import data_and_objective, rows_groups

if TYPE_CHECKING:
    from sentinv.bench.concepts import StudyConcept
    from sentinv.models.backbone import Backbone
    from sentinv.training.config import TrainConfig

TOKEN = "<concept>"  # noqa: S105 - not a password


@dataclass(eq=False)
class TrainingCurve:
    """What a run gave.

    Attributes:
        losses: (step, mean loss on the fixed grid) with the rows of that very step.
        objectives: (step, what is minimised: the same, with the noise levels weighted as in the training).
        seconds: (step, seconds of training up to it), without what the study itself measures.
        rows: step → rows, at the steps that were asked for.
        stop: why it ended.
        origin: where and when it was trained.
    """

    losses: list[tuple[int, float]] = field(default_factory=list)
    objectives: list[tuple[int, float]] = field(default_factory=list)
    seconds: list[tuple[int, float]] = field(default_factory=list)
    rows: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    stop: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Write it, rows and all, beside what was asked for.

        Raises:
            SentinvError: If it cannot be written.
        """
        state = {name: value for name, value in vars(self).items() if name != "rows"}
        rows = {f"{step}.{name}": own for step, named in self.rows.items() for name, own in named.items()}
        write_checkpoint(path, Checkpoint(self.losses[-1][0], rows, state, settings))

    @classmethod
    def read(cls, path: Path) -> TrainingCurve:
        """Read it back.

        Raises:
            CheckpointError: If it is missing or damaged.
        """
        saved = read_checkpoint(path)
        rows: dict[int, dict[str, Tensor]] = {}
        for name, own in saved.tensors.items():
            step, _, encoder = name.partition(".")
            rows.setdefault(int(step), {})[encoder] = own
        return cls(**saved.state, rows=dict(sorted(rows.items())))


def train_curve(
    backbone: Backbone,
    pictures: Sequence[Picture],
    start: Start,
    config: TrainConfig,
    *,
    loss_at: Sequence[int],
    keep_at: Sequence[int],
    progressive: bool = False,
) -> TrainingCurve:
    """Train, and look at the fixed grid at chosen steps.

    The grid is always that of the whole first picture, so that runs on several pictures or with a mask can be compared.

    Args:
        backbone: the frozen model.
        pictures: of one concept.
        start: where the rows start.
        config: the budget and all else.
        loss_at: steps at which the grid is evaluated; those beyond the budget are left out.
        keep_at: steps whose rows are kept.
        progressive: add the vectors one after another, each with an equal share of the steps (Gal et al. 2022, section 5.2).
    """
    curve = TrainingCurve()
    counts = range(1, start.count + 1) if progressive else [start.count]
    ends = [config.steps * (index + 1) // len(counts) for index in range(len(counts))]
    learned: dict[str, Tensor] = {}
    watch = _Watch(curve, loss_at, keep_at)
    for stage, (count, end) in enumerate(zip(counts, ends, strict=True)):
        rows = {
            name: torch.cat([learned[name], own[len(learned[name]) : count]]) if learned else own[:count]
            for name, own in start.rows.items()
        }
        first = Start(start.initialization, start.tokens[:count], rows)
        steps = end - watch.steps
        own = replace(config, steps=steps, evaluate_every=max(1, steps), seed=config.seed + stage)
        learned = _stage(backbone, pictures, first, own, watch)
        watch.steps = end
    return curve


@dataclass
class _Watch:
    """What is written down, and the steps and seconds of training so far: steps of the stages before, seconds of all."""

    curve: TrainingCurve
    loss_at: Sequence[int]
    keep_at: Sequence[int]
    steps: int = 0
    seconds: float = 0.0


def _stage(
    backbone: Backbone, pictures: Sequence[Picture], start: Start, config: TrainConfig, watch: _Watch
) -> dict[str, Tensor]:
    """Train one stage; returns its last rows."""
    curve = watch.curve
    rows = PlaceholderRows({TOKEN: start.rows})
    with rows.installed(backbone), lean_convolutions(backbone.unet):
        data, costs = data_and_objective(backbone, pictures, rows, config, start.thing)
        loop = Loop(data, costs, rows_groups(rows, backbone, config), config)
        with_graph(loop)
        objective = DenoisingObjective(backbone, config.min_snr)
        first = TrainingSet(backbone, [replace(pictures[0], mask=None)], rows, config)
        grid = first.evaluation_batches()

        def look() -> None:
            step = watch.steps + loop.step
            if step in watch.loss_at:
                weighted, plain = objective.evaluate(grid)
                curve.objectives.append((step, weighted))
                curve.losses.append((step, plain))
                curve.seconds.append((step, watch.seconds))
            if step in watch.keep_at:
                curve.rows[step] = {name: own.cpu() for name, own in rows.of(TOKEN).items()}

        if watch.steps == 0:
            look()
        before = watch.seconds
        for _ in loop.steps():
            watch.seconds = before + loop.history.seconds
            look()
    curve.stop = loop.history.stop
    return {name: value.cpu() for name, value in rows.of(TOKEN).items()}


def training_pictures(concept: StudyConcept, count: int, *, masked: bool) -> list[Picture]:
    """The first `count` pictures of a concept; with its mask on the first, if asked for.

    Raises:
        SentinvError: If one can't be read, there are not so many, or there is no mask.
    """
    paths: list[Path] = [concept.image, *concept.views][:count]
    if len(paths) < count:
        raise SentinvError(f"{concept.name} has {len(paths)} pictures, asked for are {count}: ask for fewer")
    pictures = [replace(read_image(path), mask=None) for path in paths]
    if masked:
        if concept.mask is None or count > 1:
            raise SentinvError(
                f"{concept.name} has a mask for no more than its first picture: train on one, or unmasked"
            )
        pictures[0] = pictures[0].with_mask(read_mask(concept.mask))
    return pictures
