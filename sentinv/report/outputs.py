"""The files of a run: a concept, and beside it a folder with report, metrics and, while it runs, checkpoints."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sentinv.concepts.names import latin
from sentinv.errors import SentinvError
from sentinv.files.atomic import atomic_write, is_one_of, make_folder, remove_leftovers, shown, told
from sentinv.files.locks import lock

if TYPE_CHECKING:
    from sentinv.report.run_page import Report
    from sentinv.training.history import History

SUFFIX = "-concept"
"""Of the name that a concept file has unless told otherwise: web UIs know a word by its file's name, and `cat` is a word."""


class Outputs:
    """Where a run writes.

    Attributes:
        concept: the concept's file, `<name>.safetensors`.
        folder: `<name>-run` beside it, whether the file is `<name>.safetensors` or `<name>-concept.safetensors`.
    """

    def __init__(self, concept: Path) -> None:
        self.concept = concept
        self.folder = concept.with_name(f"{concept.stem.removesuffix(SUFFIX)}-run")
        self.report = self.folder / "report.html"
        self.metrics = self.folder / "metrics.jsonl"
        self.checkpoints = self.folder / "checkpoints"

    def check(self, *, force: bool, resume: bool) -> None:
        """Refuse what is in the way, before any work.

        Raises:
            SentinvError: If something would be overwritten, or there is nothing to resume.
        """
        with told(self.concept):
            self._check(force=force, resume=resume)

    def in_the_way(self, *, force: bool, resume: bool) -> str:
        """What `check` would refuse, as text; "" if nothing."""
        try:
            self.check(force=force, resume=resume)
        except SentinvError as error:
            return str(error)
        return ""

    def _check(self, *, force: bool, resume: bool) -> None:
        if self.concept.suffix != ".safetensors":
            raise SentinvError(
                f"cannot write {shown(self.concept)}: expected a name that ends in .safetensors; choose one"
            )
        if self.concept.is_dir():
            raise SentinvError(f"cannot write {shown(self.concept)}: a folder has that name; choose another --output")
        if not self.concept.parent.is_dir():
            raise SentinvError(
                f"cannot write {shown(self.concept)}: the folder {shown(self.concept.parent)} does not exist; create it first"
            )
        if resume and not self.checkpoints.is_dir():
            raise SentinvError(f"nothing to resume: {shown(self.checkpoints)} does not exist; start without --resume")
        if not force and self.concept.exists():
            raise SentinvError(f"{shown(self.concept)} exists: give --force to replace it, or choose another --output")
        if not force and not resume and self.folder.exists():
            raise SentinvError(
                f"{shown(self.folder)} exists: --resume goes on with an interrupted run, --force starts it anew"
            )

    @contextmanager
    def held(self, *, resume: bool) -> Iterator[None]:
        """Make the folder and hold the outputs for this process; whoever cannot write learns it here.

        Raises:
            SentinvError: If another process holds them, or nothing can be written there.
        """
        with lock(self.concept):
            existed = self.folder.exists()
            make_folder(self.folder)
            remove_leftovers(self.folder)
            remove_leftovers(self.concept.parent)
            if not resume:
                self.drop_checkpoints()
            try:
                yield
            finally:
                if self.metrics.is_file() and not self.metrics.stat().st_size:  # it ended before its first step
                    self.metrics.unlink()
                if not existed and not any(self.folder.iterdir()):
                    self.folder.rmdir()

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints of a run that is over, or begins anew."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)


class TuneOutputs(Outputs):
    """Where a run writes that tunes a LoRA around a word.

    Attributes:
        concept: the LoRA's file; `<name>-lora.safetensors` beside the word's if not given.
        word: the word's file, or the folder that it is in.
        rows: the word's file again, where its rows learn too; None where they don't.
    """

    def __init__(self, word: Path, output: Path | None = None, *, train_rows: bool = False) -> None:
        super().__init__(output or word.with_name(f"{word.stem.removesuffix(SUFFIX)}-lora.safetensors"))
        self.word = word
        self.rows = self.concept.with_name(f"{self.concept.stem}-word.safetensors") if train_rows else None

    def _check(self, *, force: bool, resume: bool) -> None:
        for path in filter(None, (self.concept, self.rows)):
            if is_one_of(path, [self.word]):
                raise SentinvError(f"{shown(path)} is the word itself: choose another --output")
        super()._check(force=force, resume=resume)
        if self.rows is not None and self.rows.exists() and not force:
            raise SentinvError(f"{shown(self.rows)} exists: give --force to replace it, or choose another --output")


def name_of(path: Path) -> str:
    """Make a name out of a file's, as placeholders have it: "IMG 20.jpg" → "img-20", "cat-concept.safetensors" → "cat"."""
    name = re.sub(r"[^a-z0-9]+", "-", latin(path.stem)).strip("-")
    return name.removesuffix(SUFFIX) or "concept"


def default_file(name: str) -> Path:
    """The concept file of a word, here."""
    return Path(f"{name}{SUFFIX}.safetensors")


def write_result(outputs: Outputs, report: Report) -> None:
    """Write metrics and report, and remove the checkpoints, which have served: what was learned is saved by now."""
    from sentinv.report.run_page import render

    try:
        atomic_write(outputs.metrics, _metrics(report.learned.history).encode(), overwrite=True)
        atomic_write(outputs.report, render(report).encode(), overwrite=True)
    finally:
        outputs.drop_checkpoints()


def _metrics(history: History) -> str:
    """One line for the start and one for every step."""
    first = {"step": 0, "loss": None, "learning_rate": None, "evaluation": history.evaluations[0][1]}
    return "".join(json.dumps(line) + "\n" for line in [first, *map(asdict, history.records)])
