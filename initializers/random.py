"""A word drawn from the vocabulary, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from PIL import Image

from sentinv.concepts.initialization import Initialization


class RandomWord:
    """Start from a word that has nothing to do with the image.

    Args:
        words: to draw from, or a function that gives them when they are needed.
        seed: equal seeds draw equal words.
    """

    def __init__(self, words: Sequence[str] | Callable[[], Sequence[str]], seed: int = 0) -> None:
        self.words = words
        self.seed = seed

    def __call__(self, image: Image.Image) -> Initialization:
        """Answer with the drawn word, whatever the image."""
        words = self.words() if callable(self.words) else self.words
        return Initialization(Random(self.seed).choice(words), "random")  # noqa: S311 - nothing to guess here
