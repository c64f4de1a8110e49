"""Prompts with placeholders: templates, checks and expansion."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sentinv.concepts.names import vector_names
from sentinv.errors import PromptError, SentinvError

if TYPE_CHECKING:
    pass

Vocabulary = Mapping[str, Sequence[int]]
"""Placeholder token → ids of its vectors."""

# The templates of Gal et al. 2022 (arXiv:2208.01618), appendix, as the field uses them.
OBJECT_TEMPLATES = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)
STYLE_TEMPLATES = (
    "a painting in the style of {}",
    "a rendering in the style of {}",
    "a cropped painting in the style of {}",
    "the painting in the style of {}",
    "a clean painting in the style of {}",
    "a dirty painting in the style of {}",
    "a dark painting in the style of {}",
    "a picture in the style of {}",
    "a cool painting in the style of {}",
    "a close-up painting in the style of {}",
    "a bright painting in the style of {}",
    "a cropped painting in the style of {}",
    "a good painting in the style of {}",
    "a close-up painting in the style of {}",
    "a rendition in the style of {}",
    "a nice painting in the style of {}",
    "a small painting in the style of {}",
    "a weird painting in the style of {}",
    "a large painting in the style of {}",
)
TEMPLATES = {"object": OBJECT_TEMPLATES, "style": STYLE_TEMPLATES}


def read_templates(path: str | Path) -> tuple[str, ...]:
    """Read templates from a UTF-8 text file: one a line, each with ``{}`` where the placeholder goes.

    Empty lines and lines that start with ``#`` are skipped.

    Raises:
        PromptError: If a line has no ``{}`` or more than one, or nothing is left.
        SentinvError: If the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SentinvError(f"cannot read templates from {path}: {error}") from error
    templates = []
    for number, line in enumerate((line.strip() for line in lines), start=1):
        if not line or line.startswith("#"):
            continue
        if line.count("{}") != 1:
            raise PromptError(f"{path}, line {number}: expected one '{{}}' where the placeholder goes, got {line!r}")
        templates.append(line)
    if not templates:
        raise PromptError(f"{path}: expected at least one template such as 'a photo of a {{}}', got none")
    return tuple(templates)


def fill(template: str, words: str) -> str:
    """Put words into a template's ``{}``; other braces stay as they are."""
    return template.replace("{}", words)


def expand(prompt: str, vocabulary: Vocabulary) -> str:
    """Write every placeholder out as the names of its vectors: ``<c>`` → ``<c> <c>_1 …``.

    This is the prompt that programs without our expansion need. A single vector that is named (``<c>_1``) stays.
    """
    parts = split_at_placeholders(prompt, vocabulary)
    return "".join(
        " ".join(vector_names(part, len(vocabulary[part]))) if part in vocabulary else part for part in parts
    )


def check_text(text: str) -> str:
    """Return the text if it is text: what a shell hands over may hold bytes that are none.

    Raises:
        PromptError: If a part of it cannot be written as UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"expected text, got bytes that are not UTF-8: {short(text)!a}; type it anew") from error
    return text


def check_placeholders(prompt: str, vocabulary: Vocabulary, known_words: Container[str] = ()) -> None:
    """Refuse a prompt that names a placeholder nobody has given.

    Args:
        prompt: the prompt.
        vocabulary: of the placeholders that are given.
        known_words: words of the tokenizer: a model may have learned words in it.

    Raises:
        PromptError: If the prompt has a ``<name>`` that is in neither.
    """
    for part in re.findall(r"<[\w.-]+>", prompt):
        if part not in vocabulary and part not in known_words:
            known = ", ".join(vocabulary) or "none"
            small = part.lower()
            advice = f"write {small}" if small in vocabulary else "add its concept file (-c) or take the brackets off"
            raise PromptError(f"the prompt names {part}, but the concepts given are: {known}; {advice}")


def split_at_placeholders(prompt: str, vocabulary: Vocabulary) -> list[str]:
    """Cut a prompt at its placeholders; these are kept as parts of their own, with the ``_1`` of a single vector."""
    if not vocabulary:
        return [prompt]
    names = "|".join(re.escape(token) for token in sorted(vocabulary, key=len, reverse=True))
    return [part for part in re.split(rf"((?:{names})(?:_\d+)?)", prompt) if part]


def short(text: str, length: int = 60) -> str:
    """Cut a text that is too long for a message."""
    return text if len(text) <= length else text[: length - 1] + "…"
