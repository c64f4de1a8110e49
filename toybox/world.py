"""The world: captioned pictures of everyday objects in simple scenes, deterministic by seed.

A `Specs` says what a batch of pictures shows, with every random choice already drawn on the CPU; `render` turns it
into pixels on any device, `captions` into words.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F

from . import captions as language
from .glyphs import COLOURS, OBJECTS, SPRITE, sprite_bank
from .scenes import CANVAS, SCENES, VARIANTS, scene_bank
from .styles import STYLES, apply_styles

RESOLUTION = 64
"""Side of a picture in pixels."""

OBJECT_NAMES = tuple(OBJECTS)
COLOUR_NAMES = ("", *COLOURS)
SCENE_NAMES = tuple(SCENES)
HELD_OUT_SEEDS = range(900_000_000, 1_000_000_000)
"""Seeds of measurements and concepts; no training program draws from them."""


@dataclass
class Specs:
    """What a batch of N pictures shows. Index it with a slice or an index tensor."""

    object: torch.Tensor
    """`[N]` index into `OBJECT_NAMES`."""
    colour: torch.Tensor
    """`[N]` index into `COLOUR_NAMES`; 0 is the natural colour, which captions don't name."""
    pattern: torch.Tensor
    """`[N]` index into `captions.PATTERNS`."""
    scene: torch.Tensor
    """`[N]` index into `SCENE_NAMES`."""
    style: torch.Tensor
    """`[N]` index into `styles.STYLES`."""
    second: torch.Tensor
    """`[N]` index of a second object, -1 for none."""
    second_colour: torch.Tensor
    """`[N]` colour of the second object."""
    variant: torch.Tensor
    """`[N]` which background of the scene."""
    crop: torch.Tensor
    """`[N, 2]` top and left of the background's crop, in pixels."""
    mirror: torch.Tensor
    """`[N]` bool: the background is flipped."""
    scale: torch.Tensor
    """`[N]` the object's longer side as a share of the picture's."""
    angle: torch.Tensor
    """`[N]` rotation in radians."""
    shift: torch.Tensor
    """`[N, 2]` the object's centre (x, y) as an offset from the picture's, in half sides."""
    ink: torch.Tensor
    """`[N]` lightness of the pattern, 0 to 1."""
    wording: torch.Tensor
    """`[N, 6]` in [0, 1): the choices among phrasings."""

    def __len__(self) -> int:
        return len(self.object)

    def __getitem__(self, index: slice | torch.Tensor) -> Specs:
        return Specs(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    def replace(self, **changes: torch.Tensor | int) -> Specs:
        """A copy with some attributes changed; an int stands for all pictures."""
        full = {k: torch.full_like(getattr(self, k), v) if isinstance(v, int) else v for k, v in changes.items()}
        return dataclasses.replace(self, **full)


def sample_specs(count: int, seed: int) -> Specs:
    """Draw what `count` pictures show.

    Half of the objects keep their natural colour, a quarter have a pattern, half of the pictures are photos, and
    6 % show two objects, side by side.
    """
    g = torch.Generator().manual_seed(seed)

    def integers(high: int) -> torch.Tensor:
        return torch.randint(high, (count,), generator=g)

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=g)

    def maybe(chance: float, values: torch.Tensor, otherwise: int = 0) -> torch.Tensor:
        return torch.where(uniform() < chance, values, otherwise)

    objects = len(OBJECT_NAMES)
    colours = len(COLOUR_NAMES) - 1
    first = integers(objects)
    return Specs(
        object=first,
        colour=maybe(0.5, 1 + integers(colours)),
        pattern=maybe(0.25, 1 + integers(len(language.PATTERNS) - 1)),
        scene=integers(len(SCENE_NAMES)),
        style=maybe(0.5, 1 + integers(len(STYLES) - 1)),
        second=maybe(0.06, (first + 1 + integers(objects - 1)) % objects, otherwise=-1),
        second_colour=maybe(0.5, 1 + integers(colours)),
        variant=integers(VARIANTS),
        crop=torch.randint(CANVAS - RESOLUTION + 1, (count, 2), generator=g),
        mirror=uniform() < 0.5,
        scale=uniform(low=0.74, high=0.88),
        angle=uniform(low=-0.09, high=0.09),
        shift=uniform(2, low=-0.08, high=0.08),
        ink=torch.where(uniform() < 0.5, 0.96, 0.08),
        wording=uniform(6),
    )


def captions(specs: Specs) -> list[str]:
    """One caption for each picture, in any of the world's phrasings."""
    return [_caption(specs, i) for i in range(len(specs))]


def _caption(specs: Specs, i: int) -> str:
    phrase, extra, joiner, template, place, swap = specs.wording[i].tolist()
    style = int(specs.style[i])
    subject = _subject(specs, i, swap=swap < 0.3)
    if extra < 0.1:
        subject = f"{language.pick(language.filler_words(), extra * 10)} {subject}"
    if specs.second[i] >= 0:
        subject = f"{subject} {language.pick(language.JOINERS, joiner)} {_second(specs, i)}"
    scene = "" if place < 0.12 else f" {SCENE_NAMES[specs.scene[i]]}"
    if style and phrase < 0.15:
        words = language.pick(language.STYLE_TEMPLATES, template).format(STYLES[style]) + f" of a {subject}{scene}"
    elif style:
        words = language.pick(language.STYLED_TEMPLATES[style], template).format(subject) + scene
    elif phrase < 0.2:
        words = language.pick(language.BARE_TEMPLATES, template).format(subject) + scene
    else:
        words = language.pick(language.OBJECT_TEMPLATES, template).format(subject) + scene
    return language.with_article(words)


def plain_captions(specs: Specs) -> list[str]:
    """One canonical caption for each picture, which names everything: what the captioner learns to say."""
    out = []
    for i in range(len(specs)):
        words = f"a {_subject(specs, i)}"
        if specs.second[i] >= 0:
            words += f" and a {_second(specs, i)}"
        style = STYLES[specs.style[i]]
        prefix = {"photo": "a photo of ", "pixel art": "pixel art of "}.get(style, f"a {style} of ")
        out.append(language.with_article(f"{prefix}{words} {SCENE_NAMES[specs.scene[i]]}"))
    return out


def _subject(specs: Specs, i: int, swap: bool = False) -> str:
    pattern = language.PATTERNS[specs.pattern[i]] if specs.pattern[i] else ""
    return language.noun_phrase(OBJECT_NAMES[specs.object[i]], COLOUR_NAMES[specs.colour[i]], pattern, swap)


def _second(specs: Specs, i: int) -> str:
    return language.noun_phrase(OBJECT_NAMES[specs.second[i]], COLOUR_NAMES[specs.second_colour[i]], "")


@lru_cache(maxsize=4)
def _banks(device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return sprite_bank().to(device), scene_bank().to(device), _pattern_masks().to(device)


def _pattern_masks() -> torch.Tensor:
    """Where each pattern puts its ink: `[patterns, SPRITE, SPRITE]` in [0, 1]."""
    axis = (torch.arange(SPRITE) + 0.5) / SPRITE
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cell = 6.0
    stripes = ((x + y) * 0.5 * 9 % 1 < 0.45).float()
    fy, fx = y * cell % 1 - 0.5, (x * cell + 0.5 * ((y * cell).floor() % 2)) % 1 - 0.5
    dots = (fy**2 + fx**2 < 0.085).float()
    checks = (((x * cell).floor() + (y * cell).floor()) % 2).float()
    masks = torch.stack([torch.zeros_like(x), stripes, dots, checks])
    return F.avg_pool2d(masks[None], 3, 1, 1, count_include_pad=False)[0]


def apply_pattern(sprites: torch.Tensor, mask: torch.Tensor, ink: torch.Tensor) -> torch.Tensor:
    """Print a pattern onto premultiplied sprites `[N, 4, S, S]`: mask `[N, S, S]`, ink `[N]` lightness."""
    strength = 0.8 * mask[:, None]
    alpha = sprites[:, 3:]
    rgb = sprites[:, :3] * (1 - strength) + ink.view(-1, 1, 1, 1) * alpha * strength
    return torch.cat([rgb, alpha], 1)


def sprites(specs: Specs, device: str = "cpu") -> torch.Tensor:
    """The first object of each picture: `[N, 4, SPRITE, SPRITE]`, premultiplied."""
    bank, _, masks = _banks(device)
    chosen = bank[specs.object.to(device), specs.colour.to(device)]
    return apply_pattern(chosen, masks[specs.pattern.to(device)], specs.ink.to(device))


def strange_looks(
    specs: Specs, share: float, generator: torch.Generator, device: str = "cpu"
) -> tuple[Specs, torch.Tensor]:
    """Repaint a share of the first objects in blotches of two colours, which no caption names.

    A captioner that has seen them names the thing where it can't name the look.

    Returns:
        The specs, in which these objects have no colour and no pattern, and the sprites for `render`.
    """
    bank = _banks(device)[0]
    strange = torch.rand(len(specs), generator=generator) < share
    looks = torch.randint(len(COLOUR_NAMES), (2, len(specs)), generator=generator)
    noise = torch.rand(len(specs), 1, 5, 5, generator=generator) - 0.5
    noise = F.interpolate(noise, size=(SPRITE, SPRITE), mode="bicubic")
    blotches = torch.sigmoid(noise / 0.03).to(device)
    object_ = specs.object.to(device)
    first, second = (bank[object_, look.to(device)] for look in looks)
    mixed = first * blotches + second * (1 - blotches)
    chosen = torch.where(strange.to(device)[:, None, None, None], mixed, sprites(specs, device))
    plain = {name: torch.where(strange, 0, getattr(specs, name)) for name in ("colour", "pattern")}
    return specs.replace(**plain), chosen


def _place(sprite: torch.Tensor, scale: torch.Tensor, angle: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Resample premultiplied sprites onto the picture: `[N, 4, RESOLUTION, RESOLUTION]`."""
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    x, y = shift[:, 0], shift[:, 1]
    theta = torch.stack([cos, sin, -cos * x - sin * y, -sin, cos, sin * x - cos * y], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(sprite), 4, RESOLUTION, RESOLUTION], align_corners=False)
    return F.grid_sample(sprite, grid, mode="bilinear", align_corners=False)


def _add(picture: torch.Tensor, layer: torch.Tensor) -> torch.Tensor:
    """Lay a placed object over the picture, with a soft shadow below its lower edge."""
    alpha = layer[:, 3:]
    shadow = F.avg_pool2d(alpha, (1, 9), 1, (0, 4))
    rows = torch.arange(RESOLUTION, device=picture.device).view(1, 1, -1, 1)
    bottom = torch.where(alpha.amax(3, keepdim=True) > 0.5, rows, -1).amax(2, keepdim=True)
    width = shadow.mean(2, keepdim=True)
    width = width / width.amax(3, keepdim=True).clamp(min=1e-6)
    depth = torch.exp(-(((rows - bottom) / 2.5) ** 2))
    picture = picture * (1 - 0.4 * depth * width)
    return picture * (1 - alpha) + layer[:, :3]


def backgrounds(specs: Specs, device: str = "cpu") -> torch.Tensor:
    """The scene of each picture without its object: `[N, 3, RESOLUTION, RESOLUTION]` in [0, 1]."""
    bank = _banks(device)[1]
    out = []
    rows = zip(specs.scene.tolist(), specs.variant.tolist(), specs.crop.tolist(), specs.mirror.tolist(), strict=True)
    for scene, variant, (top, left), mirror in rows:
        view = bank[scene, variant, :, top : top + RESOLUTION, left : left + RESOLUTION]
        out.append(view.flip(-1) if mirror else view)
    return torch.stack(out)


def render(specs: Specs, first: torch.Tensor | None = None, device: str = "cpu") -> torch.Tensor:
    """Draw the pictures.

    Args:
        specs: what to draw.
        first: `[N, 4, SPRITE, SPRITE]`, premultiplied sprites to draw in place of the first object (a concept's).
        device: where to draw.

    Returns:
        `[N, 3, RESOLUTION, RESOLUTION]` float32 in [0, 1].
    """
    layer, _ = _layers(specs, first, device)
    picture = _add(backgrounds(specs, device), layer)
    pairs = (specs.second >= 0).nonzero()[:, 0].to(device)
    if len(pairs):
        bank = _banks(device)[0]
        other = bank[specs.second.to(device)[pairs], specs.second_colour.to(device)[pairs]]
        scale, angle, shift = (getattr(specs, k).to(device)[pairs] for k in ("scale", "angle", "shift"))
        shift = shift + torch.tensor([0.46, 0.1], device=device)
        picture[pairs] = _add(picture[pairs], _place(other, scale * 0.58, angle, shift))
    return apply_styles(picture.clamp(0, 1), specs.style.to(device))


def object_masks(specs: Specs, first: torch.Tensor | None = None, device: str = "cpu") -> torch.Tensor:
    """Where the first object is: `[N, 1, RESOLUTION, RESOLUTION]` in [0, 1]."""
    return _layers(specs, first, device)[1]


def _layers(specs: Specs, first: torch.Tensor | None, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    sprite = sprites(specs, device) if first is None else first.to(device)
    pair = (specs.second >= 0).to(device)
    scale = specs.scale.to(device) * torch.where(pair, 0.58, 1.0)
    aside = torch.tensor([-0.46, 0.1], device=device) * pair[:, None]
    layer = _place(sprite, scale, specs.angle.to(device), specs.shift.to(device) + aside)
    return layer, layer[:, 3:]
