"""A LoRA (Hu et al. 2021, arXiv:2106.09685) that belongs to a learned word, and the one file it lives in.

The file is safetensors in the layout that plain diffusers reads. It holds nothing but the layers; which word it is for and
which model, by name and by digest, is in the header, as are rank and alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sentinv.adapters.layouts import (
    ADAPTER_METADATA,
    AS_WORDS,
    LoraLayer,
    adapter_metadata,
    from_tensors,
    narrowed,
    to_tensors,
)
from sentinv.adapters.names import is_module_name
from sentinv.concepts.names import check_token
from sentinv.errors import ConceptError, PromptError
from sentinv.files.atomic import StrPath, atomic_write, shown
from sentinv.files.tensors import DIGEST, content_digest, read_tensors, safetensors_bytes
from sentinv.version import __version__

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept

MAX_BYTES = 2**30
"""The largest file that is read: rank 128 on every layer of Stable Diffusion XL has about 800 MB."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """What is added to the layers of a UNet.

    Attributes:
        layers: name of a module of the UNet, or what a file of another program calls it → what is added there.
        token: the word that it was trained for, such as ``<c>``; "" if unknown.
        base_model: name of the model that it belongs to; "" if unknown.
        metadata: further header entries, text → text.
        left_out: what the file holds besides, in words → how many of it: no part of the UNet, and not used.
        name: of the file that it was read from; "" if of none.

    Raises:
        ConceptError: If there are no layers.
    """

    layers: Mapping[str, LoraLayer]
    token: str = ""
    base_model: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConceptError("expected at least one layer in a LoRA, got none")
        if self.token:
            check_token(self.token)

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max(layer.rank for layer in self.layers.values())

    @property
    def bundled(self) -> bool:
        """Whether its file holds words, too, which `sentinv.load_concepts` reads."""
        return AS_WORDS in self.left_out

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.name or (f"the LoRA for {self.token}" if self.token else "the LoRA")

    @property
    def fingerprint(self) -> str:
        """Of the model that it was trained on, as `Backbone.fingerprint`; "" if unknown."""
        return self.metadata.get("sentinv.base_model_hash", "")

    @property
    def word_digest(self) -> str:
        """Of the word's rows, as `Concept.digest`; "" if unknown."""
        return self.metadata.get("sentinv.concept_hash", "")

    def is_around_another(self, concept: Concept) -> bool:
        """Whether it was trained around other rows than those of a word of its name."""
        return concept.token == self.token and self.word_digest not in ("", concept.digest)

    @property
    def of_another(self) -> str:
        """That, in words."""
        return f"{self.title} was trained around other rows of {self.token} than those given"

    @property
    def is_ours(self) -> bool:
        """Whether it was trained here, so that its layers have the names of the model's modules."""
        return not self.name or any(key.startswith("sentinv.") for key in self.metadata)

    def header(self) -> dict[str, str]:
        """What the header of its file says, less the digest.

        Rank and alpha are in it where readers would not take the alpha of every layer for its rank, and one rank for all.
        """
        scales = {(layer.rank, layer.alpha) for layer in self.layers.values()}
        usual = len(scales) == 1 and all(rank == alpha for rank, alpha in scales)
        header = {
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.title": self.token or "LoRA",
            **({"modelspec.trigger_phrase": self.token} if self.token else {}),
            **dict(self.metadata),
            **({} if usual else {ADAPTER_METADATA: adapter_metadata(self.layers)}),
            "sentinv.lora_format": "1",
            "sentinv.token": self.token,
            "sentinv.base_model": self.base_model,
        }
        header.setdefault("sentinv.version", __version__)
        return header

    def to_bytes(self, header: Mapping[str, str] | None = None) -> bytes:
        """The content of the file, weights in float16 if that loses nothing. Equal LoRAs give equal bytes.

        Args:
            header: in place of its own.

        Raises:
            ConceptError: If a number is not finite.
        """
        tensors, dtype = narrowed(to_tensors(self.layers))
        if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise ConceptError(f"{self.title} has values that are not finite: train with a smaller rate")
        header = dict(self.header() if header is None else header)
        header[DIGEST] = content_digest(tensors, header)
        return safetensors_bytes(tensors, header, dtype=dtype)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the file, whole or not at all.

        Raises:
            ConceptError: If its layers have the names of another program; `sentinv.export` finds those of diffusers.
            SentinvError: If it cannot be written, or exists and `overwrite` is not set.
        """
        strange = next((name for name in self.layers if not is_module_name(name)), None)
        if strange is not None:
            raise ConceptError(
                f"{self.title} has names of another program, such as {shown(strange[:80])}: sentinv.export(lora, 'diffusers') "
                "writes it as diffusers reads it"
            )
        return atomic_write(path, self.to_bytes(), overwrite=overwrite)


_OWN = {
    DIGEST,
    ADAPTER_METADATA,
    "sentinv.lora_format",
    "sentinv.token",
    "sentinv.base_model",
    "modelspec.sai_model_spec",
}
_NAMES = {"modelspec.title", "modelspec.trigger_phrase"}
"""Made of the word, where it has one."""

_PEFT_FILE, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""As peft saves: rank and alpha lie beside the file."""


def load_lora(path: StrPath) -> Lora:
    """Read a LoRA, of ours or of another program: diffusers, peft, kohya's scripts, ComfyUI, OneTrainer.

    Which layers a model has of it is seen when it is put on. Of one that peft saved, alpha is read from
    `adapter_config.json` beside it.

    Raises:
        ConceptError: If the file cannot be read, is damaged, or is no LoRA of a UNet.
    """
    name = shown(Path(path).name)
    tensors, header = read_tensors(path, allow_pickle=None, max_bytes=MAX_BYTES)
    ours = any(key.startswith("sentinv.") for key in header)
    if ours and header.get(DIGEST) != content_digest(tensors, header):
        raise ConceptError(f"{name} is damaged or was changed: its content does not match its sha256; get it again")
    if ours and "sentinv.lora_format" not in header:
        raise ConceptError(f"{name} is a learned word, not a LoRA: give it as a concept")
    if ADAPTER_METADATA not in header and Path(path).name == _PEFT_FILE:
        header = {**header, **_beside(Path(path).with_name(_PEFT_CONFIG))}
    read = from_tensors(name, tensors, header)
    token = header.get("sentinv.token", "")
    made = _OWN | _NAMES if token else _OWN
    try:
        return Lora(
            layers=read.layers,
            token=token,
            base_model=header.get("sentinv.base_model", ""),
            metadata={key: value for key, value in header.items() if key not in made},
            left_out=read.left_out,
            name=name,
        )
    except PromptError as error:
        raise ConceptError(f"{name}: {error}") from error


def _beside(config: Path) -> dict[str, str]:
    """What peft's config says, in the place where diffusers has it; nothing if there is none."""
    try:
        return {ADAPTER_METADATA: config.read_text(encoding="utf-8")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConceptError(f"cannot read {shown(config)}, which says how strong the LoRA is: {error}") from error
