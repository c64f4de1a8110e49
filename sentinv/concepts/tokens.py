"""Token ids of prompts with placeholders.

The tokenizer never learns a placeholder's name. A prompt is split at the placeholders, the text between them is tokenised
as always, and the placeholders' own ids (negative, see `sentinv.concepts.placeholder`) are put in between: what a tokenizer
does with an added token, without adding one.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sentinv.concepts.prompts import Vocabulary, check_text, short, split_at_placeholders
from sentinv.errors import PromptError

if TYPE_CHECKING:
    from sentinv.concepts.placeholder import PlaceholderRows
    from sentinv.models.backbone import Backbone
    from sentinv.models.text_encoder import TextEncoder


def tokenize(backbone: Backbone, prompts: Sequence[str], rows: PlaceholderRows | None = None) -> dict[str, Tensor]:
    """Token ids of prompts for every text encoder: name → `[B, max_length]` int64 on the model's device.

    Args:
        backbone: the model.
        prompts: B of them; placeholders in their short form ``<c>``.
        rows: of the placeholders that may occur.

    Raises:
        PromptError: If a placeholder would be cut off.
    """
    vocabulary = rows.vocabulary if rows is not None else None
    return {
        encoder.name: padded_ids(prompts, encoder, vocabulary).to(backbone.device) for encoder in backbone.text_encoders
    }


def padded_ids(prompts: Sequence[str], encoder: TextEncoder, vocabulary: Vocabulary | None = None) -> Tensor:
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


def token_ids(prompt: str, encoder: TextEncoder, vocabulary: Vocabulary) -> list[int]:
    """Token ids of a prompt without begin, end and padding; the placeholders' ids are negative."""
    check_text(prompt)
    ids: list[int] = []
    for part in split_at_placeholders(prompt, vocabulary):
        single = re.fullmatch(r"(<[^<>]+>)_(\d+)", part)
        if part in vocabulary:
            ids += vocabulary[part]
        elif single and single[1] in vocabulary:
            ids.append(_single(part, vocabulary[single[1]], int(single[2])))
        elif part.strip():
            ids += encoder.text_ids(part)
    return ids


def _single(name: str, ids: Sequence[int], index: int) -> int:
    if not 0 < index < len(ids):
        raise PromptError(f"the prompt names {name}, but that placeholder has {len(ids)} vectors")
    return ids[index]
