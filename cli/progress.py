"""Progress on stderr, within 80 columns, and within fewer where the terminal has fewer."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

_TEXT = 40
_LEAST = 40
"""Columns below which there is no bar: it would wrap, and fill the screen."""


class Bar:
    """A bar that is told how far things are. On anything but a terminal it says nothing."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    @property
    def shown(self) -> bool:
        """Whether there is a bar to see."""
        return self._bar is not None

    def at(self, step: int, text: str = "") -> None:
        """Show the number of steps done, and a short text behind the bar."""
        if self._bar is not None:
            self._bar.update(step - self._bar.pos, text)


@contextmanager
def progress(label: str, total: int, *, quiet: bool = False) -> Iterator[Bar]:
    """Show a bar while a block runs.

    Args:
        label: what is going on, at most 10 characters.
        total: steps in all.
        quiet: show nothing.
    """
    columns = shutil.get_terminal_size().columns
    if quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb" or columns < _LEAST:
        yield Bar(None)
        return
    room = columns - len(f"{label:<10} {total}/{total}  ") - 1
    told = room >= 22 + _TEXT  # the text behind the bar; without it there is more of a bar

    def shown(text: str | None) -> str:
        return (text or "")[:_TEXT] if told else ""

    full, empty = ("━", "─") if "utf" in (sys.stderr.encoding or "").lower() else ("#", "-")
    with click.progressbar(
        length=total,
        label=f"{label:<10}",
        file=sys.stderr,
        width=22 if told else max(0, min(22, room - len("  00:00:00") - 1)),
        fill_char=click.style(full, fg="green"),
        empty_char=click.style(empty, dim=True),
        bar_template="%(label)s %(bar)s  %(info)s",
        item_show_func=shown,
        show_pos=True,
        show_percent=False,
        update_min_steps=1,
    ) as bar:
        yield Bar(bar)
