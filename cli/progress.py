"""Progress on stderr, within 80 columns."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click


class Bar:
    """A bar that is told how far things are. On anything but a terminal it says nothing."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

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
    if quiet or not sys.stderr.isatty():
        yield Bar(None)
        return
    full, empty = ("━", "─") if "utf" in (sys.stderr.encoding or "").lower() else ("#", "-")
    with click.progressbar(
        length=total,
        label=f"{label:<10}",
        file=sys.stderr,
        width=22,
        fill_char=click.style(full, fg="green"),
        empty_char=click.style(empty, dim=True),
        bar_template="%(label)s %(bar)s  %(info)s",
        item_show_func=lambda text: text or "",
        show_pos=True,
        show_percent=False,
        update_min_steps=1,
    ) as bar:
        yield Bar(bar)
