"""A word of the user's."""

from PIL import Image

from sentinv.concepts.initialization import Initialization
from sentinv.errors import PromptError


class Word:
    """Start from one word. One that the tokenizer knows only in pieces gives a vector for each.

    Raises:
        PromptError: If it is not exactly one word.
    """

    def __init__(self, word: str) -> None:
        if len(word.split()) != 1:
            raise PromptError(f"expected one word to start from, got {word!r}: give a word, or several as a phrase")
        self.word = word.strip()

    def __call__(self, image: Image.Image) -> Initialization:
        """Answer with the word, whatever the image."""
        return Initialization(self.word, "word")
