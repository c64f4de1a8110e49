"""What placeholders and their vectors may be called."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sentinv.errors import PromptError

_TOKEN = re.compile(r"<[a-z0-9][a-z0-9_.-]*>")


def check_token(token: str) -> str:
    """Return the token if it can name a placeholder.

    Raises:
        PromptError: If it is not lower-case in angle brackets. Tokenizers lower-case what they are given, so an
            upper-case name would be found once and its further vectors never; without brackets it is found inside words.
    """
    if not _TOKEN.fullmatch(token):
        inner = re.sub(r"[^a-z0-9_.-]+", "-", token.strip("<>").lower()).strip("-_.") or "concept"
        raise PromptError(
            f"expected a placeholder in lower case and angle brackets (letters, digits, '-', '_', '.'), got {token!r}: "
            f"use '<{inner}>'"
        )
    return token


def check_free(token: str, vocabulary: Mapping[str, int]) -> str:
    """Return the token if it can name a placeholder and no entry of the vocabulary bears its name.

    Raises:
        PromptError: If it, or the name of one of its further vectors, is in the vocabulary already.
    """
    check_token(token)
    taken = next((name for name in (token, f"{token}_1", f"{token}</w>") if name in vocabulary), None)
    if taken is not None:
        raise PromptError(f"the placeholder {token} is in this model's vocabulary already: choose another name")
    return token


def vector_names(token: str, count: int) -> list[str]:
    """Name the vectors of one placeholder as diffusers does (``<c>``, ``<c>_1``, …)."""
    return [token if index == 0 else f"{token}_{index}" for index in range(count)]


def token_of(name: str) -> str:
    """Make a placeholder of a name: as it is if it is one, else lower-cased and put in brackets."""
    inner = re.sub(r"[^a-z0-9_.-]+", "-", name.lower().strip("<> ")).strip("-_.")
    return f"<{inner or 'concept'}>"
