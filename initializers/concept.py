"""A concept that was learned before."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization


class Continue:
    """Start from the rows of a concept: to learn on, from more steps or more images.

    Args:
        concept: the concept or its file, which is read on first use.

    Raises:
        ConceptError: When called, if the file cannot be read.
    """

    def __init__(self, concept: Concept | str | Path) -> None:
        self.concept = concept

    def __call__(self, image: Image.Image) -> Initialization:
        """Answer with the concept, whatever the image."""
        if not isinstance(self.concept, Concept):
            self.concept = Concept.load(self.concept)
        return Initialization(self.concept.thing or self.concept.token, "concept", concept=self.concept)
