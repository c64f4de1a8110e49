"""Many words in one pass: the steps of several runs share the calls of the frozen model, which is the same for all."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from sentinv.concepts.initialization import Initialization, Start, starting_rows
from sentinv.concepts.placeholder import Shelf
from sentinv.errors import Interrupted, SentinvError
from sentinv.training.config import TrainConfig
from sentinv.training.graphs import fast_float32
from sentinv.training.interrupt import stop_request
from sentinv.training.lean_convolutions import lean_convolutions
from sentinv.training.objective import DenoisingObjective
from sentinv.training.rescue import Rescue
from sentinv.training.rolling import Run, rolling
from sentinv.training.train import word_loop, word_of

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.concepts.concept import Concept
    from sentinv.concepts.placeholder import PlaceholderRows
    from sentinv.files.decoding import Picture
    from sentinv.models.backbone import Backbone
    from sentinv.training.history import History
    from sentinv.training.loop import Loop

AT_ONCE = 8
"""Words that are trained at a time unless told otherwise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A word to learn.

    Attributes:
        images: of one concept, ≥ 1, as `train_concept` takes them.
        initialization: words (or a concept) to start from, or a start made of them by `starting_rows`.
        token: the placeholder; several jobs may have the same.
        config: hyper-parameters; those of all jobs if None.
        max_vectors: the most vectors the word may have, ≥ 1; has no effect on a `Start`.
    """

    images: Sequence[Image.Image | Picture]
    initialization: Initialization | Start
    token: str = "<concept>"  # noqa: S105 - not a password
    config: TrainConfig | None = None
    max_vectors: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What became of a job.

    Attributes:
        index: of the job, from 0.
        job: itself.
        start: where its rows started; None if it came to none.
        concept: the word; None where there is an error.
        history: its losses; None where it did not begin.
        error: why there is no word; None if there is one.
    """

    index: int
    job: Job
    start: Start | None = None
    concept: Concept | None = None
    history: History | None = None
    error: SentinvError | None = None


@torch.inference_mode(False)
@torch.enable_grad()
def train_concepts(
    backbone: Backbone, jobs: Iterable[Job], config: TrainConfig | None = None, *, at_once: int = AT_ONCE
) -> Iterator[Outcome]:
    """Learn a word for each job, several at a time, and yield each as soon as it is learned.

    Each word has its own random numbers, optimiser, evaluations and best rows, and gives its place to the next job when it is
    over. On the CPU it comes out with the same bits whichever words share its batch, for a given `at_once`; with one at once
    they are those of `train_concept`, otherwise the same up to rounding: kernels are chosen by the size of a batch.

    Args:
        backbone: the frozen model; it is bit for bit the same afterwards. Until the last word has come, or the iterator is
            closed, no other rows can be installed in it.
        jobs: the next is asked for when a place is free.
        config: hyper-parameters of the jobs that have none of their own. Its `gradient_checkpointing` is that of all.
        at_once: words at a time, ≥ 1. Memory for activations is that of as many words. Words that are blended, or have
            masks, are never in one call with others than their like.

    Yields:
        The outcomes, in the order in which they come. A job that fails does not stop the others. Where the model's numbers
        are not finite in half precision for one word, all go on in float32.

    Raises:
        Interrupted: After Ctrl-C or SIGTERM, when the step is done. What is under way is lost.
        TrainingError: If memory is too small for a single item.
        ValueError: If `at_once` is below 1.
    """
    if at_once < 1:
        raise ValueError(f"at_once must be at least 1, got {at_once}")
    config = config or TrainConfig()
    _ = backbone.fingerprint  # taken once and kept: with rows installed it could not be
    with ExitStack() as stack:
        whole = replace(config, batch_size=config.items * at_once, blended=0)
        stack.enter_context(fast_float32())
        shelf = Shelf(backbone, at_once)
        batch = _Batch(backbone, shelf, config, stack.enter_context(Rescue(backbone, whole)))
        stack.enter_context(shelf.installed())
        stack.enter_context(lean_convolutions(backbone.unet))
        request = stack.enter_context(stop_request())
        for _ in rolling(batch.runs(jobs), places=at_once, on_end=batch.end):
            yield from batch.ready()
            if request.signal_number is not None:
                raise Interrupted(f"stopped, with {len(batch.words)} words under way", request.signal_number)
        yield from batch.ready()


class _Batch:
    """The words that are under way, and outcomes that nobody has fetched yet."""

    def __init__(self, backbone: Backbone, shelf: Shelf, config: TrainConfig, rescue: Rescue) -> None:
        self.backbone, self.shelf, self.config, self.rescue = backbone, shelf, config, rescue
        self.words: dict[int, tuple[int, Job, Start, PlaceholderRows, Loop]] = {}
        self.outcomes: list[Outcome] = []
        self._objectives: dict[tuple[int, float | None], DenoisingObjective] = {}

    def runs(self, jobs: Iterable[Job]) -> Iterator[Loop]:
        """Begin one job after another; those that cannot begin are over."""
        for index, job in enumerate(jobs):
            rows = None
            try:
                start = job.initialization
                if not isinstance(start, Start):
                    start = starting_rows(start, self.backbone, job.max_vectors)
                rows = self.shelf.put(job.token, start.rows)
                loop = self._loop(job, start, rows)
                loop.begin()
            except SentinvError as error:
                if rows is not None:
                    self.shelf.free(rows)
                self.outcomes.append(Outcome(index=index, job=job, error=error))
                continue
            self.words[id(loop)] = (index, job, start, rows, loop)
            yield loop

    def _loop(self, job: Job, start: Start, rows: PlaceholderRows) -> Loop:
        config = job.config or self.config
        loop, _ = word_loop(self.backbone, job.images, start, rows, config, self.rescue)
        kind = config.blended, config.min_snr
        assert isinstance(loop.objective, DenoisingObjective)  # noqa: S101 - for the type checker
        loop.objective = self._objectives.setdefault(kind, loop.objective)  # what runs share they compute in one call
        loop.together = len(self.shelf.words)
        return loop

    def end(self, run: Run) -> None:
        """Take the word of a run that is over, and free its place."""
        index, job, start, rows, loop = self.words.pop(id(run))
        self.shelf.free(rows)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the history says what was not learned
            concept = word_of(self.backbone, start, job.token, loop)
        self.outcomes.append(Outcome(index=index, job=job, start=start, concept=concept, history=loop.history))

    def ready(self) -> Iterator[Outcome]:
        """Hand out what is there."""
        while self.outcomes:
            yield self.outcomes.pop(0)
