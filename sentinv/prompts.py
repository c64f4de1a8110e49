"""Prompts with placeholders: templates, expansion, and token ids.

The tokenizer never learns a placeholder's name. A prompt is split at the placeholders, the text between them is tokenised
as always, and the placeholders' own ids (negative, see `sentinv.placeholder`) are put in between: what a tokenizer does
with an added token, without adding one.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sentinv.errors import PromptError, SentinvError
from sentinv.placeholder import vector_names

if TYPE_CHECKING:
    from sentinv.text_encoder import TextEncoder

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
    parts = _split(prompt, vocabulary)
    return "".join(
        " ".join(vector_names(part, len(vocabulary[part]))) if part in vocabulary else part for part in parts
    )


def token_ids(prompt: str, encoder: TextEncoder, vocabulary: Vocabulary) -> list[int]:
    """Token ids of a prompt without begin, end and padding; the placeholders' ids are negative."""
    check_text(prompt)
    ids: list[int] = []
    for part in _split(prompt, vocabulary):
        single = re.fullmatch(r"(<[^<>]+>)_(\d+)", part)
        if part in vocabulary:
            ids += vocabulary[part]
        elif single and single[1] in vocabulary:
            ids.append(_single(part, vocabulary[single[1]], int(single[2])))
        elif part.strip():
            ids += encoder.text_ids(part)
    return ids


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


def tokenize(prompts: Sequence[str], encoder: TextEncoder, vocabulary: Vocabulary | None = None) -> Tensor:
    """Token ids of prompts, with begin and end, padded to the text encoder's length.

    Args:
        prompts: the prompts; placeholders in their short form ``<c>``.
        encoder: whose tokenizer.
        vocabulary: ids of the placeholders that may occur.

    Returns:
        `[len(prompts), max_length]` int64, on the CPU.

    Raises:
        PromptError: If a placeholder would be cut off. Other text that is too long is cut with a warning.
    """
    vocabulary = vocabulary or {}
    batch = torch.full((len(prompts), encoder.max_length), encoder.pad_id, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids = token_ids(prompt, encoder, vocabulary)
        room = encoder.max_length - 2
        if any(index < 0 for index in ids[room:]):
            raise PromptError(
                f"the prompt {short(prompt)!r} has {len(ids)} tokens, the text encoder takes {room}, and a placeholder "
                "would be cut off: shorten the prompt, put the placeholder first, or give it fewer vectors"
            )
        if len(ids) > room:
            lost = encoder.tokenizer.decode(ids[room:]).strip()
            warnings.warn(
                f"the prompt is longer than the text encoder's {room} tokens: {short(lost)!r} was cut", stacklevel=2
            )
        ids = [encoder.bos_id, *ids[:room], encoder.eos_id]
        batch[row, : len(ids)] = torch.tensor(ids)
    return batch


def check_placeholders(prompt: str, vocabulary: Vocabulary) -> None:
    """Refuse a prompt that names a placeholder nobody has given.

    Raises:
        PromptError: If the prompt has a ``<name>`` that is not in the vocabulary.
    """
    for part in re.findall(r"<[\w.-]+>", prompt):
        if part not in vocabulary:
            known = ", ".join(vocabulary) or "none"
            raise PromptError(f"the prompt names {part}, but the concepts given are: {known}; add its concept file")


def _split(prompt: str, vocabulary: Vocabulary) -> list[str]:
    """Cut a prompt at its placeholders; these are kept as parts of their own, with the ``_1`` of a single vector."""
    if not vocabulary:
        return [prompt]
    names = "|".join(re.escape(token) for token in sorted(vocabulary, key=len, reverse=True))
    return [part for part in re.split(rf"((?:{names})(?:_\d+)?)", prompt) if part]


def _single(name: str, ids: Sequence[int], index: int) -> int:
    if not 0 < index < len(ids):
        raise PromptError(f"the prompt names {name}, but that placeholder has {len(ids)} vectors")
    return ids[index]


def short(text: str, length: int = 60) -> str:
    """Cut a text that is too long for a message."""
    return text if len(text) <= length else text[: length - 1] + "…"
