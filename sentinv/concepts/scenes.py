"""Places, styles and things that any model knows, for prompts that a word must leave as they are; words without their place."""

from __future__ import annotations

import re

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
"""Other things, of many kinds. Their number has no divisor in common with that of scenes and styles."""

_SCENE = re.compile(
    r" (?:sitting |standing |lying |laying |parked )?"
    r"(?:(?:on|in|at|inside|under|near|by|against|next to|on top of|in front of) (?:an?|the) "
    r"|(?:on|in|at) (?:space|sunset|sunrise|night|snow|sand|grass|water)\b).*"
)


def without_scene(words: str) -> str:
    """Leave out where a thing is: "a mug on the beach" → "a mug"."""
    return _SCENE.sub("", words)
