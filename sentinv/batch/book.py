"""The output folder of a batch: concept files, a record beside each, and what both say of a task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sentinv.batch.tasks import Assignment, Digests, Task, settings_of
from sentinv.errors import SentinvError
from sentinv.files.atomic import atomic_write, make_folder, remove_leftovers, shown
from sentinv.files.json_lines import finite
from sentinv.files.locks import lock
from sentinv.models.names import Place

Record = dict[str, Any]

BOOK = "batch.json"
"""File that says of which pictures a folder is the output."""


class Book:
    """An output folder.

    A result is there if its record is, with the settings of today, and the concept's file with the digest that the record
    has. The file is written before the record, each of them whole or not at all.

    Args:
        folder: of the results.
        base: the model.
    """

    def __init__(self, folder: str | Path, base: Place) -> None:
        self.folder, self.base = Path(folder), base
        self._digests = Digests()

    def check(self, sources: Sequence[str]) -> None:
        """Refuse a folder that has something else in it, before any work.

        Raises:
            SentinvError: If it is no batch's, or that of other sources.
        """
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise SentinvError(f"{shown(self.folder)} is a file: choose another --output")
        path = self.folder / BOOK
        if not path.exists():
            if any(not one.name.startswith(".") and one.suffix != ".lock" for one in self.folder.iterdir()):
                raise SentinvError(
                    f"{shown(self.folder)} has something else in it than a batch's results: choose another --output"
                )
            return
        there = _read(path).get("sources")
        if there != _resolved(sources):
            of = ", ".join(there) if isinstance(there, list) else "nobody knows what"
            raise SentinvError(
                f"{shown(self.folder)} has the results of another batch, of {of}: choose another --output"
            )

    @contextmanager
    def held(self, sources: Sequence[str]) -> Iterator[None]:
        """Make the folder, and hold it for this process.

        Raises:
            SentinvError: If another process holds it, it is another batch's, or nothing can be written there.
        """
        make_folder(self.folder)
        with lock(self.folder / "batch"):
            self.check(sources)
            remove_leftovers(self.folder)
            if not (self.folder / BOOK).exists():
                self._write({"format": 1, "sources": _resolved(sources), "at_once": None})
            yield

    @property
    def at_once(self) -> int | None:
        """How many words are trained at a time where nobody says otherwise; None if that was not decided yet."""
        count = _read(self.folder / BOOK).get("at_once")
        return count if isinstance(count, int) and count > 0 else None

    def keep(self, at_once: int) -> None:
        """Write down how many words are trained at a time.

        Raises:
            SentinvError: If it cannot be written.
        """
        self._write({**_read(self.folder / BOOK), "at_once": at_once})

    def _write(self, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        atomic_write(self.folder / BOOK, text.encode(), overwrite=True)

    def assignment(self, task: Task) -> Assignment:
        """A task with its settings as they are now.

        Raises:
            SentinvError: If a file cannot be read.
        """
        settings = settings_of(task, self.base, self._digests)
        paths = (task.image, *([task.mask] if task.mask else []))
        return Assignment(task=task, settings=settings, files={path: self._digests.known[path] for path in paths})

    def record(self, task: Task) -> Record:
        """What is written of a task; nothing where that is missing or damaged."""
        record = _read(self.folder / f"{task.name}.json")
        files = record.get("files")
        if isinstance(files, dict):
            self._digests.known |= {path: tuple(found) for path, found in files.items() if len(found) == 3}
        return record

    def state(self, assignment: Assignment) -> str:
        """How things are with a task: "done", "failed", "missing", or which settings have changed."""
        task, record = assignment.task, self.record(assignment.task)
        if record.get("status") not in ("done", "failed"):
            return "missing"
        changes = differences(record.get("settings", {}), assignment.settings)
        if changes:
            return changes
        if record["status"] == "done" and self._digest(task) != record.get("sha256"):
            return "missing"
        return record["status"]

    def _digest(self, task: Task) -> str:
        try:
            return hashlib.sha256((self.folder / task.file).read_bytes()).hexdigest()
        except OSError:
            return ""

    def write(self, assignment: Assignment, facts: Mapping[str, Any], concept: bytes | None = None) -> Record:
        """Write what came of a task: the concept's file, then the record.

        Args:
            assignment: that is over.
            facts: "status", "error" and what else the record says.
            concept: content of the concept's file; None for none.

        Raises:
            SentinvError: If it cannot be written.
        """
        task = assignment.task
        record = {
            **facts,
            "name": task.name,
            "image": task.image,
            "token": task.token,
            "concept": task.file if concept is not None else None,
            "sha256": hashlib.sha256(concept).hexdigest() if concept is not None else None,
            "settings": assignment.settings,
            "files": assignment.files,
        }
        if concept is not None:
            atomic_write(self.folder / task.file, concept, overwrite=True)
        text = json.dumps(finite(record), ensure_ascii=False, indent=1) + "\n"
        atomic_write(self.folder / f"{task.name}.json", text.encode(), overwrite=True)
        return record


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Which settings differ, as text: "steps 50 → 100"; "" if none does."""
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return ", ".join(
        f"another {name}" if name in ("picture", "mask") else f"{name} {there.get(name)} → {here.get(name)}"
        for name in names
    )


def _read(path: Path) -> Record:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _resolved(sources: Sequence[str]) -> list[str]:
    return sorted(str(Path(source).absolute()) for source in sources)
