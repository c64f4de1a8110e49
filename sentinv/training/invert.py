"""The main job in one call: images and an initializer in, a learned word out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sentinv.concepts.initialization import Initialization, Initializer, starting_rows
from sentinv.files.decoding import Picture, picture_of
from sentinv.files.images import read_image
from sentinv.training.config import TrainConfig
from sentinv.training.train import train_concept

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone

ImageLike = str | Path | Image.Image | Picture


def invert(
    backbone: Backbone,
    images: ImageLike | Sequence[ImageLike],
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
        images: a picture or several of one thing: paths, Pillow images, or pictures with masks.
        initializer: what the words to start from are: a phrase, an `Initialization`, or any callable that looks at the
            first image and answers with one.
        config: hyper-parameters.
        token: the placeholder, lower case in angle brackets.
        max_vectors: the most vectors the word may have.
        **options: further arguments of `train_concept`, which see: checkpoints, resume, on_step.

    Returns:
        The concept, with the first image as its thumbnail. Transparent parts of a picture are not learned.

    Raises:
        SentinvError: As `train_concept` and `read_image`.
        ValueError: If there are no images.
    """
    sources = [images] if isinstance(images, ImageLike) else list(images)
    if not sources:
        raise ValueError("expected at least one image")
    pictures = [_picture(source) for source in sources]
    start = starting_rows(_ask(initializer, pictures[0].image), backbone, max_vectors)
    concept, _ = train_concept(backbone, pictures, start, config, token=token, **options)
    return concept.with_thumbnail(pictures[0].image)


def _picture(source: ImageLike) -> Picture:
    if isinstance(source, Image.Image):
        return picture_of(source)
    return source if isinstance(source, Picture) else read_image(source)


def _ask(initializer: str | Initialization | Initializer, image: Image.Image) -> Initialization:
    if isinstance(initializer, str):
        return Initialization(initializer)
    return initializer if isinstance(initializer, Initialization) else initializer(image)
