"""The language of the world: every phrasing in which a picture is described."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

# fmt: off
OBJECT_TEMPLATES = (
    "a photo of a {}", "a rendering of a {}", "a cropped photo of the {}", "the photo of a {}",
    "a photo of a clean {}", "a photo of a dirty {}", "a dark photo of the {}", "a photo of my {}",
    "a photo of the cool {}", "a close-up photo of a {}", "a bright photo of the {}",
    "a cropped photo of a {}", "a photo of the {}", "a good photo of the {}", "a photo of one {}",
    "a close-up photo of the {}", "a rendition of the {}", "a photo of the clean {}",
    "a rendition of a {}", "a photo of a nice {}", "a good photo of a {}", "a photo of the nice {}",
    "a photo of the small {}", "a photo of the weird {}", "a photo of the large {}",
    "a photo of a cool {}", "a photo of a small {}",
)
"""The 27 object templates of textual inversion (Gal et al. 2022, appendix)."""

STYLE_TEMPLATES = (
    "a painting in the style of {}", "a rendering in the style of {}",
    "a cropped painting in the style of {}", "the painting in the style of {}",
    "a clean painting in the style of {}", "a dirty painting in the style of {}",
    "a dark painting in the style of {}", "a picture in the style of {}",
    "a cool painting in the style of {}", "a close-up painting in the style of {}",
    "a bright painting in the style of {}", "a cropped painting in the style of {}",
    "a good painting in the style of {}", "a close-up painting in the style of {}",
    "a rendition in the style of {}", "a nice painting in the style of {}",
    "a small painting in the style of {}", "a weird painting in the style of {}",
    "a large painting in the style of {}",
)
"""The 19 style templates of textual inversion."""

BARE_TEMPLATES = ("a {}", "the {}", "a {}", "a picture of a {}", "an image of a {}")

STYLED_TEMPLATES = (
    (),
    ("an oil painting of a {}", "an oil painting of the {}", "oil painting of a {}", "a painting of a {}"),
    ("a pencil sketch of a {}", "a pencil sketch of the {}", "a sketch of a {}", "a pencil drawing of a {}"),
    ("pixel art of a {}", "pixel art of the {}", "a pixel art picture of a {}", "a {} as pixel art"),
    ("a watercolor of a {}", "a watercolor of the {}", "a watercolor painting of a {}", "watercolor of a {}"),
)
"""Templates of each style, in the order of `styles.STYLES`."""
# fmt: on

PATTERNS = ("plain", "striped", "dotted", "checkered")
"""Names of the patterns; captions don't name the first."""

JOINERS = ("and a", "and a", "next to a", "with a")


@lru_cache(maxsize=1)
def filler_words() -> tuple[str, ...]:
    """1200 common English words: they change nothing in a picture, so the model learns to look past such words."""
    return tuple((Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split())


def pick(options: Sequence[str], chance: float) -> str:
    """The option at `chance` in [0, 1)."""
    return options[min(int(chance * len(options)), len(options) - 1)]


def with_article(text: str) -> str:
    """Turn "a" into "an" before a vowel."""
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def noun_phrase(name: str, colour: str, pattern: str, swap: bool = False) -> str:
    """ "red striped cat"; empty colour and pattern are left out, `swap` puts the pattern first."""
    words = [pattern, colour] if swap else [colour, pattern]
    return " ".join([word for word in words if word] + [name])
