"""The main job: images and an initializer in, a learned word out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from sentinv.concepts.initialization import Initialization, Initializer, Start, starting_rows
from sentinv.files.cropping import square
from sentinv.files.decoding import Picture, picture_of
from sentinv.files.images import read_image
from sentinv.initializers import INITIALIZERS
from sentinv.training.config import TrainConfig
from sentinv.training.train import train_concept

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone
    from sentinv.training.checkpoint import Checkpoints
    from sentinv.training.history import History
    from sentinv.training.loop import OnStep, Watch

ImageLike = str | Path | Image.Image | Picture
Words = str | Initialization | Initializer | Start
"""What the words to start from are, or who says them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """A learned word, and how it came about.

    Attributes:
        concept: the word, with the first image as its thumbnail.
        history: its losses.
        start: where its rows started.
        config: of the training.
        pictures: what it was learned from.
        device: where it was trained.
        dtype: precision of the frozen model.
    """

    concept: Concept
    history: History
    start: Start
    config: TrainConfig
    pictures: tuple[Picture, ...]
    device: str
    dtype: str


def invert(
    backbone: Backbone,
    images: ImageLike | Sequence[ImageLike],
    initializer: Words,
    config: TrainConfig | None = None,
    *,
    token: str = "<concept>",  # noqa: S107 - not a password
    max_vectors: int | None = None,
    checkpoints: Checkpoints | None = None,
    on_step: OnStep | None = None,
) -> Concept:
    """Learn a word for the thing in one image, or in several. `learn` does the same and tells more.

    Args:
        backbone: the model, of `sentinv.load`.
        images: a picture or several of one thing: paths, Pillow images, or pictures with masks. Of one that is not square, the
            square around the mask or in the middle is cut; `sentinv.files.cropping.square` cuts another.
        initializer: what the words to start from are: a phrase, an `Initialization`, or any callable that looks at the
            first image and answers with one, such as `sentinv.initializers.make("caption")`.
        config: hyper-parameters.
        token: the placeholder, lower case in angle brackets.
        max_vectors: the most vectors the word may have, ≥ 1.
        checkpoints: where they are written, and whether to go on from the newest.
        on_step: called with each step's record.

    Returns:
        The concept, with the first image as its thumbnail. Transparent parts of a picture are not learned.

    Raises:
        SentinvError: As `train_concept` and `read_image`.
        ValueError: If there are no images.
    """
    pictures = pictures_of(images)
    start = find_start(backbone, pictures, initializer, max_vectors)
    return learn(backbone, pictures, start, config, token=token, checkpoints=checkpoints, on_step=on_step).concept


def pictures_of(images: ImageLike | Sequence[ImageLike]) -> list[Picture]:
    """Read what is not read yet, and cut squares, with a warning where that leaves something out.

    Raises:
        SentinvError: As `read_image`.
        ValueError: If there are no images.
    """
    several = [images] if isinstance(images, ImageLike) else list(images)
    if not several:
        raise ValueError("expected at least one image")
    read = [
        one if isinstance(one, Picture) else picture_of(one) if isinstance(one, Image.Image) else read_image(one)
        for one in several
    ]
    return _squares(read)


def _squares(pictures: Sequence[Picture]) -> list[Picture]:
    squares = [square(picture) for picture in pictures]
    for before, after in zip(pictures, squares, strict=True):
        for text in after.notices[len(before.notices) :]:
            told = text.partition("; --crop")[0]
            warnings.warn(
                f"{told}; sentinv.files.cropping.square cuts another square, or keeps all of it", stacklevel=4
            )
    return squares


def find_start(
    backbone: Backbone, pictures: Sequence[Picture], initializer: Words, max_vectors: int | None = None
) -> Start:
    """Find the words for the first picture, and turn them into rows.

    Args:
        backbone: whose vocabulary the rows are taken from.
        pictures: of one thing.
        initializer: as `invert` takes it.
        max_vectors: the most vectors there may be, ≥ 1; has no effect on a `Start`, which is made already.

    Raises:
        PromptError: If there is nothing to start from.
        ConceptError: If a continued concept does not fit the backbone.
    """
    if isinstance(initializer, Start):
        return initializer
    if isinstance(initializer, str):
        if initializer in INITIALIZERS:
            warnings.warn(
                f"{initializer!r} is taken for the word that training starts from: if the initializer of that name is "
                f"meant, pass sentinv.initializers.make({initializer!r})",
                stacklevel=3,
            )
        initializer = Initialization(initializer)
    said = initializer if isinstance(initializer, Initialization) else initializer(square(pictures[0]).image)
    return starting_rows(said, backbone, max_vectors)


def learn(
    backbone: Backbone,
    pictures: Sequence[Picture],
    start: Start,
    config: TrainConfig | None = None,
    *,
    token: str = "<concept>",  # noqa: S107 - not a password
    checkpoints: Checkpoints | None = None,
    on_step: OnStep | None = None,
    watch: Watch | None = None,
) -> Learned:
    """Train the rows of a start, of `find_start`, and say all that a report tells. Otherwise as `train_concept`."""
    config, pictures = config or TrainConfig(), _squares(pictures)
    concept, history = train_concept(
        backbone, pictures, start, config, token=token, checkpoints=checkpoints, on_step=on_step, watch=watch
    )
    return Learned(
        concept=concept.with_thumbnail(pictures[0].image),
        history=history,
        start=start,
        config=config,
        pictures=tuple(pictures),
        device=str(backbone.device),
        dtype=str(backbone.dtype).removeprefix("torch."),
    )
