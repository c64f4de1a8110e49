"""A classifier's label: what the thing is, in a word or two."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from PIL import Image

from sentinv.concepts.initialization import Initialization, Initializer
from sentinv.errors import ModelError
from sentinv.initializers.caption import believed, characters
from sentinv.models.eyes import load_eye, look
from sentinv.models.names import EYES


class ClassLabel:
    """Name the most likely class of the image; of a label's synonyms ("tabby, tabby cat") the first.

    Args:
        model: folder or hub id of an image classifier of transformers (ViT, ResNet, ConvNeXt, …), loaded on first use.
        device: where it looks at images; the best there is if None. It leaves no memory there.
        otherwise: asked, with a warning, where the classifier is not sure: where the score is below its config's
            ``unsure_below``. One whose config says nothing of that is always sure.

    Raises:
        ModelError: When called, if the model cannot be loaded.
    """

    def __init__(
        self, model: str = EYES["classifier"], *, device: str | None = None, otherwise: Initializer | None = None
    ) -> None:
        self.model = model
        self.device = device
        self.otherwise = otherwise

    def __call__(self, image: Image.Image) -> Initialization:
        """Name an image's class; the score is its probability."""
        return self.several([image])[0]

    def several(self, images: Sequence[Image.Image]) -> list[Initialization]:
        """Name the classes of images, all in one pass."""
        model, processor = self._loaded
        inputs = processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        logits = look(model, self.device, lambda device: model(**inputs.to(device)).logits, "give a --word")
        probabilities, best = logits.softmax(dim=-1).max(dim=-1)
        labels = [first_synonym(model.config.id2label[index]) for index in best.tolist()]
        limit = getattr(model.config, "unsure_below", None)
        return [
            believed(Initialization(label, "class", score), image, limit, self.otherwise)
            for label, score, image in zip(labels, probabilities.tolist(), images, strict=True)
        ]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        otherwise = "go online, name a folder with --classifier, or give a word with --word, which needs no classifier"
        model, processor = load_eye(
            self.model, "classifier", AutoModelForImageClassification, AutoImageProcessor, otherwise=otherwise
        )
        if all(re.fullmatch(r"LABEL_\d+", str(label)) for label in model.config.id2label.values()):
            raise ModelError(
                f"{self.model} has no names for its classes in its config (id2label): name another classifier"
            )
        return model, processor


def first_synonym(label: str) -> str:
    """Take the first name of a label: "tabby, tabby cat" → "tabby"."""
    return " ".join(characters(label).split(",")[0].replace("_", " ").lower().split())
