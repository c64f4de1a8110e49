"""A text encoder with its tokenizer."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import count, takewhile
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextEncoder:
    """One text encoder with its tokenizer.

    Attributes:
        name: "text_encoder", and "text_encoder_2" for the second; latent diffusion's "bert" is a "text_encoder" too.
        tokenizer: a transformers tokenizer. It is never changed.
        model: a transformers text model.
    """

    name: str
    tokenizer: Any
    model: Any

    @property
    def table(self) -> Any:
        """The module that looks token ids up."""
        return self.model.get_input_embeddings()

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self.table.weight.shape[1]

    @property
    def max_length(self) -> int:
        """Tokens that the model takes, begin and end included."""
        return min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Token → id, as the tokenizer has it."""
        return self.tokenizer.get_vocab()

    @property
    def bos_id(self) -> int:
        """Id of the token that begins a prompt; for BERT that is [CLS]."""
        own = self.tokenizer.bos_token_id
        return self.tokenizer.cls_token_id if own is None else own

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a prompt; for BERT that is [SEP]."""
        own = self.tokenizer.eos_token_id
        return self.tokenizer.sep_token_id if own is None else own

    @property
    def pad_id(self) -> int:
        """Id of the token that fills a prompt up."""
        return self.tokenizer.pad_token_id

    @property
    def wants_mask(self) -> bool:
        """Whether the model is told which tokens are padding."""
        return bool(getattr(self.model.config, "use_attention_mask", False))

    def attention_mask(self, ids: Tensor, unseen: Collection[int] = ()) -> Tensor | None:
        """Which tokens of ids `[B, L]` may be attended to: all but `unseen`, and padding where the model is told of it."""
        mask = (ids != self.pad_id) if self.wants_mask else None
        if not unseen:
            return mask
        seen = ~torch.isin(ids, torch.tensor(list(unseen), device=ids.device))
        return (seen if mask is None else mask & seen).long()

    @cached_property
    def learned_words(self) -> dict[str, str]:
        """Words that were added to the tokenizer → all of their vectors: ``<c>`` → ``<c> <c>_1 …``, as diffusers names them."""
        added = set(self.tokenizer.get_added_vocab()) - set(self.tokenizer.all_special_tokens)
        return {
            word: " ".join([word, *takewhile(added.__contains__, (f"{word}_{index}" for index in count(1)))])
            for word in added
        }

    def text_ids(self, text: str) -> list[int]:
        """Token ids of plain text, without begin and end, however long."""
        words = self.learned_words
        if words:
            names = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
            text = re.sub(names, lambda found: words[found[0]], text)
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    @cached_property
    def median_norm(self) -> float:
        """Median length of the rows of the vocabulary."""
        return self.table.weight.detach().float().norm(dim=1).median().item()
