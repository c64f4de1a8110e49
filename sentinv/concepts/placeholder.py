"""The rows that train, and how a backbone's text encoders come to see them for a while.

A placeholder has no entry in the tokenizer and none in the vocabulary table: its vectors have the ids -1, -2, …, which
`sentinv.concepts.tokens` puts into prompts, and while the rows are installed a small module stands in front of each text
encoder's table and answers those ids. So nothing is resized, copied or pasted back; the table keeps its bits because nobody
writes to it. Negative ids have a second use: text encoders that pool at the largest id (those whose config says
``eos_token_id == 2``) still find the end of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from sentinv.concepts.names import check_free, check_token
from sentinv.errors import ConceptError
from sentinv.models.turns import turn

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone
    from sentinv.models.text_encoder import TextEncoder

Rows = Mapping[str, Tensor]
"""Text encoder name ("text_encoder", "text_encoder_2", …) → rows `[n, dim]`."""


class PlaceholderRows(nn.Module):
    """The learned vectors of one or more placeholders: one fp32 parameter per text encoder.

    Args:
        starts: token → (text encoder name → `[n, dim]` rows). The rows are copied, to float32.
        first: how many ids are left to others.

    Attributes:
        vocabulary: token → ids of its vectors, all negative: -1 is the first row of the parameter, -2 the second, and with
            `first` so many less.
        first: how many ids are left to others.

    Raises:
        ValueError: If there are no rows, or the text encoders differ in them.
    """

    def __init__(self, starts: Mapping[str, Rows], first: int = 0) -> None:
        super().__init__()
        encoders = {tuple(rows) for rows in starts.values()}
        counts = {token: {len(value) for value in rows.values()} for token, rows in starts.items()}
        if len(encoders) != 1 or any(len(count) != 1 or 0 in count for count in counts.values()):
            raise ValueError(
                "every placeholder needs rows, equally many for each text encoder, for the same text encoders"
            )
        self.vocabulary: dict[str, list[int]] = {}
        self.first = first
        for token, (count,) in counts.items():
            self.vocabulary[check_token(token)] = [-1 - first - index for index in range(count)]
            first += count
        self.rows = nn.ParameterDict(
            {
                name: nn.Parameter(torch.cat([rows[name].detach().float().clone() for rows in starts.values()]))
                for name in next(iter(encoders))
            }
        )

    @classmethod
    def of_concepts(cls, concepts: list[Concept]) -> PlaceholderRows:
        """Rows of several concepts at once.

        Raises:
            ConceptError: If two concepts have the same placeholder, or they are of different kinds of model.
        """
        tokens = [concept.token for concept in concepts]
        repeated = next((token for token in tokens if tokens.count(token) > 1), None)
        if repeated is not None:
            raise ConceptError(
                f"expected concepts with different placeholders, got {repeated} twice: learn one of them under another --token"
            )
        if len({tuple(concept.rows) for concept in concepts}) > 1:
            raise ConceptError("expected concepts of one kind of model, got some for one text encoder and some for two")
        return cls({concept.token: concept.rows for concept in concepts})

    def of(self, token: str) -> dict[str, Tensor]:
        """The rows of one placeholder, a detached float32 copy `[n, dim]` per text encoder."""
        indices = [-1 - self.first - index for index in self.vocabulary[token]]
        return {name: parameter.detach()[indices].clone() for name, parameter in self.rows.items()}

    @contextmanager
    def installed(self, backbone: Backbone) -> Iterator[PlaceholderRows]:
        """Let the backbone's text encoders see these rows inside a ``with`` block; undone on leaving it, also by an error.

        Another thread that wants the same of this backbone waits.

        Raises:
            ConceptError: If the rows do not fit the backbone's text encoders.
            PromptError: If a placeholder's name is in the vocabulary already.
            ValueError: If rows are installed in this backbone already.
        """
        self.check_fit(backbone)
        self.to(backbone.device)
        with _in_place_of_tables(backbone, lambda encoder: _TableWithRows(encoder.table, self.rows[encoder.name])):
            yield self

    def check_fit(self, backbone: Backbone) -> None:
        """Refuse a backbone that these rows cannot be installed in.

        Raises:
            ConceptError: If the rows do not fit its text encoders.
            PromptError: If a placeholder's name is in the vocabulary already.
        """
        wanted = {encoder.name: encoder.dim for encoder in backbone.text_encoders}
        got = {name: parameter.shape[1] for name, parameter in self.rows.items()}
        if got != wanted:
            raise ConceptError(
                f"these rows do not fit the model {backbone.name}: expected widths {_widths(wanted)}, got {_widths(got)}; "
                "use the model that the concept was made with"
            )
        for encoder in backbone.text_encoders:
            for token in self.vocabulary:
                check_free(token, encoder.vocabulary)


class _TableWithRows(nn.Module):
    """A vocabulary table that also answers negative ids, with rows of its own."""

    def __init__(self, table: nn.Module, rows: nn.Parameter) -> None:
        super().__init__()
        self.table = table
        self.rows = rows

    @property
    def weight(self) -> Tensor:
        """The frozen table, as whoever asks an embedding module for its weight expects."""
        return self.table.weight  # type: ignore[return-value]

    def known_rows(self) -> Tensor:
        """What the ids -1, -2, … stand for, `[n, dim]`."""
        return self.rows

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids `[..., L]` → `[..., L, dim]` in the table's dtype."""
        known = self.table(ids.clamp(min=0))
        own = self.known_rows()[(-1 - ids).clamp(min=0)].to(known.dtype)
        return torch.where((ids < 0).unsqueeze(-1), own, known)


class Shelf:
    """Places for the rows of words that come and go while all of them are installed, each with ids of its own.

    Args:
        backbone: of the rows.
        places: how many words there can be at a time, ≥ 1.
    """

    def __init__(self, backbone: Backbone, places: int) -> None:
        self.backbone = backbone
        self.width = max(encoder.max_length for encoder in backbone.text_encoders)
        self.words: list[PlaceholderRows | None] = [None] * places

    def put(self, token: str, rows: Rows) -> PlaceholderRows:
        """Give a word a place.

        Raises:
            ConceptError, PromptError: As `PlaceholderRows.installed`; and if it has more vectors than a prompt has tokens.
            ValueError: If no place is free.
        """
        place = self.words.index(None)
        word = PlaceholderRows({token: rows}, first=place * self.width)
        word.check_fit(self.backbone)
        count = len(word.vocabulary[token])
        if count > self.width:
            raise ConceptError(f"{token} has {count} vectors, the text encoder takes {self.width} tokens")
        self.words[place] = word.to(self.backbone.device)
        return word

    def free(self, word: PlaceholderRows) -> None:
        """Give a word's place to others."""
        self.words[self.words.index(word)] = None

    @contextmanager
    def installed(self) -> Iterator[Shelf]:
        """Let the text encoders see what is on the shelf, inside a ``with`` block. Otherwise as `PlaceholderRows.installed`."""
        with _in_place_of_tables(self.backbone, lambda encoder: _TableWithShelf(encoder.table, self, encoder.name)):
            yield self


class _TableWithShelf(_TableWithRows):
    """A vocabulary table that also answers the ids of a shelf's words."""

    def __init__(self, table: nn.Module, shelf: Shelf, name: str) -> None:
        weight: Tensor = table.weight  # type: ignore[assignment]
        super().__init__(table, nn.Parameter(torch.zeros(shelf.width, weight.shape[1], device=weight.device)))
        self.shelf, self.name = shelf, name

    def known_rows(self) -> Tensor:
        """All rows, with zeros where there are none: the same shape whatever words there are."""
        values = [self.rows if word is None else word.rows[self.name] for word in self.shelf.words]
        return torch.cat([pad(value, (0, 0, 0, self.shelf.width - len(value))) for value in values])


@contextmanager
def _in_place_of_tables(backbone: Backbone, made: Callable[[TextEncoder], _TableWithRows]) -> Iterator[None]:
    with turn(backbone), ExitStack() as undo:
        for encoder in backbone.text_encoders:
            table = encoder.table
            if isinstance(table, _TableWithRows):
                raise ValueError(
                    "rows are installed in this backbone already: put all concepts into one PlaceholderRows"
                )
            undo.callback(encoder.model.set_input_embeddings, table)
            encoder.model.set_input_embeddings(made(encoder))
        yield


def _widths(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {width}" for name, width in sorted(widths.items()))


@contextmanager
def laid_aside(backbone: Backbone) -> Iterator[None]:
    """Take the rows that are installed in a backbone out inside a ``with`` block: a run can draw with others on the way.

    Raises:
        ValueError: If none are installed.
    """
    tables = [(encoder.model, encoder.table) for encoder in backbone.text_encoders]
    if not all(isinstance(table, _TableWithRows) for _, table in tables):
        raise ValueError("no rows are installed in this backbone")
    try:
        for model, table in tables:
            model.set_input_embeddings(table.table)
        yield
    finally:
        for model, table in tables:
            model.set_input_embeddings(table)
