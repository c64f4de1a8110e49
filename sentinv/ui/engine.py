"""The models of the page: one base model in memory, and those that say what a picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from sentinv.concepts.initialization import Plan, plan
from sentinv.errors import ModelError, SentinvError
from sentinv.files.cropping import square
from sentinv.files.decoding import Picture
from sentinv.initializers import make
from sentinv.models.built_in import TOYBOX
from sentinv.models.loading import best_device, load, load_tokenizers
from sentinv.models.memory import free_memory
from sentinv.models.names import SHORT_NAMES, SUPPORTED, Place
from sentinv.training.config import TrainConfig
from sentinv.training.memory import training_memory
from sentinv.ui.line import Line

if TYPE_CHECKING:
    from sentinv.concepts.initialization import Initializer
    from sentinv.models.backbone import Backbone

_MAX_WORDS = 400


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen in a picture.

    Attributes:
        caption: a sentence without its lead, "a cat on the beach".
        label: its class, "cat"; "" where there is no classifier.
    """

    caption: str
    label: str

    @property
    def sure(self) -> bool:
        """Whether sentence and class speak of the same thing."""
        return bool(self.label) and self.label.split()[-1] in self.caption.split()


class Engine:
    """Loads models when they are needed, and keeps the last one.

    Args:
        place: the model that the page begins with, and where models run.
        folder: where folders of models may lie, too.

    Attributes:
        line: who may use the base model.
    """

    def __init__(self, place: Place, folder: Path) -> None:
        self.line = Line()
        self._place, self._folder = place, folder
        self._loaded: tuple[str, Backbone] | None = None
        self._loading, self._seeing = Lock(), Lock()
        self._eyes: dict[tuple[str, str], Initializer] = {}
        self._tokenizer = cache(lambda model: load_tokenizers(model)[0])
        self._memory = cache(self._estimate)

    # Base models

    def models(self) -> list[str]:
        """Names of the models that can be chosen: the first, the built-in one, those of the folder and of the hub's cache."""
        return list(dict.fromkeys([self._place.model, TOYBOX, *self._in_folder(), *_in_cache()]))

    def _in_folder(self) -> list[str]:
        return [str(path.parent) for path in sorted(self._folder.glob("*/model_index.json")) if not path.is_symlink()]

    def label(self, model: str) -> str:
        """What a model is called on the page."""
        if model == TOYBOX:
            return "Built-in toy model"
        short = next((short for short, full in SHORT_NAMES.items() if full == model), None)
        return f"{model} ({short})" if short else Path(model).name if Path(model).is_absolute() else model

    def checked(self, model: str) -> str:
        """The name, if it is one of those that can be chosen: nothing else is ever loaded.

        Raises:
            ModelError: If it is not.
        """
        if model not in self.models():
            raise ModelError("expected one of the models in the list: choose one of them")
        return model

    def backbone(self, model: str) -> Backbone:
        """The base model, loaded; whoever asks has the turn.

        Raises:
            ModelError: If it cannot be loaded.
        """
        import torch

        with self._loading:
            if self._loaded is None or self._loaded[0] != model:
                self._loaded = None  # one at a time is enough for any memory
                place = self._at(self.checked(model))
                dtype = getattr(torch, place.dtype) if place.dtype else None
                self._loaded = (model, load(model, device=place.device, dtype=dtype, vae=place.vae))
            return self._loaded[1]

    def _at(self, model: str) -> Place:
        """Where a model runs: another autoencoder than its own is for the first one only."""
        return self._place if model == self._place.model else replace(self._place, model=model, vae=None)

    def where(self) -> str:
        """The device, in words."""
        import torch

        device = torch.device(self._place.device) if self._place.device else best_device()
        names = {"cpu": "the processor (no graphics card is used)", "mps": "Apple's graphics processor"}
        return torch.cuda.get_device_name(device) if device.type == "cuda" else names.get(device.type, str(device))

    def memory(self, model: str, config: TrainConfig) -> tuple[int | None, int | None]:
        """Bytes that learning takes and bytes that are free; None where nobody can tell."""
        import torch

        free = free_memory(torch.device(self._place.device) if self._place.device else best_device())
        return self._memory(self.checked(model), config.batch_size, config.gradient_checkpointing), free

    def _estimate(self, model: str, batch_size: int, sparing: bool) -> int | None:
        config = TrainConfig(batch_size=batch_size, gradient_checkpointing=sparing)
        found = training_memory(self._at(model), config)
        return found["total"] if found else None

    # What a picture shows

    def seen(self, pictures: Sequence[Picture], model: str) -> Seen:
        """Look at the square of the first picture that is learned from.

        Raises:
            ModelError: If captioner or classifier cannot be loaded.
        """
        image = square(pictures[0]).image
        with self._seeing:
            return Seen(caption=self._eye("caption", model)(image).text, label=self._eye("class", model)(image).text)

    def _eye(self, kind: str, model: str) -> Initializer:
        ours = TOYBOX if model == TOYBOX else "other"
        if (kind, ours) not in self._eyes:
            self._eyes[kind, ours] = make(kind, self.checked(model))
        return self._eyes[kind, ours]

    def plan(self, text: str, model: str) -> Plan:
        """What words come to: which vectors.

        Raises:
            PromptError: If there are none.
        """
        if len(text) > _MAX_WORDS:
            raise SentinvError(f"expected at most {_MAX_WORDS} characters to start from, got {len(text)}: say less")
        return plan(text, self.tokenizer(model))

    def tokenizer(self, model: str) -> Any:
        """The tokenizer of a model."""
        return self._tokenizer(self.checked(model))

    def warm(self) -> None:
        """Load what the first visitor will need; what cannot be loaded is told when it is asked for."""
        from PIL import Image

        grey = Picture(image=Image.new("RGB", (64, 64), (128, 128, 128)))
        for work in (
            lambda: self.seen([grey], self._place.model),
            lambda: self.tokenizer(self._place.model),
            lambda: self.backbone(self._place.model).fingerprint,
        ):
            try:
                work()
            except SentinvError:
                return


def _in_cache() -> list[str]:
    """Names of the Stable Diffusion models that the hub's cache on this machine holds."""
    import json

    from huggingface_hub import constants

    found = []
    for index in sorted(Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/model_index.json")):
        try:
            kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
        except (OSError, ValueError, AttributeError):
            continue
        if kind in SUPPORTED:
            found.append(index.parts[-4].removeprefix("models--").replace("--", "/", 1))
    return list(dict.fromkeys(found))
