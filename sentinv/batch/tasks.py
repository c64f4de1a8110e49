"""What is to be learned of one picture, and everything that decides what comes of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sentinv.errors import SentinvError
from sentinv.files.atomic import shown
from sentinv.files.cropping import Crop
from sentinv.models.names import Place
from sentinv.training.config import TrainConfig

Settings = dict[str, Any]
"""All that decides a result, as JSON can say it."""

_TOLD = {
    "caption": ("captioner", "drop_stopwords", "drop_scene"),
    "class": ("classifier",),
    "word": ("word",),
    "phrase": ("phrase",),
    "concept": ("concept",),
    "random": ("seed",),
}
"""Initializer → what it is told that has an effect."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A picture and how its word is learned.

    Attributes:
        name: of its files, without their ends.
        image: its file.
        mask: a file that is white where the thing is; None for none.
        crop: which square.
        token: the placeholder.
        init: name of the initializer.
        told: what the initializer is told, as `sentinv.initializers.make` takes it.
        max_vectors: the most vectors the word may have; None for no limit.
        config: of the training.
        where: how messages name it.
    """

    name: str
    image: str
    mask: str | None = None
    crop: Crop = "auto"
    token: str
    init: str = "caption"
    told: Mapping[str, Any] = field(default_factory=dict)
    max_vectors: int | None = None
    config: TrainConfig = field(default_factory=TrainConfig)
    where: str = ""

    @property
    def file(self) -> str:
        """Name of the concept's file."""
        return f"{self.name}-concept.safetensors"

    @property
    def heard(self) -> dict[str, Any]:
        """What of `told` has an effect on this initializer."""
        return {
            name: self.told[name] for name in _TOLD.get(self.init, ()) if self.told.get(name) not in (None, "", False)
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Assignment:
    """A task that is to be done, with what its record will say of it.

    Attributes:
        task: what to learn.
        settings: all that decides the result.
        files: path → size, time in ns and digest, as they were when the settings were taken.
    """

    task: Task
    settings: Settings
    files: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def settings_of(task: Task, base: Place, digests: Digests) -> Settings:
    """All that decides what comes of a task.

    Raises:
        SentinvError: If a file cannot be read.
    """
    told = {name: digests(value) if name == "concept" else value for name, value in task.heard.items()}
    train = asdict(task.config)
    del train["checkpoint_every"]  # there are none
    found = {
        "picture": digests(task.image),
        "mask": task.mask and digests(task.mask),
        "crop": task.crop,
        "token": task.token,
        "init": task.init,
        **told,
        "max_vectors": task.max_vectors,
        **train,
        "model": base.model,
        "vae": base.vae,
        "dtype": base.dtype,
    }
    return json.loads(json.dumps(found))


class Digests:
    """Digests of files, which are read again only where their size or time has changed.

    Args:
        known: path → (size, time in ns, digest), from an earlier run.
    """

    def __init__(self, known: Mapping[str, Sequence[Any]] | None = None) -> None:
        self.known = {path: tuple(found) for path, found in (known or {}).items()}

    def __call__(self, path: str | Path) -> str:
        """A sha256 of the content, 16 hex digits.

        Raises:
            SentinvError: If it cannot be read.
        """
        try:
            found = Path(path).stat()
            size, time, digest = self.known.get(str(path), (None, None, ""))
            if (size, time) != (found.st_size, found.st_mtime_ns):
                digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
                self.known[str(path)] = (found.st_size, found.st_mtime_ns, digest)
        except OSError as error:
            raise SentinvError(f"cannot read {shown(path)}: {error.strerror}; check the name") from error
        return digest


def check_names(tasks: Collection[Task]) -> None:
    """Refuse two tasks that would write the same file.

    Raises:
        SentinvError: If there are two.
    """
    seen: dict[str, Task] = {}
    for task in tasks:
        other = seen.setdefault(task.name, task)
        if other is not task:
            raise SentinvError(
                f"{other.where} and {task.where} would both write {task.file}: give one another name, in a list by its "
                "column 'name'"
            )
