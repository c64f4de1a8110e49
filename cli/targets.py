"""Where images go: a folder named after the prompt, or what --output names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sentinv.errors import SentinvError
from sentinv.files.atomic import check_writable, make_folder, shown

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif")


def slug(prompt: str) -> str:
    """Make a folder's name of a prompt, in its own letters: "a photo of <cat>!" → "a-photo-of-cat"."""
    return re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")[:60].rstrip("-") or "images"


def is_file(target: Path) -> bool:
    """Whether a name is that of one picture, and not of a folder."""
    return target.suffix.lower() in _PICTURES and not target.is_dir()


def check_target(target: Path, *, force: bool) -> Path:
    """Refuse what is in the way, before any work.

    Args:
        target: a folder, or a file for one image.
        force: replace what is there.

    Returns:
        The folder that images go into.

    Raises:
        SentinvError: If something would be overwritten, or nothing can be written there.
    """
    if target.exists() and not force:
        advice = "replace it" if is_file(target) else "write into it"
        raise SentinvError(f"{shown(target)} exists: give --force to {advice}, or choose another --output")
    if is_file(target):
        check_writable(target)
        return target.parent
    if target.is_dir():
        check_writable(target / "grid.png")
    return target


@contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Make a folder before any work, so that whoever cannot write there learns it now; an empty one is not left."""
    existed = path.exists()
    make_folder(path)
    try:
        yield
    finally:
        if not existed and not any(path.iterdir()):
            path.rmdir()
