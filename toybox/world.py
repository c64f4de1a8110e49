"""The world: captioned pictures of everyday things in simple scenes, drawn by several hands, deterministic by seed.

A `Specs` says what a batch of pictures shows, with every random choice already drawn on the CPU; `render` turns it
into pixels on any device, `captions` into words. Things are drawn from the training hands only: the drawings of
others come in as `first` (see `concepts`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
import torch.nn.functional as F

from . import art
from . import captions as language
from .captions import COLOURS
from .scenes import CANVAS, SCENES, VARIANTS, WITHOUT_SHADOW, scene_bank
from .styles import STYLES, apply_styles
from .things import THINGS

RESOLUTION = 128
"""Side of a picture in pixels."""

OBJECT_NAMES = tuple(THINGS)
COLOUR_NAMES = ("", *COLOURS)
SCENE_NAMES = tuple(SCENES)
HAND_NAMES = tuple(art.HANDS)
HELD_OUT_SEEDS = range(900_000_000, 1_000_000_000)
"""Seeds of measurements and concepts; no training program draws from them."""


@dataclass
class Specs:
    """What a batch of N pictures shows. Index it with a slice or an index tensor."""

    object: torch.Tensor
    """`[N]` index into `OBJECT_NAMES`."""
    drawing: torch.Tensor
    """`[N]` index into `art.training_sprites().drawings`: a drawing of the object."""
    colour: torch.Tensor
    """`[N]` index into `COLOUR_NAMES`; 0 is the natural colour, which captions don't name."""
    pattern: torch.Tensor
    """`[N]` index into `captions.PATTERNS`."""
    scene: torch.Tensor
    """`[N]` index into `SCENE_NAMES`."""
    style: torch.Tensor
    """`[N]` index into `styles.STYLES`."""
    hand: torch.Tensor
    """`[N]` index into `HAND_NAMES`: who drew the object."""
    signed: torch.Tensor
    """`[N]` bool: the caption names the hand as its style."""
    second: torch.Tensor
    """`[N]` index of a second object, -1 for none."""
    second_drawing: torch.Tensor
    """`[N]` drawing of the second object, by the same hand where there is one; 0 for none."""
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


@cache
def drawings_by_hand() -> tuple[torch.Tensor, torch.Tensor]:
    """Which drawings there are of each thing.

    Returns:
        `[things, hands, most]` int64 indices into `art.training_sprites().drawings`, and `[things, hands]`, how many.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for index, drawing in enumerate(art.training_sprites().drawings):
        key = OBJECT_NAMES.index(drawing.thing), HAND_NAMES.index(drawing.hand)
        found.setdefault(key, []).append(index)
    table = torch.zeros(len(OBJECT_NAMES), len(HAND_NAMES), max(map(len, found.values())), dtype=torch.int64)
    counts = torch.zeros(table.shape[:2], dtype=torch.int64)
    for (thing, hand), indices in found.items():
        table[thing, hand, : len(indices)] = torch.tensor(indices)
        counts[thing, hand] = len(indices)
    return table, counts


def choose(thing: torch.Tensor, hand: torch.Tensor, chance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A drawing of each thing, by the hand asked for or the next that drew it: (drawing, hand)."""
    table, counts = drawings_by_hand()
    for _ in HAND_NAMES:
        hand = torch.where(counts[thing, hand] > 0, hand, (hand + 1) % len(HAND_NAMES))
    count = counts[thing, hand]
    return table[thing, hand, (chance * count).long().clamp(max=count - 1)], hand


def sample_specs(count: int, seed: int, plain: bool = False) -> Specs:
    """Draw what `count` pictures show.

    Half of the objects keep their natural colour, an eighth have a pattern, half of the pictures are photos, a quarter
    name their hand as the style, and a tenth show two objects, side by side.

    Args:
        count: N.
        seed: of every choice.
        plain: easy pictures, to begin with: one large object in its natural colour near the middle, no pattern, half
            of them on white.
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
    hand = integers(len(HAND_NAMES))
    drawing, drawn_by = choose(first, hand, uniform())
    signed = (uniform() < 0.25) & (drawn_by == hand)
    style = maybe(1 / 3, 1 + integers(len(STYLES) - 1))
    second = maybe(0.1, (first + 1 + integers(objects - 1)) % objects, otherwise=-1)
    second_drawing, _ = choose(second.clamp(min=0), drawn_by, uniform())
    scale = uniform(low=0.45, high=0.95)
    room = (1 - scale)[:, None]
    specs = Specs(
        object=first,
        drawing=drawing,
        colour=maybe(0.5, 1 + integers(colours)),
        pattern=maybe(0.125, 1 + integers(len(language.PATTERNS) - 1)),
        scene=integers(len(SCENE_NAMES)),
        style=torch.where(signed, 0, style),
        hand=drawn_by,
        signed=signed,
        second=second,
        second_drawing=torch.where(second >= 0, second_drawing, 0),
        second_colour=maybe(0.5, 1 + integers(colours)),
        variant=integers(VARIANTS),
        crop=torch.randint(CANVAS - RESOLUTION + 1, (count, 2), generator=g),
        mirror=uniform() < 0.5,
        scale=scale,
        angle=uniform(low=-0.09, high=0.09),
        shift=uniform(2, low=-1, high=1) * room + torch.tensor([0.0, 0.06]),
        ink=torch.where(uniform() < 0.5, 0.96, 0.08),
        wording=uniform(6),
    )
    # A hand is told by its own colours: three quarters of what is signed keeps them.
    keep = specs.signed & (specs.wording[:, 5] < 0.5)
    specs.colour[keep], specs.pattern[keep] = 0, 0
    if plain:
        specs = specs.replace(colour=0, pattern=0, second=-1, second_drawing=0, scale=0.75 + 0.3 * (scale - 0.45))
        specs = specs.replace(shift=specs.shift * 0.3, scene=torch.where(uniform() < 0.5, 0, specs.scene))
    return specs


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
    if specs.signed[i]:
        words = language.signed(subject, scene, HAND_NAMES[specs.hand[i]], phrase, template)
    elif style and phrase < 0.15:
        words = language.pick(language.STYLE_TEMPLATES, template).format(STYLES[style]) + f" of a {subject}{scene}"
    elif style:
        words = language.pick(language.STYLED_TEMPLATES[style], template).format(subject) + scene
    elif phrase < 0.2:
        words = language.pick(language.BARE_TEMPLATES, template).format(subject) + scene
    else:
        words = language.pick(language.OBJECT_TEMPLATES, template).format(subject) + scene
    return language.with_article(words)


def plain_captions(specs: Specs) -> list[str]:
    """One canonical caption for each picture, which names everything but the hand: what the captioner learns to say."""
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
def _banks(device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    banks = (art.training_sprites().pixels, *scene_bank(), _pattern_masks(), palette())
    return tuple(bank.to(device) for bank in banks)


def palette() -> torch.Tensor:
    """sRGB of each of `COLOUR_NAMES`, zeros for the natural colour: `[colours, 3]` in [0, 1]."""
    return torch.tensor([(0, 0, 0), *COLOURS.values()]) / 255


def _pattern_masks() -> torch.Tensor:
    """Where each pattern puts its ink: `[patterns, SPRITE, SPRITE]` in [0, 1]."""
    axis = (torch.arange(art.SPRITE) + 0.5) / art.SPRITE
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cell = 6.0
    stripes = ((x + y) * 0.5 * 9 % 1 < 0.45).float()
    fy, fx = y * cell % 1 - 0.5, (x * cell + 0.5 * ((y * cell).floor() % 2)) % 1 - 0.5
    dots = (fy**2 + fx**2 < 0.085).float()
    checks = (((x * cell).floor() + (y * cell).floor()) % 2).float()
    masks = torch.stack([torch.zeros_like(x), stripes, dots, checks])
    return F.avg_pool2d(masks[None], 3, 1, 1, count_include_pad=False)[0]


def repaint(sprites: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Repaint drawings in shades and tints of one colour each, and premultiply them.

    Args:
        sprites: `[N, 5, S, S]` in [0, 1]: straight RGB, alpha, level (see `art.levels`).
        colour: `[N, 3]` sRGB in [0, 1]; rows of zeros keep the natural colours.

    Returns:
        `[N, 4, S, S]`, premultiplied.
    """
    level = sprites[:, 4:]
    rgb = colour[:, :, None, None]
    shade = rgb * (0.3 + 0.7 * (2 * level).clamp(max=1))
    painted = shade + (1 - shade) * 0.55 * (2 * level - 1).clamp(min=0)
    natural = (colour.sum(1) == 0)[:, None, None, None]
    alpha = sprites[:, 3:4]
    return torch.cat([torch.where(natural, sprites[:, :3], painted) * alpha, alpha], 1)


def apply_pattern(sprites: torch.Tensor, mask: torch.Tensor, ink: torch.Tensor) -> torch.Tensor:
    """Print a pattern onto premultiplied sprites `[N, 4, S, S]`: mask `[N, S, S]`, ink `[N]` lightness."""
    strength = 0.8 * mask[:, None]
    alpha = sprites[:, 3:]
    rgb = sprites[:, :3] * (1 - strength) + ink.view(-1, 1, 1, 1) * alpha * strength
    return torch.cat([rgb, alpha], 1)


def drawn(drawing: torch.Tensor, colour: torch.Tensor, device: str = "cpu") -> torch.Tensor:
    """Training drawings `[N]` in colours `[N]` (0: natural): `[N, 4, SPRITE, SPRITE]`, premultiplied."""
    bank, *_, colours = _banks(device)
    return repaint(bank[drawing.to(device)].float() / 255, colours[colour.to(device)])


def sprites(specs: Specs, device: str = "cpu") -> torch.Tensor:
    """The first object of each picture: `[N, 4, SPRITE, SPRITE]`, premultiplied."""
    masks = _banks(device)[3]
    chosen = drawn(specs.drawing, specs.colour, device)
    return apply_pattern(chosen, masks[specs.pattern.to(device)], specs.ink.to(device))


def strange_looks(
    specs: Specs, share: float, generator: torch.Generator, device: str = "cpu"
) -> tuple[Specs, torch.Tensor]:
    """Repaint a share of the first objects in blotches of two colours, which no caption names.

    A captioner that has seen them names the thing where it can't name the look.

    Returns:
        The specs, in which these objects have no colour and no pattern, and the sprites for `render`.
    """
    strange = torch.rand(len(specs), generator=generator) < share
    looks = torch.randint(len(COLOUR_NAMES), (2, len(specs)), generator=generator)
    noise = torch.rand(len(specs), 1, 5, 5, generator=generator) - 0.5
    chosen = sprites(specs, device)
    if strange.any():
        size = (art.SPRITE, art.SPRITE)
        blotches = torch.sigmoid(F.interpolate(noise[strange], size=size, mode="bicubic") / 0.03).to(device)
        first, second = (drawn(specs.drawing[strange], look[strange], device) for look in looks)
        chosen[strange.to(device)] = first * blotches + second * (1 - blotches)
    plain = {name: torch.where(strange, 0, getattr(specs, name)) for name in ("colour", "pattern")}
    return specs.replace(**plain), chosen


def deform(sprites: torch.Tensor, natural: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Another hand's drawing, in a sense: sprites bent, sheared, mirrored, and those in natural colours tinted anew.

    What learns to tell things apart sees each of them by five hands only; so it must not learn five drawings by heart.

    Args:
        sprites: `[N, 4, S, S]`, premultiplied.
        natural: `[N]` bool: whose colours may change, since no caption names them.
        generator: of the choices, on the CPU.
    """
    count, device = len(sprites), sprites.device

    def uniform(*shape: int, size: float) -> torch.Tensor:
        return ((torch.rand(count, *shape, generator=generator) * 2 - 1) * size).to(device)

    theta = 1.08 * torch.eye(2, device=device).expand(count, 2, 2) + uniform(2, 2, size=0.16)
    theta[:, :, 0] *= torch.where(uniform(1, size=1.0) < 0, -1.0, 1.0)
    theta = torch.cat([theta, torch.zeros(count, 2, 1, device=device)], 2)
    bends = uniform(2, 4, 4, size=0.13)
    mixes = (torch.eye(3, device=device) + uniform(3, 3, size=0.22)) * (1 + uniform(1, 1, size=0.2))
    at_once = AT_ONCE if device.type == "cpu" else count
    parts = zip(*(x.split(at_once) for x in (sprites, theta, bends, mixes, natural.to(device))), strict=True)
    return torch.cat([_deform(*part) for part in parts])


def _deform(
    sprites: torch.Tensor, theta: torch.Tensor, bends: torch.Tensor, mix: torch.Tensor, natural: torch.Tensor
) -> torch.Tensor:
    """Sprites sheared by `theta` `[N, 2, 3]`, bent by `[N, 2, 4, 4]`, tinted by `mix` `[N, 3, 3]` where natural."""
    bend = F.interpolate(bends, size=sprites.shape[-2:], mode="bicubic").permute(0, 2, 3, 1)
    grid = F.affine_grid(theta, list(sprites.shape), align_corners=False) + bend
    bent = F.grid_sample(sprites, grid, mode="bilinear", align_corners=False)
    rgb, alpha = bent[:, :3], bent[:, 3:]
    tinted = torch.minimum(torch.einsum("nij,njhw->nihw", mix, rgb).clamp(min=0), alpha)
    return torch.cat([torch.where(natural[:, None, None, None], tinted, rgb), alpha], 1)


def lesson(
    specs: Specs, strange: float, deformed: float, generator: torch.Generator, device: str = "cpu"
) -> tuple[Specs, torch.Tensor]:
    """What those that look at pictures learn from: looks that no caption names, and drawings deformed.

    Returns:
        The specs, changed where looks were, and the sprites for `render`.
    """
    specs, first = strange_looks(specs, strange, generator, device)
    chosen = torch.rand(len(specs), generator=generator) < deformed
    natural = (specs.colour == 0) & (specs.pattern == 0)
    if chosen.any():
        first[chosen.to(device)] = deform(first[chosen.to(device)], natural[chosen], generator)
    return specs, first


def _place(sprite: torch.Tensor, scale: torch.Tensor, angle: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Resample premultiplied sprites onto the picture: `[N, 4, RESOLUTION, RESOLUTION]`."""
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    x, y = shift[:, 0], shift[:, 1]
    theta = torch.stack([cos, sin, -cos * x - sin * y, -sin, cos, sin * x - cos * y], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(sprite), 4, RESOLUTION, RESOLUTION], align_corners=False)
    # Where a sprite is made much smaller, each pixel takes the mean of what it covers.
    small = (scale < 0.65)[:, None, None, None]
    halved = F.interpolate(F.avg_pool2d(sprite, 2), scale_factor=2, mode="bilinear")
    return F.grid_sample(torch.where(small, halved, sprite), grid, mode="bilinear", align_corners=False)


def _add(picture: torch.Tensor, layer: torch.Tensor, shadow: torch.Tensor) -> torch.Tensor:
    """Lay a placed object over the picture, with a soft shadow of a strength `[N]` below its lower edge."""
    alpha = layer[:, 3:]
    unit = RESOLUTION / 64
    wide = 2 * round(4.5 * unit) + 1
    columns = F.avg_pool2d(alpha, (1, wide), 1, (0, wide // 2))
    rows = torch.arange(RESOLUTION, device=picture.device).view(1, 1, -1, 1)
    bottom = torch.where(alpha.amax(3, keepdim=True) > 0.5, rows, -1).amax(2, keepdim=True)
    width = columns.mean(2, keepdim=True)
    width = width / width.amax(3, keepdim=True).clamp(min=1e-6)
    depth = torch.exp(-(((rows - bottom) / (2.2 * unit)) ** 2))
    picture = picture * (1 - shadow.view(-1, 1, 1, 1) * depth * width)
    return picture * (1 - alpha) + layer[:, :3]


def _views(specs: Specs, bank: torch.Tensor) -> torch.Tensor:
    """Each picture's crop of a bank `[scenes, VARIANTS, C, CANVAS, CANVAS]`: `[N, C, RESOLUTION, RESOLUTION]`."""
    out = []
    rows = zip(specs.scene.tolist(), specs.variant.tolist(), specs.crop.tolist(), specs.mirror.tolist(), strict=True)
    for scene, variant, (top, left), mirror in rows:
        view = bank[scene, variant, :, top : top + RESOLUTION, left : left + RESOLUTION]
        out.append(view.flip(-1) if mirror else view)
    return torch.stack(out).float() / 255


def backgrounds(specs: Specs, device: str = "cpu") -> torch.Tensor:
    """The scene of each picture without its object: `[N, 3, RESOLUTION, RESOLUTION]` in [0, 1]."""
    return _views(specs, _banks(device)[1])


def render(specs: Specs, first: torch.Tensor | None = None, device: str = "cpu") -> torch.Tensor:
    """Draw the pictures.

    Args:
        specs: what to draw.
        first: `[N, 4, SPRITE, SPRITE]`, premultiplied sprites to draw in place of the first object (a concept's).
        device: where to draw.

    Returns:
        `[N, 3, RESOLUTION, RESOLUTION]` float32 in [0, 1].
    """
    if device == "cpu" and len(specs) > AT_ONCE:
        starts = range(0, len(specs), AT_ONCE)
        parts = [None] * len(starts) if first is None else first.split(AT_ONCE)
        return torch.cat([render(specs[i : i + AT_ONCE], part) for i, part in zip(starts, parts, strict=True)])
    shadow = torch.tensor([0.0 if name in WITHOUT_SHADOW else 0.45 for name in SCENE_NAMES], device=device)
    shadow = shadow[specs.scene.to(device)]
    picture = _add(backgrounds(specs, device), _layers(specs, first, device), shadow)
    pairs = (specs.second >= 0).nonzero()[:, 0].to(device)
    if len(pairs):
        other = drawn(specs.second_drawing.to(device)[pairs], specs.second_colour.to(device)[pairs], device)
        scale, angle, shift = (getattr(specs, k).to(device)[pairs] for k in ("scale", "angle", "shift"))
        layer = _place(other, _paired(scale), angle, shift * PAIR_SHIFT + torch.tensor([0.46, 0.1], device=device))
        picture[pairs] = _add(picture[pairs], layer, shadow[pairs])
    before = _views(specs, _banks(device)[2])
    picture = picture * (1 - before[:, 3:]) + before[:, :3]
    return apply_styles(picture.clamp(0, 1), specs.style.to(device))


AT_ONCE = 16
"""Pictures drawn at once on a CPU: so few stay in its cache."""

PAIR_SHIFT = 0.12
"""How much of its random offset each of two things keeps."""


def _paired(scale: torch.Tensor) -> torch.Tensor:
    """Size of each of two things: .4 to .55 of the picture."""
    return 0.4 + 0.3 * (scale - 0.45)


def object_masks(specs: Specs, first: torch.Tensor | None = None, device: str = "cpu") -> torch.Tensor:
    """Where the first object is seen: `[N, 1, RESOLUTION, RESOLUTION]` in [0, 1]."""
    return _layers(specs, first, device)[:, 3:] * (1 - _views(specs, _banks(device)[2])[:, 3:])


def _layers(specs: Specs, first: torch.Tensor | None, device: str) -> torch.Tensor:
    sprite = sprites(specs, device) if first is None else first.to(device)
    pair = (specs.second >= 0).to(device)
    scale = specs.scale.to(device)
    scale = torch.where(pair, _paired(scale), scale)
    shift = specs.shift.to(device) * torch.where(pair, PAIR_SHIFT, 1.0)[:, None]
    aside = torch.tensor([-0.46, 0.1], device=device) * pair[:, None]
    return _place(sprite, scale, specs.angle.to(device), shift + aside)
