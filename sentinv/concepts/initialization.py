"""From words to the rows where training starts: the one place where an initializer's text is tokenised.

The number of vectors of a placeholder *is* the number of tokens of its starting words.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from sentinv.concepts.names import saying
from sentinv.concepts.prompts import check_text, short
from sentinv.errors import ConceptError, PromptError

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone
    from sentinv.models.text_encoder import TextEncoder


@dataclass(frozen=True)
class Initialization:
    """What an initializer says about an image.

    Attributes:
        text: words, such as "a cat with a rainbow striped tail".
        source: which initializer said it, such as "caption".
        score: how sure it is, larger is surer, in its own unit; None if it does not say.
        sure: whether that is enough for its words to be believed.
        concept: continue from these rows instead of those of the words.
    """

    text: str
    source: str = "phrase"
    score: float | None = None
    concept: Concept | None = None
    sure: bool = True


class Initializer(Protocol):
    """Looks at an image and answers in words. It builds no tensors and knows no text encoder."""

    def __call__(self, image: Image.Image) -> Initialization:
        """Describe an RGB image of any size."""
        ...


@dataclass(frozen=True)
class Plan:
    """What an initialization comes to for one tokenizer.

    Attributes:
        text: the words that are used.
        dropped: the words that were cut off for want of room; "" if none.
        tokens: one per vector, readable, such as ("a", "rain", "bow").
        ids: their ids.
        counts: how many of them each of the words has.
    """

    text: str
    dropped: str
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Start:
    """Where training starts.

    Attributes:
        initialization: what was asked for.
        tokens: what each vector starts from; for a continued concept the names of its vectors.
        rows: text encoder name → `[n, dim]` float32 on the CPU.
        dropped: the words that were cut off for want of room; "" if none.
    """

    initialization: Initialization
    tokens: tuple[str, ...]
    rows: dict[str, Tensor]
    dropped: str = ""

    @property
    def count(self) -> int:
        """Number of vectors."""
        return len(self.tokens)

    @property
    def text(self) -> str:
        """The words that are used."""
        text = self.initialization.text
        return " ".join(check_text(text).split()).removesuffix(self.dropped).rstrip() if self.dropped else text

    @property
    def thing(self) -> str:
        """The words that are used, if they say what the thing is; else ""."""
        return saying(self.text, self.initialization.source)


def plan(text: str, tokenizer: Any, max_vectors: int | None = None) -> Plan:
    """Tokenise starting words; cut them at a word where they need more vectors than allowed.

    Args:
        text: the words.
        tokenizer: a transformers tokenizer.
        max_vectors: the most vectors there may be, ≥ 1. The tokenizer's own length is a limit in any case.

    Raises:
        PromptError: If there are no words, they are not text, or the first alone needs more vectors than allowed.
        ValueError: If `max_vectors` is below 1.
    """
    if max_vectors is not None and max_vectors < 1:
        raise ValueError(f"max_vectors must be at least 1, got {max_vectors}")
    room = tokenizer.model_max_length - 2
    limit = room if max_vectors is None else min(max_vectors, room)
    words = check_text(text).split()
    ids: list[int] = []
    counts: list[int] = []
    for word in words:
        more = _word_ids(word, tokenizer)
        if len(ids) + len(more) > limit:
            break
        ids += more
        counts.append(len(more))
    used = len(counts)
    if not words or (used == len(words) and not ids):
        raise PromptError(f"expected words to start from, got {text!r}: give a word or a phrase")
    if not ids:
        need = len(_word_ids(words[0], tokenizer))
        raise PromptError(
            f"{short(words[0])!r} alone needs {need} vectors, allowed are {limit}: allow more or choose another word"
        )
    tokens = tuple(token.removesuffix("</w>") for token in tokenizer.convert_ids_to_tokens(ids))
    return Plan(" ".join(words[:used]), " ".join(words[used:]), tokens, tuple(ids), tuple(counts))


def _word_ids(word: str, tokenizer: Any) -> list[int]:
    """Token ids of a word, as text throughout.

    Where a tokenizer pads with "!", as the second one of Stable Diffusion XL does, that would be no word but padding, and a
    word more or less than for the first.
    """
    return tokenizer(word, add_special_tokens=False, split_special_tokens=True).input_ids


def whole_words(tokenizer: Any) -> list[str]:
    """Words of three letters and more that a tokenizer has as one token, in alphabetical order."""
    ends, vocabulary = "</w>", tokenizer.get_vocab()
    marked = {token.removesuffix(ends) for token in vocabulary if token.endswith(ends)}
    words = marked or vocabulary  # WordPiece marks what goes on in a word instead, with "##"
    return sorted(word for word in words if len(word) >= 3 and word.isascii() and word.isalpha())


def starting_rows(initialization: Initialization, backbone: Backbone, max_vectors: int | None = None) -> Start:
    """Turn an initialization into rows for every text encoder of a backbone.

    Args:
        initialization: words, or a concept to continue.
        backbone: whose vocabulary the rows are taken from.
        max_vectors: the most vectors there may be; words that need more are cut at a word, with a warning.

    Raises:
        PromptError: If there is nothing to start from.
        ConceptError: If a continued concept does not fit the backbone.
    """
    if initialization.concept is not None:
        return _continued(initialization, initialization.concept, backbone, max_vectors)
    rows: dict[str, Tensor] = {}
    plans = {
        encoder.name: plan(initialization.text, encoder.tokenizer, max_vectors) for encoder in backbone.text_encoders
    }
    first = plans[backbone.text_encoders[0].name]
    for encoder in backbone.text_encoders:
        own = plans[encoder.name]
        if len(own.ids) != len(first.ids):
            raise PromptError(
                f"{initialization.text!r} has {len(first.ids)} tokens for one text encoder of {backbone.name} and "
                f"{len(own.ids)} for another: choose other words"
            )
        rows[encoder.name] = _look_up(encoder, own.ids)
    if first.dropped:
        warnings.warn(
            f"only room for {len(first.ids)} vectors: start is {first.text!r}, {first.dropped!r} was cut", stacklevel=2
        )
    return Start(initialization, first.tokens, rows, first.dropped)


def _look_up(encoder: TextEncoder, ids: tuple[int, ...]) -> Tensor:
    weight = encoder.table.weight.detach()
    return weight[torch.tensor(ids, device=weight.device)].float().cpu().clone()


def check_fit(concept: Concept, widths: Mapping[str, int], model: str, max_vectors: int | None) -> None:
    """Refuse to continue a concept that was made for another model, or has too many vectors.

    Args:
        concept: to be continued.
        widths: name of each text encoder of the model → the length of its rows.
        model: its name.
        max_vectors: the most vectors there may be; None for no limit.

    Raises:
        ConceptError: If so.
    """
    got = {name: rows.shape[1] for name, rows in concept.rows.items()}
    if widths != got:
        told = ["/".join(map(str, found.values())) for found in (widths, got)]
        raise ConceptError(
            f"{concept.token} does not fit {model}: expected rows of width {told[0]}, got {told[1]}; "
            "use the model that the concept was made with"
        )
    if max_vectors is not None and concept.count > max_vectors:
        raise ConceptError(f"{concept.token} has {concept.count} vectors, allowed are {max_vectors}: allow as many")


def _continued(initialization: Initialization, concept: Concept, backbone: Backbone, max_vectors: int | None) -> Start:
    check_fit(concept, {encoder.name: encoder.dim for encoder in backbone.text_encoders}, backbone.name, max_vectors)
    return Start(
        initialization, tuple(concept.vector_names), {name: rows.clone() for name, rows in concept.rows.items()}
    )
