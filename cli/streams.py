"""What is printed must not fail: signs that a terminal cannot show are replaced, colours only where they are wanted."""

from __future__ import annotations

import codecs
import os
import sys

_SUBSTITUTES = {
    "→": "->",
    "\N{MULTIPLICATION SIGN}": "x",
    "…": "...",
    "·": "|",
    "\N{EN DASH}": "-",
    "±": "+-",
    "≥": ">=",
    "≤": "<=",
    "“": '"',
    "”": '"',
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "━": "#",
    "─": "-",
}


def make_safe() -> None:
    """Let stdout and stderr replace what their encoding has not: our own signs by ASCII ones, all else by "?".

    Bytes of a file's name that are no text stay those bytes.
    """
    codecs.register_error("sentinv", _substitute)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="sentinv")


def _substitute(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    if "\udc80" <= sign <= "\udcff":
        return bytes([ord(sign) - 0xDC00]), error.start + 1
    return _SUBSTITUTES.get(sign, "?"), error.start + 1


def can_show(text: str) -> bool:
    """Whether stdout can show a text as it is."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def colours() -> bool | None:
    """False where nobody wants colours (no-color.org) or the terminal has none; None where it is up to the terminal."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
