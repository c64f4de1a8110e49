"""A classifier's label: what the thing is, in a word or two."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from PIL import Image

from sentinv.concepts.initialization import Initialization
from sentinv.models.names import EYES
from sentinv.models.parts import load_part


class ClassLabel:
    """Name the most likely class of the image; of a label's synonyms ("tabby, tabby cat") the first.

    Args:
        model: folder or hub id of a `ViTForImageClassification`, loaded on first use.

    Raises:
        ModelError: When called, if the model cannot be loaded.
    """

    def __init__(self, model: str = EYES["classifier"]) -> None:
        self.model = model

    def __call__(self, image: Image.Image) -> Initialization:
        """Name an image's class; the score is its probability."""
        import torch

        model, processor = self._loaded
        inputs = processor(images=image.convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            probabilities = model(**inputs).logits[0].softmax(dim=-1)
        best = int(probabilities.argmax())
        return Initialization(first_synonym(model.config.id2label[best]), "class", probabilities[best].item())

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoImageProcessor, ViTForImageClassification

        model = load_part(
            self.model,
            "classifier",
            lambda: ViTForImageClassification.from_pretrained(self.model, dtype=torch.float32).eval(),
        )
        return model, load_part(self.model, "processor", lambda: AutoImageProcessor.from_pretrained(self.model))


def first_synonym(label: str) -> str:
    """Take the first name of a label: "tabby, tabby cat" → "tabby"."""
    return " ".join(label.split(",")[0].replace("_", " ").lower().split())
