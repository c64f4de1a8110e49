"""What `batch` tells: progress, the index, the summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import notice, print_json
from sentinv.cli.progress import progress

if TYPE_CHECKING:
    from pathlib import Path

    from sentinv.batch.book import Book, Record
    from sentinv.batch.tasks import Task
    from sentinv.cli.batch import BatchOptions

_EVERY = 60.0
"""Seconds between two lines where there is no bar."""


class Teller:
    """Counts what is done, and tells it.

    Attributes:
        records: of the pictures that are done or have failed, by name.
    """

    def __init__(self, book: Book, tasks: list[Task], options: BatchOptions) -> None:
        self.book, self.tasks, self.options = book, tasks, options
        found = {task.name: book.record(task) for task in tasks}
        self.records = {name: record for name, record in found.items() if record.get("status") in ("done", "failed")}
        self.seconds = 0.0
        self.learned = 0

    @contextmanager
    def watching(self, todo: int) -> Iterator[Callable[[Record], None]]:
        """Tell of each result: a bar on a terminal, else a line a minute; failures always."""
        begun = last = time.monotonic()
        done = 0
        with progress("learning", todo, quiet=self.options.quiet) as bar:

            def on_result(record: Record) -> None:
                nonlocal done, last
                done += 1
                self.records[record["name"]] = record
                self.learned += record["status"] == "done"
                now = time.monotonic()
                self.seconds = now - begun
                rate = done / max(1e-9, self.seconds)
                text = f"{60 * rate:.1f}/min, {_clock((todo - done) / rate)} left"
                failed = sum(one["status"] == "failed" for one in self.records.values())
                bar.at(done, f"{text}, {failed} failed" if failed else text)
                if record["status"] == "failed":
                    notice(f"{record['image']}: {record['error']}", quiet=self.options.quiet)
                if not bar.shown and now - last > _EVERY:
                    last = now
                    notice(f"{done} of {todo}, {text}", quiet=self.options.quiet)

            yield on_result
        self.seconds = time.monotonic() - begun

    def _count(self, status: str) -> int:
        return sum(record["status"] == status for record in self.records.values())

    def counts(self) -> str:
        """Done, failed, left, as text."""
        left = len(self.tasks) - len(self.records)
        return f"{self._count('done')} done, {self._count('failed')} failed, {left} left"

    def write_index(self) -> Path:
        """Write the index of what there is."""
        from sentinv.batch.index import write_index

        there = [self.records[task.name] for task in self.tasks if task.name in self.records]
        return write_index(self.book.folder, there, len(self.tasks) - len(there))

    def finish(self) -> int:
        """Write the index, print the summary, and return how many have failed."""
        index = self.write_index()
        rate = f", {60 * self.learned / self.seconds:.1f} pictures per minute" if self.learned and self.seconds else ""
        if self.options.given["as_json"]:
            print_json(self._as_json(index))
        else:
            click.echo(f"{self.counts()}{rate}\n{index}")
        return self._count("failed")

    def _as_json(self, index: Path) -> dict[str, Any]:
        names = (
            "name",
            "image",
            "token",
            "status",
            "error",
            "concept",
            "text",
            "start_loss",
            "best_loss",
            "best_step",
            "stop",
        )
        pictures = [{name: record.get(name) for name in names} for record in self.records.values()]
        return {
            "output": str(self.book.folder),
            "index": str(index),
            "done": self._count("done"),
            "failed": self._count("failed"),
            "left": len(self.tasks) - len(self.records),
            "learned_now": self.learned,
            "seconds": self.seconds,
            "pictures": pictures,
        }


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
