"""Words of the user's."""

from PIL import Image

from sentinv.concepts.initialization import Initialization
from sentinv.errors import PromptError


class Phrase:
    """Start from several words, such as "a cat with a rainbow striped tail".

    Raises:
        PromptError: If there are no words.
    """

    def __init__(self, phrase: str) -> None:
        if not phrase.strip():
            raise PromptError("expected a phrase to start from, got none: give at least a word")
        self.phrase = " ".join(phrase.split())

    def __call__(self, image: Image.Image) -> Initialization:
        """Answer with the phrase, whatever the image."""
        return Initialization(self.phrase, "phrase")
