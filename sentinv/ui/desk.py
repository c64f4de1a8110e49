"""What every tab of the page works with, and how it says what went wrong."""

from __future__ import annotations

import base64
import binascii
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from sentinv.errors import SentinvError
from sentinv.files.decoding import Picture, decode
from sentinv.files.images import MAX_BYTES, WHITE
from sentinv.ui.editing import Editor
from sentinv.ui.engine import Engine
from sentinv.ui.folder import Folder
from sentinv.ui.learning import Learning, unforeseen

MOST_PICTURES = 12
_MOST_MASK = 1_500_000
_MASK = "data:image/png;base64,"
EXAMPLES = ("cat.png", "fox.png", "backpack-1.png")
ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True, eq=False)
class Desk:
    """The parts behind the page.

    Attributes:
        folder: the one that is worked in.
        engine: the models.
        learning: the runs.
        editor: of pictures.
    """

    folder: Folder
    engine: Engine
    learning: Learning
    editor: Editor

    @classmethod
    def of(cls, folder: Folder, engine: Engine) -> Desk:
        """A desk with nothing on it yet."""
        return cls(folder, engine, Learning(engine, folder), Editor(engine, folder))

    def examples(self) -> list[tuple[str, Image.Image]]:
        """Pictures to try, with what each shows."""
        return [(name.split("-")[0].removesuffix(".png"), self._read(ASSETS / name).image) for name in EXAMPLES]

    def pictures(self, paths: Sequence[str] | str | None) -> list[Picture]:
        """Read what was uploaded.

        Raises:
            SentinvError: If one is no picture, or there are too many.
        """
        several = [paths] if isinstance(paths, str) else list(paths or [])
        if not several:
            raise SentinvError("Drop a picture first.")
        if len(several) > MOST_PICTURES:
            raise SentinvError(f"Expected at most {MOST_PICTURES} pictures, got {len(several)}: leave some out.")
        return [self._read(Path(path)) for path in several]

    def _read(self, path: Path) -> Picture:
        real = path.resolve()
        if not (real.is_relative_to(self.folder.cache) or real.parent == ASSETS.resolve()):
            raise SentinvError("Expected a picture that was dropped here.")
        name = path.name if path.name.isprintable() else "the picture"
        try:
            if real.stat().st_size > MAX_BYTES:
                raise SentinvError(f"{name} is too large: expected at most {MAX_BYTES // 1_000_000} MB.")
            return decode(real.read_bytes(), name, WHITE)
        except OSError as error:
            raise SentinvError(f"{name} is no longer there: drop it again.") from error


def painted(address: str | None, picture: Picture) -> Picture:
    """The picture with the mask that was painted on it, if there is one.

    Raises:
        SentinvError: If it is none that the page makes.
    """
    if not address:
        return picture
    if not address.startswith(_MASK) or len(address) > _MOST_MASK:
        raise SentinvError("Expected a mask that was painted here: wipe it and paint again.")
    try:
        data = base64.b64decode(address.removeprefix(_MASK), validate=True)
    except binascii.Error as error:
        raise SentinvError("Expected a mask that was painted here: wipe it and paint again.") from error
    mask = decode(data, "the mask", (0, 0, 0)).image.convert("L")
    return picture.with_mask(mask.resize(picture.image.size, Image.Resampling.BILINEAR))


def without_mask(picture: Picture) -> Picture:
    """The picture, of which everything may change."""
    return replace(picture, mask=None)


def whole(value: Any, default: int) -> int:
    """A whole number that a field of the page holds; the default where it is empty.

    Raises:
        SentinvError: If it is none.
    """
    if value is None or value == "":
        return default
    number = decimal(value, float(default))
    if number != int(number):
        raise SentinvError(f"Expected a whole number, got {number:g}.")
    return int(number)


def decimal(value: Any, default: float) -> float:
    """A number that a field of the page holds; the default where it is empty.

    Raises:
        SentinvError: If it is none.
    """
    if value is None or value == "":
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e18:
        raise SentinvError("Expected a number.")
    return float(value)


@contextmanager
def plainly() -> Iterator[None]:
    """Tell what goes wrong in a ``with`` block in one sentence on the page, whatever it is."""
    try:
        yield
    except gr.Error:
        raise
    except SentinvError as error:
        raise _told(str(error)) from None
    except Exception as error:
        sys.stderr.write(f"sentinv: error: {type(error).__name__}: {' '.join(str(error).split())}\n")
        raise _told(unforeseen(error)) from None


def _told(text: str) -> gr.Error:
    sentence = text[:1].upper() + text[1:]
    return gr.Error(escape(sentence, quote=False), duration=20, title="That did not work", print_exception=False)


def on(events: Any, work: Callable[..., Any] | None, inputs: Any = None, outputs: Any = None, **options: Any) -> Any:
    """Tie work to something that happens on the page; nothing of it is an interface for programs."""
    options = {"api_visibility": "private", "show_progress": "hidden"} | options
    return events(work, inputs, outputs, **options)
