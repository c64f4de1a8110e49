"""The main job in one call: images and an initializer in, a learned word out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sentinv.config import TrainConfig
from sentinv.images import read_image
from sentinv.initialization import Initialization, Initializer, starting_rows
from sentinv.training import train_concept

if TYPE_CHECKING:
    from sentinv.backbone import Backbone
    from sentinv.concept import Concept

Source = str | Path | Image.Image


def invert(
    backbone: Backbone,
    images: Source | Sequence[Source],
    initializer: str | Initialization | Initializer,
    config: TrainConfig | None = None,
    *,
    token: str = "<concept>",  # noqa: S107 - not a password
    max_vectors: int | None = None,
    **options: Any,
) -> Concept:
    """Learn a word for the thing in one image, or in several.

    Args:
        backbone: the model, of `sentinv.load`.
        images: a picture or several of one thing: paths, or Pillow images.
        initializer: what the words to start from are: a phrase, an `Initialization`, or any callable that looks at the
            first image and answers with one.
        config: hyper-parameters.
        token: the placeholder, lower case in angle brackets.
        max_vectors: the most vectors the word may have.
        **options: further arguments of `train_concept`, which see: masks, templates, checkpoints, resume, on_step.

    Returns:
        The concept, with the first image as its thumbnail. Transparent parts of a picture are not learned, unless masks
        are given.

    Raises:
        SentinvError: As `train_concept` and `read_image`.
        ValueError: If there are no images.
    """
    sources = [images] if isinstance(images, str | Path | Image.Image) else list(images)
    if not sources:
        raise ValueError("expected at least one image")
    pictures: list[Image.Image] = []
    masks: list[Image.Image | None] = []
    for source in sources:
        read = None if isinstance(source, Image.Image) else read_image(source)
        pictures.append(source.convert("RGB") if read is None else read.image)
        masks.append(None if read is None else read.mask)
    start = starting_rows(_ask(initializer, pictures[0]), backbone, max_vectors)
    concept, _ = train_concept(backbone, pictures, start, config, token=token, **{"masks": masks, **options})
    return concept.with_thumbnail(pictures[0])


def _ask(initializer: str | Initialization | Initializer, image: Image.Image) -> Initialization:
    if isinstance(initializer, str):
        return Initialization(initializer)
    return initializer if isinstance(initializer, Initialization) else initializer(image)
