"""A learned word, and the one file it lives in.

The file is safetensors. For a model with one text encoder it holds exactly one tensor `[n, dim]`, whose key is the placeholder:
plain diffusers and most web UIs load that and nothing more. For two text encoders it holds ``clip_l`` and ``clip_g``. All else
is in the header: ``modelspec.*``, ``sentinv.*``, and a sha256 of the content.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sentinv.concepts import layouts
from sentinv.concepts.hub import local_file
from sentinv.concepts.names import check_token, saying, token_of, vector_names
from sentinv.concepts.png_words import is_picture, read_picture
from sentinv.errors import ConceptError
from sentinv.files.atomic import atomic_write
from sentinv.files.tensors import DIGEST, content_digest, read_tensors, safetensors_bytes
from sentinv.version import __version__

if TYPE_CHECKING:
    from PIL import Image

_OWN = {
    DIGEST,
    "sentinv.format",
    "sentinv.token",
    "sentinv.base_model",
    "modelspec.title",
    "modelspec.trigger_phrase",
    "modelspec.sai_model_spec",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Concept:
    """A placeholder and its learned vectors.

    Attributes:
        token: the placeholder, lower case in angle brackets: ``<c>``.
        rows: text encoder name ("text_encoder", and "text_encoder_2" where there are two) → `[n, dim]` float32 on the CPU.
        base_model: name of the model that the rows belong to; "" if unknown.
        metadata: further header entries, text → text; keys such as ``sentinv.initial_text`` and ``modelspec.date``.

    Raises:
        PromptError: If the token cannot name a placeholder.
        ConceptError: If rows are empty, of different counts, not finite, or all zero.
    """

    token: str
    rows: Mapping[str, Tensor]
    base_model: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_token(self.token)
        layouts.check_rows(self.token, self.rows)
        rows = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in self.rows.items()}
        object.__setattr__(self, "rows", rows)

    @property
    def count(self) -> int:
        """Number of vectors."""
        return len(next(iter(self.rows.values())))

    @property
    def vector_names(self) -> list[str]:
        """Name the vectors as diffusers does (``<c>``, ``<c>_1``, …)."""
        return vector_names(self.token, self.count)

    @property
    def thing(self) -> str:
        """The words that it started from, if they say what the thing is; else ""."""
        return saying(self.metadata.get("sentinv.initial_text", ""), self.metadata.get("sentinv.initializer", ""))

    @property
    def fingerprint(self) -> str:
        """Of the model the rows were trained on, as `Backbone.fingerprint`; "" if unknown."""
        return self.metadata.get("sentinv.base_model_hash", "")

    @property
    def digest(self) -> str:
        """Which rows these are: a sha256, in hex."""
        return content_digest(dict(self.rows), {})

    @property
    def tokens(self) -> tuple[str, ...]:
        """What each vector started from; empty if unknown."""
        try:
            tokens = json.loads(self.metadata.get("sentinv.tokens", "[]"))
        except json.JSONDecodeError:
            return ()
        return tuple(str(token) for token in tokens) if isinstance(tokens, list) else ()

    def with_thumbnail(self, image: Image.Image, side: int = 128) -> Concept:
        """Return the concept with a small JPEG of an image in its header, as file browsers show it."""
        small = image.convert("RGB")
        small.thumbnail((side, side))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=85)
        uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        return replace(self, metadata={**self.metadata, "modelspec.thumbnail": uri})

    def header(self) -> dict[str, str]:
        """What the header of a file of this concept says, less the digest."""
        header = {
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.title": self.token,
            "modelspec.trigger_phrase": self.token,
            **dict(self.metadata),
            "sentinv.format": "1",
            "sentinv.token": self.token,
            "sentinv.base_model": self.base_model,
        }
        header.setdefault("sentinv.version", __version__)
        return header

    def to_bytes(self) -> bytes:
        """The content of the concept's file. Equal concepts give equal bytes."""
        return signed_bytes(layouts.to_tensors(self.token, self.rows), self.header())

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the concept's file, whole or not at all.

        Raises:
            SentinvError: If it cannot be written, or exists and `overwrite` is not set.
        """
        return atomic_write(path, self.to_bytes(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path, token: str | None = None, *, allow_pickle: bool = False) -> Concept:
        """Read a concept from a file, of ours or of another program, or from the hub.

        Besides our own (which is that of diffusers) the layouts of A1111, kohya's scripts and OneTrainer are read:
        ``emp_params``, ``emb_params``, ``clip_l`` with ``clip_g``; PNGs with a word in their text; and words bundled into a
        LoRA's file. A word in two files is read by `sentinv.concepts.reading.load_concepts`, which also reads several of
        one bundle.

        Args:
            path: the file; or a hub id, `owner/name`, of which only a `.safetensors` file is taken.
            token: the placeholder it is to have; that of the file, or one made of the file's name, if not given.
            allow_pickle: read `.pt` and `.bin` files too, in a limited process of their own.

        Raises:
            ConceptError: If the file cannot be read, is damaged, holds several words, or its layout, types or values are not
                those of a concept.
        """
        found = load_all(path, allow_pickle=allow_pickle)
        if len(found) != 1:
            tokens = ", ".join(one.token for one in found)
            raise ConceptError(f"{Path(path).name} holds {len(found)} words, {tokens}: read them with load_concepts")
        return found[0] if token is None else replace(found[0], token=token)


def load_all(path: str | Path, *, allow_pickle: bool = False) -> list[Concept]:
    """Read the word in a file, or all that are bundled into a LoRA's. Otherwise as `Concept.load`."""
    path = local_file(path)
    called = ""
    header: dict[str, str] = {}
    if is_picture(path):
        called, tensors = read_picture(path)
    else:
        tensors, header = read_tensors(path, allow_pickle=allow_pickle)
    ours = any(key.startswith("sentinv.") for key in header)
    if ours and header.get(DIGEST) != content_digest(tensors, header):
        raise ConceptError(
            f"{path.name} is damaged or was changed: its content does not match its sha256; get it again"
        )
    metadata = {key: value for key, value in header.items() if key not in _OWN}
    concepts = []
    words = layouts.bundled(tensors)
    for name, own in words.items() or [(called, tensors)]:
        found, rows = layouts.from_tensors(path, own)
        token = header.get("sentinv.token") if len(words) < 2 else None
        token = token or (token_of(name) if name else found)
        concepts.append(
            Concept(token=token, rows=rows, base_model=header.get("sentinv.base_model", ""), metadata=metadata)
        )
    return concepts


def several(concepts: Concept | Sequence[Concept]) -> list[Concept]:
    """A list of concepts; one is a list of one.

    Raises:
        ValueError: If there is something else in it, such as the name of a file.
    """
    found = [concepts] if isinstance(concepts, Concept | str | Path) else list(concepts)
    for one in found:
        if not isinstance(one, Concept):
            raise ValueError(
                f"expected concepts, got {type(one).__name__}: read a file with sentinv.Concept.load(path)"
            )
    return found


def signed_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """A file of tensors, float32, with a sha256 of its content in its header, which reading it checks."""
    return safetensors_bytes(tensors, {**header, DIGEST: content_digest(tensors, header)})
