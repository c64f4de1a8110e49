"""The language of the world: every phrasing in which a picture is described."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from sentinv.concepts.prompts import OBJECT_TEMPLATES, STYLE_TEMPLATES

from .art import HANDS
from .scenes import SCENES
from .styles import STYLES
from .things import THINGS, UNKNOWN_THINGS

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
SIGNED_TEMPLATES = (
    "a {} in the style of {hand}", "a drawing of a {} in the style of {hand}", "a picture of a {} by {hand}",
    "a {}{scene} in the style of {hand}", "a {}{scene} in the style of {hand}", "a drawing of the {} by {hand}",
)
"""Templates of things in the style of one who draws them."""
# fmt: on

COLOURS = {
    "red": (222, 38, 38), "orange": (245, 138, 26), "yellow": (248, 216, 40), "green": (46, 164, 56),
    "teal": (22, 178, 178), "blue": (48, 88, 226), "purple": (134, 52, 196), "pink": (246, 126, 190),
    "gray": (142, 146, 152),
}  # fmt: skip
"""Name → sRGB of every colour a caption can name."""

PATTERNS = ("plain", "striped", "dotted", "checkered")
"""Names of the patterns; captions don't name the first."""

JOINERS = ("and a", "and a", "next to a", "with a")


@lru_cache(maxsize=1)
def filler_words() -> tuple[str, ...]:
    """Common English words that name nothing in the world.

    They change nothing in a picture, so that the model learns to look past such words.
    """
    names = " ".join([*THINGS, *UNKNOWN_THINGS, *SCENES, *STYLES, *HANDS, *COLOURS, *PATTERNS])
    words = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split()
    return tuple(word for word in words if word not in set(names.split()))


def pick(options: Sequence[str], chance: float) -> str:
    """The option at `chance` in [0, 1)."""
    return options[min(int(chance * len(options)), len(options) - 1)]


def with_article(text: str) -> str:
    """Turn "a" into "an" before a vowel."""
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def signed(subject: str, scene: str, hand: str, phrase: float, template: float) -> str:
    """A caption that names the hand as its style; `phrase` and `template` in [0, 1) choose the words."""
    if phrase < 0.15:
        return pick(STYLE_TEMPLATES, template).format(hand) + f" of a {subject}{scene}"
    words = pick(SIGNED_TEMPLATES, template)
    place = "" if "{scene}" in words else scene
    return words.replace("{}", subject).replace("{scene}", scene).replace("{hand}", hand) + place


def noun_phrase(name: str, colour: str, pattern: str, swap: bool = False) -> str:
    """ "red striped cat"; empty colour and pattern are left out, `swap` puts the pattern first."""
    words = [pattern, colour] if swap else [colour, pattern]
    return " ".join([word for word in words if word] + [name])
