"""Places, styles and things that any model knows, for prompts that a word must leave as they are; words without their place."""

from __future__ import annotations

import re
from pathlib import Path

from sentinv.errors import PromptError, SentinvError

SCENES = (
    "on the beach",
    "in the snow",
    "in the forest",
    "on a wooden table",
    "in the desert",
    "on the grass",
    "under the water",
    "in space",
    "in front of a brick wall",
    "at sunset",
    "on the moon",
    "on a white background",
    "in a kitchen",
    "on a city street",
)
"""Where a thing may be."""

STYLES = (
    "an oil painting of {}",
    "a watercolor of {}",
    "a pencil sketch of {}",
    "pixel art of {}",
)
"""How a picture of it may be made."""

THINGS = ("a dog", "a car", "a house", "a flower", "a cat", "a chair", "a boat", "a bird", "a cup", "a tree", "a fish")
"""Other things, of many kinds."""

_SCENE = re.compile(
    r" (?:sitting |standing |lying |laying |parked )?"
    r"(?:(?:on|in|at|inside|under|near|by|against|next to|on top of|in front of) (?:an?|the) "
    r"|(?:on|in|at) (?:space|sunset|sunrise|night|snow|sand|grass|water)\b).*"
)


def without_scene(words: str) -> str:
    """Leave out where a thing is: "a mug on the beach" → "a mug"."""
    return _SCENE.sub("", words)


def read_scenes(path: str | Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read places and styles from a UTF-8 text file: one a line; a style has ``{}`` where the thing goes.

    Empty lines and lines that start with ``#`` are skipped.

    Returns:
        Places and styles; the library's own where the file has none of a kind.

    Raises:
        PromptError: If nothing is left, or a line has more than one ``{}``.
        SentinvError: If the file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SentinvError(f"cannot read scenes from {path}: {error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    if not lines or any(line.count("{}") > 1 for line in lines):
        raise PromptError(
            f"{path}: expected lines such as 'on the moon' or 'a watercolor of {{}}', got none or two {{}} in one"
        )
    places = tuple(line for line in lines if "{}" not in line)
    styles = tuple(line for line in lines if "{}" in line)
    return places or SCENES, styles or STYLES
