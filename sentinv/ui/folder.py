"""The one folder that the page reads, writes and serves: learned words, their reports, pictures, inverted pictures."""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sentinv.concepts.concept import Concept
from sentinv.concepts.names import token_of
from sentinv.errors import SentinvError
from sentinv.files.atomic import make_folder
from sentinv.report.outputs import Outputs

if TYPE_CHECKING:
    from PIL import Image

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_WORD, PICTURES = ".safetensors", "pictures"
EXPORTS = "exports"
"""Folder of the files for other programs, in a folder of each program's name."""
_MAX_WORDS = 500
_MAX_BYTES = 20_000_000  # a learned word of SDXL with 75 vectors has less than one


@dataclass(frozen=True, eq=False)
class Word:
    """A learned word that lies in the folder.

    Attributes:
        name: of its file, without the ending.
        concept: what is in it.
    """

    name: str
    concept: Concept

    @property
    def thumbnail(self) -> str:
        """What it was learned from, as the URI of a small JPEG; "" if unknown."""
        uri = self.concept.metadata.get("modelspec.thumbnail", "")
        return uri if re.fullmatch(r"data:image/(jpeg|png|webp);base64,[A-Za-z0-9+/=]{1,400000}", uri) else ""

    @property
    def start(self) -> str:
        """The words that it was started from; "" if unknown."""
        return self.concept.metadata.get("sentinv.initial_text", "")


class Folder:
    """A folder, and nothing outside of it: names are checked, links that lead elsewhere are not followed.

    Args:
        path: made if need be.

    Attributes:
        path: absolute, without links.
        cache: where uploads lie while the page is open.

    Raises:
        SentinvError: If it cannot be made.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = make_folder(path).resolve()
        self.cache = self.path / ".uploads"
        self._read: dict[str, tuple[tuple[int, int], Concept | None]] = {}

    def inside(self, *parts: str) -> Path:
        """The path of a plain name in the folder, or in one of its folders.

        Raises:
            SentinvError: If a part is no plain name, or what is there is a link that leads out of the folder.
        """
        if not all(_NAME.fullmatch(part) for part in parts):
            raise SentinvError("expected the name of a file in the folder: letters, digits, '-', '_' and '.'")
        path = self.path.joinpath(*parts)
        if path.resolve() != path:
            raise SentinvError("expected a file of the folder, got a link that leads elsewhere")
        return path

    def served(self, *parts: str) -> Path:
        """The path of a file that is there and may be served.

        Raises:
            SentinvError: If there is none.
        """
        path = self.inside(*parts)
        with suppress(OSError):
            if stat.S_ISREG(path.lstat().st_mode):
                return path
        raise SentinvError("there is no such file in the folder")

    # Learned words

    def words(self) -> list[Word]:
        """The learned words, by name. Files that hold something else, or are damaged, are left out."""
        found = []
        for path in self._candidates():
            concept = self._concept(path)
            if concept is not None:
                found.append(Word(path.stem, concept))
        return found[:_MAX_WORDS]

    def _candidates(self) -> Iterator[Path]:
        for path in sorted(self.path.glob(f"*{_WORD}")):
            with suppress(OSError, SentinvError):
                if self.served(path.name).stat().st_size <= _MAX_BYTES:
                    yield path

    def _concept(self, path: Path) -> Concept | None:
        """Read a word, or take it as it was read if its file is the same."""
        with suppress(OSError):
            found = path.stat()
            mark = (found.st_mtime_ns, found.st_size)
            if self._read.get(path.name, (None,))[0] != mark:
                try:
                    self._read[path.name] = (mark, Concept.load(path))
                except SentinvError:
                    self._read[path.name] = (mark, None)
            return self._read[path.name][1]
        return None

    def word(self, name: str) -> Word:
        """One of the learned words.

        Raises:
            SentinvError: If there is none of that name.
        """
        path = self.served(f"{name}{_WORD}")
        return Word(name, Concept.load(path))

    def free_name(self, wanted: str) -> str:
        """A name of which neither file nor run is in the folder yet, such as "cat-2" where there is a "cat"."""
        stem = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")[:60].strip("-") or "thing"
        names = [stem, *(f"{stem}-{number}" for number in range(2, 10_000))]
        return next(name for name in names if not self._taken(name))

    def _taken(self, name: str) -> bool:
        outputs = self.outputs(name)
        return outputs.concept.exists() or outputs.folder.exists()

    def outputs(self, name: str) -> Outputs:
        """Where a run writes, as that of the command line does."""
        return Outputs(self.inside(f"{name}{_WORD}"))

    def rename(self, name: str, wanted: str) -> Word:
        """Give a word, its file and its run another name.

        Raises:
            SentinvError: If there is none, the new name is none, or it is taken.
        """
        old, token = self.word(name), token_of(wanted)
        new = re.sub(r"[^a-z0-9]+", "-", token.strip("<>")).strip("-")[:60]
        if not wanted.strip() or not new:
            raise SentinvError("expected a name with letters or digits in it")
        if new == name and token == old.concept.token:
            return old
        if new != name and self._taken(new):
            raise SentinvError(f"there is a word {new} in the folder already: choose another name")
        concept = Concept.load(self.served(f"{name}{_WORD}"), token=token)
        concept.save(self.outputs(new).concept, overwrite=new == name)
        if new != name:
            run = self.outputs(name).folder
            if run.is_dir() and not run.is_symlink():
                run.rename(self.outputs(new).folder)
            self.outputs(name).concept.unlink()
        return self.word(new)

    def delete(self, name: str) -> None:
        """Remove a word and the folder of its run.

        Raises:
            SentinvError: If there is none.
        """
        outputs = self.outputs(name)
        self.served(outputs.concept.name).unlink()
        if outputs.folder.is_dir() and not outputs.folder.is_symlink():
            shutil.rmtree(outputs.folder, ignore_errors=True)

    # Pictures

    def new_picture(self, name: str, image: Image.Image, text: dict[str, str]) -> str:
        """Save a picture that was made, with what it was made of, under a name that is free; returns that name."""
        from sentinv.files.images import save_png

        pictures = make_folder(self.inside(PICTURES))
        for number in range(1, 100_000):
            path = pictures / (f"{name}.png" if number == 1 else f"{name}-{number}.png")
            if not path.exists():
                return save_png(path, image, text).name
        raise SentinvError("the folder holds too many pictures of that name: move some of them elsewhere")
