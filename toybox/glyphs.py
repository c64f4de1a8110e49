"""The objects of the world, drawn from the Noto Color Emoji font, and the ways they are coloured."""

import unicodedata
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

SPRITE = 96
"""Side of a sprite in pixels; an object's longer side fills it."""

FONT_PATHS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
)

# fmt: off
OBJECTS = {
    "cat": "🐱", "dog": "🐶", "frog": "🐸", "rabbit": "🐰", "pig": "🐷", "penguin": "🐧",
    "elephant": "🐘", "turtle": "🐢", "fish": "🐟", "octopus": "🐙", "butterfly": "🦋", "duck": "🦆",
    "dinosaur": "🦕", "crab": "🦀", "panda": "🐼", "apple": "🍎", "banana": "🍌", "strawberry": "🍓",
    "pineapple": "🍍", "mushroom": "🍄", "sunflower": "🌻", "tree": "🌳", "cactus": "🌵", "car": "🚗",
    "bus": "🚌", "airplane": "✈", "sailboat": "⛵", "house": "🏠", "castle": "🏰", "tent": "⛺",
    "umbrella": "☂", "chair": "🪑", "book": "📕", "cup": "☕", "hat": "🎩", "shoe": "👟",
    "backpack": "🎒", "ball": "⚽", "balloon": "🎈", "bell": "🔔", "star": "⭐", "crown": "👑",
}
"""Name → glyph of every object the model is trained on."""

UNKNOWN_OBJECTS = {
    "snail": "🐌", "teapot": "🫖", "alarm clock": "⏰", "fox": "🦊", "guitar": "🎸", "rocket": "🚀",
    "cupcake": "🧁", "owl": "🦉", "motorcycle": "🏍", "teddy bear": "🧸", "watermelon": "🍉", "robot": "🤖",
}
"""Objects kept out of every training set: concepts to be learned from one picture."""

COLOURS = {
    "red": (222, 38, 38), "orange": (245, 138, 26), "yellow": (248, 216, 40), "green": (46, 164, 56),
    "teal": (22, 178, 178), "blue": (48, 88, 226), "purple": (134, 52, 196), "pink": (246, 126, 190),
}
"""Name → sRGB of every colour a caption can name."""
# fmt: on

_WIDER_RANGES = (
    (0x1F32D, 0x1F37F),
    (0x1F380, 0x1F393),
    (0x1F3A0, 0x1F3C0),
    (0x1F400, 0x1F43E),
    (0x1F451, 0x1F462),
    (0x1F4A0, 0x1F4FF),
    (0x1F526, 0x1F52E),
    (0x1F680, 0x1F6A4),
    (0x1F6F4, 0x1F6FC),
    (0x1F950, 0x1F96F),
    (0x1F980, 0x1F9CA),
    (0x1F9E0, 0x1F9FF),
    (0x1FA70, 0x1FA7C),
    (0x1FA80, 0x1FAAC),
    (0x1FAB0, 0x1FABA),
)
"""Blocks of animals, plants, food, vehicles and things."""

LUMA = (0.299, 0.587, 0.114)


def find_font() -> Path:
    """Return the path of the emoji font.

    Raises:
        SystemExit: it is not installed; the message names the Debian package.
    """
    for path in FONT_PATHS:
        if Path(path).is_file():
            return Path(path)
    raise SystemExit(
        "toybox: the world is drawn with the font Noto Color Emoji, which was not found; install it with "
        "`apt-get install fonts-noto-color-emoji`"
    )


@cache
def draw_glyph(glyph: str) -> torch.Tensor:
    """Draw one glyph, centred, its longer side filling the sprite.

    Returns:
        `[4, SPRITE, SPRITE]` float32 in [0, 1]: straight (not premultiplied) RGB and alpha.
    """
    font = ImageFont.truetype(str(find_font()), 109)
    canvas = Image.new("RGBA", (180, 180), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((20, 20), glyph, font=font, embedded_color=True)
    cut = canvas.crop(canvas.getbbox())
    factor = (SPRITE - 2) / max(cut.size)
    size = (max(1, round(cut.width * factor)), max(1, round(cut.height * factor)))
    cut = cut.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    sprite = Image.new("RGBA", (SPRITE, SPRITE), (0, 0, 0, 0))
    sprite.paste(cut, ((SPRITE - size[0]) // 2, (SPRITE - size[1]) // 2))
    return torch.from_numpy(np.asarray(sprite, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def colourise(sprite: torch.Tensor, colour: tuple[int, int, int]) -> torch.Tensor:
    """Repaint a sprite in tints and shades of one colour, its drawing kept as lightness.

    Args:
        sprite: `[4, H, W]` in [0, 1], straight RGB and alpha.
        colour: sRGB, 0 to 255.

    Returns:
        A new sprite of the same shape.
    """
    luma = (sprite[:3] * torch.tensor(LUMA)[:, None, None]).sum(0)
    inside = sprite[3] > 0.5
    low, high = torch.quantile(luma[inside], torch.tensor([0.02, 0.98]))
    level = ((luma - low) / (high - low).clamp(min=0.2)).clamp(0, 1)
    middle = level[inside].median().clamp(0.25, 0.75)
    # Below the median: from a dark shade to the pure colour; above it: on to a light tint.
    rgb = torch.tensor(colour, dtype=torch.float32)[:, None, None] / 255
    dark = (level / middle).clamp(0, 1)
    light = ((level - middle) / (1 - middle)).clamp(0, 1)
    shade = rgb * (0.3 + 0.7 * dark)
    return torch.cat([shade + (1 - shade) * 0.55 * light, sprite[3:]])


def premultiply(sprite: torch.Tensor) -> torch.Tensor:
    """Multiply the RGB of `[4, H, W]` by its alpha."""
    return torch.cat([sprite[:3] * sprite[3:], sprite[3:]])


@lru_cache(maxsize=1)
def wider_objects() -> dict[str, str]:
    """Name (Unicode's) → glyph of some 400 more objects, none of them known to the generator or a concept."""
    known = {*OBJECTS.values(), *UNKNOWN_OBJECTS.values()}
    font = ImageFont.truetype(str(find_font()), 109)
    blank = font.getmask("\U000e0000").getbbox()
    found = {}
    for first, last in _WIDER_RANGES:
        for glyph in map(chr, range(first, last + 1)):
            name = unicodedata.name(glyph, "").lower().replace("-", " ")
            if name and glyph not in known and name not in {*OBJECTS, *UNKNOWN_OBJECTS}:
                box = font.getmask(glyph).getbbox()
                if box is not None and box != blank:
                    found[name] = glyph
    return found


@lru_cache(maxsize=1)
def wider_bank() -> torch.Tensor:
    """`wider_objects` in their natural colours: `[objects, 4, SPRITE, SPRITE]` float32, premultiplied."""
    return torch.stack([premultiply(draw_glyph(glyph)) for glyph in wider_objects().values()])


@lru_cache(maxsize=1)
def sprite_bank() -> torch.Tensor:
    """All known objects in their natural colour (index 0) and in each named one.

    Returns:
        `[objects, 1 + colours, 4, SPRITE, SPRITE]` float32, premultiplied.
    """
    rows = []
    for glyph in OBJECTS.values():
        natural = draw_glyph(glyph)
        looks = [natural, *(colourise(natural, rgb) for rgb in COLOURS.values())]
        rows.append(torch.stack([premultiply(look) for look in looks]))
    return torch.stack(rows)
