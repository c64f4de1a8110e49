"""Learns the words of assignments: captions first, many at a time, then words, several at a time. A model is loaded once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sentinv.batch.book import Book, Record
from sentinv.batch.tasks import Assignment, Task
from sentinv.concepts.initialization import Initialization
from sentinv.errors import SentinvError
from sentinv.files.cropping import square
from sentinv.files.decoding import Picture
from sentinv.files.images import read_image, read_mask
from sentinv.initializers import make
from sentinv.training.batch import AT_ONCE, Job, Outcome, train_concepts
from sentinv.training.history import WRONG

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone

OnResult = Callable[[Record], None]

SEEN_AT_ONCE = 16
"""Pictures that a captioner or a classifier looks at together."""


class Learner:
    """What learns: the models, each loaded when it is first needed and then kept.

    Args:
        book: where the results go.
        at_once: words that are trained at a time.
        load: loads the model; `sentinv.load` of the book's base if not given.
    """

    def __init__(self, book: Book, at_once: int = AT_ONCE, load: Callable[[], Backbone] | None = None) -> None:
        self.book, self.at_once = book, at_once
        self._load = load or self._loaded
        self._initializers: dict[Any, Any] = {}

    @cached_property
    def backbone(self) -> Backbone:
        """The model."""
        return self._load()

    def _loaded(self) -> Backbone:
        import torch

        from sentinv.models.loading import load

        base = self.book.base
        dtype = getattr(torch, base.dtype) if base.dtype else None
        return load(base.model, device=base.device, dtype=dtype, vae=base.vae)

    def learn(self, assignments: Sequence[Assignment], on_result: OnResult) -> None:
        """Do assignments, and tell of each when its files are written. What fails is a result too.

        Raises:
            Interrupted: After Ctrl-C or SIGTERM. What is written stays.
            SentinvError: If the model cannot be loaded, nothing can be written, or memory does not suffice.
        """
        said = dict(self._words(assignments, on_result))
        begun: list[Assignment] = []
        if not said:
            return
        jobs, config = self._jobs(said, begun, on_result), assignments[0].task.config  # of which each job has its own
        for outcome in train_concepts(self.backbone, jobs, config, at_once=self.at_once):
            assignment = begun[outcome.index]
            facts, concept = _result(outcome)
            on_result(self.book.write(assignment, facts, concept))

    def _words(
        self, assignments: Iterable[Assignment], on_result: OnResult
    ) -> Iterator[tuple[Assignment, Initialization]]:
        """Find the words of all pictures, many at a time."""
        alike: dict[Any, list[Assignment]] = {}
        for one in assignments:
            alike.setdefault((one.task.init, *sorted(one.task.heard.items())), []).append(one)
        for key, group in alike.items():
            initializer = self._initializer(key, group[0].task)
            for first in range(0, len(group), SEEN_AT_ONCE):
                yield from self._said(initializer, group[first : first + SEEN_AT_ONCE], on_result)

    def _initializer(self, key: Any, task: Task) -> Any:
        if key not in self._initializers:
            self._initializers[key] = make(task.init, self.book.base.model, device=self.book.base.device, **task.heard)
        return self._initializers[key]

    def _said(
        self, initializer: Any, group: Sequence[Assignment], on_result: OnResult
    ) -> Iterator[tuple[Assignment, Initialization]]:
        readable: dict[Assignment, Picture] = {}
        ahead = {id(one): one for one in group}
        for one in ahead.values():
            with self._failing(one, on_result):
                readable[one] = picture_of(one.task)
        several = getattr(initializer, "several", None)
        if several is not None and readable:
            yield from zip(readable, several([picture.image for picture in readable.values()]), strict=True)
            return
        for one, picture in readable.items():
            with self._failing(one, on_result):
                yield one, initializer(picture.image)

    def _jobs(
        self, said: Mapping[Assignment, Initialization], begun: list[Assignment], on_result: OnResult
    ) -> Iterator[Job]:
        for one, words in said.items():
            with self._failing(one, on_result):
                picture = picture_of(one.task)
                begun.append(one)
                yield Job(
                    images=[picture],
                    initialization=words,
                    token=one.task.token,
                    config=one.task.config,
                    max_vectors=one.task.max_vectors,
                )

    @contextmanager
    def _failing(self, assignment: Assignment, on_result: OnResult) -> Iterator[None]:
        """A picture that fails is written down, and the others go on."""
        try:
            yield
        except SentinvError as error:
            on_result(self.book.write(assignment, {"status": "failed", "error": _line(error)}))


def picture_of(task: Task) -> Picture:
    """The square of a task's picture that is trained on.

    Raises:
        SentinvError: If picture or mask cannot be read, or do not fit each other.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = read_image(task.image)
        if task.mask:
            picture = picture.with_mask(read_mask(task.mask))
        return square(picture, task.crop)


def _result(outcome: Outcome) -> tuple[dict[str, Any], bytes | None]:
    """What the record says, and the concept's file."""
    history, start, concept = outcome.history, outcome.start, outcome.concept
    config = outcome.job.config
    rate = "--lr" if config is not None and config.learning_rate is not None else "--relative-lr"
    if concept is None or history is None or start is None:
        return {"status": "failed", "error": _line(outcome.error)}, None
    facts = {
        "status": "failed" if history.stop in WRONG else "done",
        "error": f"{WRONG[history.stop]}: try a smaller {rate}" if history.stop in WRONG else None,
        "initializer": start.initialization.source,
        "text": start.text,
        "dropped": start.dropped,
        "score": start.initialization.score,
        "vectors": start.count,
        "steps": history.evaluations[-1][0],
        "best_step": history.best_step,
        "stop": history.stop,
        "start_loss": history.start_loss,
        "best_loss": history.best_loss,
        "evaluations": history.evaluations,
        "seconds": round(history.seconds, 3),
        "notices": list(outcome.job.images[0].notices) if isinstance(outcome.job.images[0], Picture) else [],
    }
    picture = outcome.job.images[0]
    image = picture.image if isinstance(picture, Picture) else picture
    return facts, concept.with_thumbnail(image).to_bytes()


def _line(error: object) -> str:
    return " ".join(str(error).split())
