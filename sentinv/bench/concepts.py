"""The things that studies learn, and the file that lists them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinv.errors import SentinvError
from sentinv.files.atomic import shown


@dataclass(frozen=True)
class StudyConcept:
    """One thing that studies learn.

    Attributes:
        name: what tables call it.
        image: the picture that is learned from.
        caption: a person's words for it; "" if none.
        word: the coarse word; "" if none.
        mask: white where the thing is.
        views: further pictures of it, held out unless a study trains on several.
        edits: editing prompts with ``{}``.
        targets: for each prompt a picture of what it should give; empty if unknown.
        same_as: things of the gallery for which it may be taken (see `Recogniser.reads_as`).
    """

    name: str
    image: Path
    caption: str = ""
    word: str = ""
    mask: Path | None = None
    views: tuple[Path, ...] = ()
    edits: tuple[str, ...] = ()
    targets: tuple[Path, ...] = ()
    same_as: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of all its pictures.

        Raises:
            SentinvError: If one can't be read.
        """
        return digest_of([self.image, *([self.mask] if self.mask else []), *self.views, *self.targets])


def digest_of(paths: Sequence[Path]) -> str:
    """Sixteen hex digits that stand for what files hold.

    Raises:
        SentinvError: If one can't be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise SentinvError(f"cannot read {shown(path)}: {error.strerror}; check the name") from error
    return digest.hexdigest()[:16]


def read_concepts(path: str | Path) -> list[StudyConcept]:
    """Read the concepts that studies learn from a JSON file; paths in it are relative to it.

    Raises:
        SentinvError: If it can't be read, or an entry has no name or image. Whether pictures are there is seen when they
            are used.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SentinvError(f"cannot read the concepts {shown(path)}: {error.strerror}; check the name") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SentinvError(f"{shown(path)} is not valid JSON: {error}; correct it") from error
    try:
        concepts = [_concept(entry, path.parent) for entry in entries]
    except (KeyError, TypeError, AttributeError) as error:
        raise SentinvError(f"{shown(path)}: expected a list of concepts with name and image; {error!r}") from error
    names = [concept.name for concept in concepts]
    if not names or len(set(names)) != len(names):
        raise SentinvError(f"{shown(path)}: expected concepts with different names, got {', '.join(names) or 'none'}")
    return concepts


def _concept(entry: Mapping[str, Any], folder: Path) -> StudyConcept:
    edits = entry.get("edits", ())
    targets = tuple(folder / edit["target"] for edit in edits if edit.get("target"))
    return StudyConcept(
        name=str(entry["name"]),
        image=folder / entry["image"],
        caption=entry.get("caption", ""),
        word=entry.get("word", ""),
        mask=folder / entry["mask"] if entry.get("mask") else None,
        views=tuple(folder / view for view in entry.get("views", ())),
        edits=tuple(edit["prompt"] for edit in edits),
        targets=targets if len(targets) == len(edits) else (),
        same_as=tuple(entry.get("same_as", ())),
    )
