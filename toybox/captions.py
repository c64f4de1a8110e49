"""The language of the world: every phrasing in which a picture is described."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from sentinv.concepts.prompts import OBJECT_TEMPLATES, STYLE_TEMPLATES

__all__ = ["BARE_TEMPLATES", "OBJECT_TEMPLATES", "STYLED_TEMPLATES", "STYLE_TEMPLATES"]

# fmt: off
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
