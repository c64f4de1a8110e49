"""What placeholders and their vectors may be called."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from sentinv.errors import PromptError

_ALPHABETS = (
    ("абвгдеёжзийклмнопрстуфхцчшщ", "a b v g d e yo zh z i y k l m n o p r s t u f kh ts ch sh shch"),
    ("ыэюяіїєґў", "y e yu ya i yi ye g u"),
    ("αβγδεζηθικλμνξοπρσςτυφχψω", "a v g d e z i th i k l m n x o p r s s t y f ch ps o"),
    ("ßæœøłđðþ", "ss ae oe o l d d th"),
)
_LATIN = {letter: latin for letters, names in _ALPHABETS for letter, latin in zip(letters, names.split(), strict=True)}
_LATIN |= {"ъ": "", "ь": ""}
_TOKEN = re.compile(r"<[a-z0-9][a-z0-9_.-]*>")


def latin(text: str) -> str:
    """Write a text in small ASCII letters, digits and what is neither: "Кот 2" → "kot 2".

    Letters of alphabets without a table here are their code points: equal texts have equal names, and others have others.
    """
    parts = []
    for letter in unicodedata.normalize("NFC", text.lower()):
        plain = _LATIN.get(letter)
        if plain is None:
            marked = unicodedata.normalize("NFKD", letter)
            plain = "".join(_LATIN.get(one, one) for one in marked if not unicodedata.combining(one))
        parts.append("".join(one if one.isascii() or not one.isalnum() else f"u{ord(one):x}" for one in plain))
    return "".join(parts)


def check_token(token: str) -> str:
    """Return the token if it can name a placeholder.

    Raises:
        PromptError: If it is not lower-case in angle brackets. Tokenizers lower-case what they are given, so an
            upper-case name would be found once and its further vectors never; without brackets it is found inside words.
    """
    if not _TOKEN.fullmatch(token):
        inner = re.sub(r"[^a-z0-9_.-]+", "-", latin(token.strip("<>"))).strip("-_.") or "concept"
        raise PromptError(
            f"expected a placeholder in lower case and angle brackets (letters, digits, '-', '_', '.'), got {token!r}: "
            f"use '<{inner}>'"
        )
    return token


def saying(text: str, initializer: str) -> str:
    """Starting words, if they say what the thing is; "" for those drawn at random, ``*``, and another word's placeholder.

    Args:
        text: the words.
        initializer: who said them.
    """
    silent = initializer == "random" or not text.strip(" *") or _TOKEN.fullmatch(text.strip())
    return "" if silent else text


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
    inner = re.sub(r"[^a-z0-9_.-]+", "-", latin(name.strip("<> "))).strip("-_.")
    return f"<{inner or 'concept'}>"
