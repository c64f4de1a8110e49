"""The start of plain textual inversion, to compare with."""

from PIL import Image

from sentinv.concepts.initialization import Initialization


class Vanilla:
    """Start from ``*``: one vector that means nothing yet (Gal et al. 2022, arXiv:2208.01618)."""

    def __call__(self, image: Image.Image) -> Initialization:
        """Answer with ``*``, whatever the image."""
        return Initialization("*", "vanilla")
