"""The scenes of the world: procedural backgrounds with depth, a fixed bank of variants each.

A scene has what lies behind the things and, in some, what passes before them: blades of grass, snowflakes, bubbles.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F

CANVAS = 168
"""Side of a background in pixels; pictures are crops of it."""

VARIANTS = 24
"""Backgrounds in the bank for each scene."""

Image = torch.Tensor  # [3, CANVAS, CANVAS] in [0, 1]


class _Painter:
    """Random numbers and brushes for one background."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        axis = (torch.arange(CANVAS) + 0.5) / CANVAS
        self.y, self.x = torch.meshgrid(axis, axis, indexing="ij")

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def noise(self, cells: int, octaves: int = 3, stretch: float = 1.0) -> torch.Tensor:
        """Smooth noise `[CANVAS, CANVAS]` of about unit range around 0; `stretch` widens it along x."""
        total = torch.zeros(CANVAS, CANVAS)
        for octave in range(octaves):
            rows = cells * 2**octave
            columns = max(2, round(rows / stretch))
            grid = torch.rand(1, 1, rows, columns, generator=self.generator) - 0.5
            total += F.interpolate(grid, size=(CANVAS, CANVAS), mode="bicubic")[0, 0] / 2**octave
        return total

    def shift(self, colour: tuple[float, float, float], amount: float = 0.04) -> torch.Tensor:
        """The colour, moved a little, as `[3, 1, 1]`."""
        move = (torch.rand(3, generator=self.generator) - 0.5) * 2 * amount
        return (torch.tensor(colour) + move).clamp(0, 1)[:, None, None]

    def gradient(self, top: tuple[float, float, float], bottom: tuple[float, float, float]) -> Image:
        return self.shift(top) * (1 - self.y) + self.shift(bottom) * self.y

    def below(self, height: torch.Tensor | float, softness: float = 0.012) -> torch.Tensor:
        """Mask `[CANVAS, CANVAS]` of what lies below a horizon."""
        return torch.sigmoid((self.y - height) / softness)

    def disc(self, cx: float, cy: float, radius: float, softness: float = 0.012) -> torch.Tensor:
        distance = ((self.x - cx) ** 2 + (self.y - cy) ** 2).sqrt()
        return torch.sigmoid((radius - distance) / softness)

    def dots(self, count: int, radius: tuple[float, float], top: float = 0.0, bottom: float = 1.0) -> torch.Tensor:
        mask = torch.zeros(CANVAS, CANVAS)
        for _ in range(count):
            spot = self.disc(self.uniform(0, 1), self.uniform(top, bottom), self.uniform(*radius), 0.006)
            mask = torch.maximum(mask, spot * self.uniform(0.6, 1))
        return mask

    def ridge(self, level: float, height: float, cells: int) -> torch.Tensor:
        """A jagged skyline `[1, CANVAS]`: straight pieces between random heights."""
        line = torch.zeros(1, CANVAS)
        for octave in (1, 3):
            points = torch.rand(1, 1, cells * octave + 1, generator=self.generator) - 0.5
            line += F.interpolate(points, size=CANVAS, mode="linear", align_corners=True)[0] / octave
        return level + height * line

    def blades(self, count: int, top: float) -> torch.Tensor:
        """Mask `[CANVAS, CANVAS]` of blades of grass that rise from the lower edge to about `top`."""
        mask = torch.zeros(CANVAS, CANVAS)
        for _ in range(count):
            foot, tip = self.uniform(0, 1), self.uniform(top, 0.5 + 0.5 * top)
            lean = self.uniform(-0.12, 0.12)
            rise = ((1 - self.y) / (1 - tip)).clamp(0, 1)
            centre = foot + lean * rise**2
            width = 0.009 * (1 - rise)
            mask = torch.maximum(mask, torch.sigmoid((width - (self.x - centre).abs()) / 0.003) * (self.y > tip))
        return mask

    def hills(self, level: float, height: float, waves: float) -> torch.Tensor:
        phase = self.uniform(0, 2 * math.pi)
        return level + height * torch.sin(self.x * waves * 2 * math.pi + phase)


def _mix(under: Image, over: Image, mask: torch.Tensor) -> Image:
    return under * (1 - mask) + over * mask


def _white(p: _Painter) -> Image:
    return p.gradient((0.95, 0.95, 0.95), (0.89, 0.89, 0.9))


def _beach(p: _Painter) -> Image:
    sea, sand = p.uniform(0.3, 0.4), p.uniform(0.54, 0.64)
    picture = p.gradient((0.45, 0.75, 0.98), (0.8, 0.93, 1.0))
    picture = _mix(picture, p.shift((0.1, 0.55, 0.75)) + 0.1 * p.noise(10, 2, 6), p.below(sea))
    shore = p.hills(sand, 0.015, p.uniform(0.8, 1.6))
    picture = _mix(picture, torch.ones(3, 1, 1) * 0.97, p.below(shore - 0.03))
    return _mix(picture, p.shift((0.95, 0.84, 0.6)) + 0.06 * p.noise(14), p.below(shore))


def _moon(p: _Painter) -> Image:
    picture = p.shift((0.03, 0.03, 0.06), 0.02) + p.dots(26, (0.004, 0.01), 0, 0.6)
    earth = p.disc(p.uniform(0.12, 0.88), p.uniform(0.1, 0.2), p.uniform(0.06, 0.09))
    picture = _mix(picture, p.shift((0.25, 0.5, 0.9)), earth)
    ground = p.shift((0.6, 0.6, 0.62)) + 0.12 * p.noise(8)
    for _ in range(7):
        cx, cy, r = p.uniform(0, 1), p.uniform(0.62, 1), p.uniform(0.03, 0.08)
        ground = ground - 0.2 * p.disc(cx, cy, r) + 0.16 * p.disc(cx + 0.012, cy + 0.016, r * 0.8)
    return _mix(picture, ground, p.below(p.hills(p.uniform(0.5, 0.58), 0.03, 0.7)))


def _snow(p: _Painter) -> Image:
    picture = p.gradient((0.62, 0.7, 0.8), (0.8, 0.86, 0.93))
    picture = _mix(picture, p.shift((0.78, 0.86, 0.96)), p.below(p.hills(0.45, 0.04, 1.0)))
    picture = _mix(picture, p.shift((0.95, 0.97, 1.0), 0.02) + 0.05 * p.noise(6), p.below(p.hills(0.58, 0.03, 0.7)))
    return _mix(picture, torch.ones(3, 1, 1), p.dots(36, (0.008, 0.016)))


def _grass(p: _Painter) -> Image:
    picture = p.gradient((0.5, 0.78, 0.98), (0.86, 0.95, 1.0))
    for _ in range(2):
        cloud = p.disc(p.uniform(0.1, 0.9), p.uniform(0.1, 0.25), p.uniform(0.05, 0.1), 0.03)
        picture = _mix(picture, torch.ones(3, 1, 1), 0.8 * cloud)
    field = p.shift((0.36, 0.68, 0.2)) + 0.16 * p.noise(10, 2, 0.35)
    return _mix(picture, field, p.below(p.hills(p.uniform(0.42, 0.5), 0.025, 0.8)))


def _forest(p: _Painter) -> Image:
    picture = p.gradient((0.08, 0.24, 0.1), (0.2, 0.42, 0.16)) + 0.14 * p.noise(7)
    for _ in range(6):
        cx, width = p.uniform(0, 1), p.uniform(0.025, 0.05)
        trunk = torch.sigmoid((width - (p.x - cx).abs()) / 0.008) * (1 - p.below(0.8))
        picture = _mix(picture, p.shift((0.3, 0.19, 0.1)), trunk)
    return _mix(picture, p.shift((0.24, 0.3, 0.1)) + 0.12 * p.noise(10), p.below(p.hills(0.78, 0.02, 1.0)))


def _table(p: _Painter) -> Image:
    picture = p.gradient((0.87, 0.83, 0.74), (0.8, 0.74, 0.64))
    wood = p.shift((0.62, 0.4, 0.21)) + 0.16 * p.noise(12, 2, 8)
    edge = p.uniform(0.42, 0.5)
    lines = torch.zeros(CANVAS, CANVAS)
    for plank in range(1, 4):
        lines = torch.maximum(lines, torch.exp(-(((p.y - edge - plank * 0.145) / 0.008) ** 2)))
    return _mix(picture, wood - 0.25 * lines, p.below(edge, 0.006))


def _desert(p: _Painter) -> Image:
    picture = p.gradient((0.98, 0.83, 0.52), (1.0, 0.93, 0.75))
    picture = _mix(picture, p.shift((0.88, 0.58, 0.28)), p.below(p.hills(0.42, 0.06, p.uniform(0.6, 1.0))))
    picture = _mix(picture, p.shift((0.8, 0.47, 0.2)), p.below(p.hills(0.56, 0.05, p.uniform(0.6, 1.1))))
    return _mix(picture, p.shift((0.86, 0.54, 0.25)), p.below(p.hills(0.72, 0.04, p.uniform(0.5, 1.0))))


def _underwater(p: _Painter) -> Image:
    picture = p.gradient((0.16, 0.62, 0.85), (0.02, 0.2, 0.45))
    slant = p.x + p.uniform(-0.5, 0.5) * p.y
    rays = torch.sin(slant * 2 * math.pi * p.uniform(2, 3.5) + p.uniform(0, 6)).clamp(min=0)
    picture = picture + 0.14 * rays * (1 - p.y)
    for _ in range(10):
        cx, cy, r = p.uniform(0, 1), p.uniform(0, 1), p.uniform(0.012, 0.028)
        picture = _mix(
            picture, p.shift((0.75, 0.93, 1.0)), 0.75 * (p.disc(cx, cy, r, 0.005) - p.disc(cx, cy, r * 0.55))
        )
    return picture


def _space(p: _Painter) -> Image:
    nebula = (p.noise(3, 3) + 0.25).clamp(0, 1)
    picture = p.shift((0.05, 0.03, 0.14), 0.02) + nebula * p.shift((0.42, 0.14, 0.5), 0.1)
    picture = picture + (p.noise(3, 2) * 0.5).clamp(min=0) * p.shift((0.1, 0.3, 0.7))
    return _mix(picture, torch.ones(3, 1, 1), p.dots(34, (0.004, 0.011)))


def _bricks(p: _Painter) -> Image:
    rows, columns = 9, 4.5
    row = (p.y * rows + p.uniform(0, 1)).floor()
    across = p.x * columns + 0.5 * (row % 2) + p.uniform(0, 1)
    tone = torch.sin(row * 12.9898 + across.floor() * 78.233) * 43758.5453 % 1
    wall = p.shift((0.66, 0.27, 0.2)) + 0.14 * (tone - 0.5)
    mortar = torch.maximum(((p.y * rows + 0.06) % 1 < 0.16).float(), (across % 1 < 0.07).float())
    return _mix(wall, p.shift((0.82, 0.77, 0.7)), mortar)


def _sunset(p: _Painter) -> Image:
    picture = p.gradient((0.4, 0.16, 0.5), (1.0, 0.62, 0.22))
    cx, cy = p.uniform(0.2, 0.8), p.uniform(0.38, 0.5)
    picture = picture + 0.22 * p.disc(cx, cy, 0.26, 0.08)
    picture = _mix(picture, p.shift((1.0, 0.9, 0.45)), p.disc(cx, cy, p.uniform(0.11, 0.15)))
    return _mix(picture, p.shift((0.16, 0.07, 0.17), 0.02), p.below(p.hills(0.66, 0.035, 0.9)))


def _mountains(p: _Painter) -> Image:
    picture = p.gradient((0.36, 0.6, 0.92), (0.85, 0.92, 0.98))
    for level, tone in ((0.3, (0.55, 0.62, 0.75)), (0.4, (0.38, 0.42, 0.52))):
        line = p.ridge(level, 0.3, 5)
        rock = p.shift(tone) + 0.12 * p.noise(12, 2, 0.5)
        snow = torch.sigmoid((line + 0.08 + 0.05 * p.noise(9, 1) - p.y) / 0.01)
        picture = _mix(picture, _mix(rock, torch.ones(3, 1, 1) * 0.95, snow), p.below(line, 0.004))
    meadow = p.shift((0.42, 0.6, 0.3)) + 0.1 * p.noise(12, 2, 2)
    return _mix(picture, meadow, p.below(p.hills(p.uniform(0.56, 0.64), 0.03, 0.8)))


def _city(p: _Painter) -> Image:
    picture = p.gradient((0.05, 0.06, 0.2), (0.3, 0.2, 0.42)) + p.dots(14, (0.003, 0.006), 0, 0.3)
    left = 0.0
    while left < 1:
        width, top = p.uniform(0.1, 0.2), p.uniform(0.12, 0.42)
        inside = (p.x >= left) & (p.x < left + width - 0.012) & (p.y > top)
        house = p.shift((0.13, 0.13, 0.22), 0.08).expand(3, CANVAS, CANVAS)
        columns, rows = ((p.x - left) * 34).floor(), ((p.y - top) * 30).floor()
        lit = torch.sin(columns * 12.99 + rows * 78.23 + top * 999) * 43758.55 % 1 > 0.55
        pane = ((p.x - left) * 34 % 1 > 0.35) & ((p.y - top) * 30 % 1 > 0.4) & lit
        house = torch.where(pane, p.shift((1.0, 0.85, 0.45)), house)
        picture = torch.where(inside, house, picture)
        left += width
    street = p.shift((0.2, 0.2, 0.24), 0.03) + 0.05 * p.noise(24, 1)
    stripe = ((p.y - 0.86).abs() < 0.012) & (p.x * 5 % 1 < 0.55)
    street = torch.where(stripe, p.shift((0.9, 0.85, 0.6)), street)
    curb = p.below(0.66, 0.004) * (1 - p.below(0.69, 0.004))
    return _mix(_mix(picture, street, p.below(0.66, 0.004)), p.shift((0.5, 0.5, 0.52)), curb)


def _room(p: _Painter) -> Image:
    wall = p.gradient((0.83, 0.86, 0.88), (0.74, 0.78, 0.82)) + p.shift((0.0, 0.0, 0.0), 0.12) * 0.6
    paper = (p.x * p.uniform(9, 14) % 1 < 0.5).float() * 0.035
    picture = wall - paper
    left, top = p.uniform(0.08, 0.6), p.uniform(0.08, 0.16)
    frame = (p.x > left) & (p.x < left + 0.3) & (p.y > top) & (p.y < top + 0.3)
    glass = ((p.x - left) % 0.15 > 0.015) & ((p.y - top) % 0.15 > 0.015) & (p.x < left + 0.285) & (p.y < top + 0.285)
    picture = torch.where(frame, torch.where(glass, p.shift((0.62, 0.82, 0.96)), p.shift((0.97, 0.97, 0.95))), picture)
    edge = p.uniform(0.58, 0.66)
    floor = p.shift((0.66, 0.46, 0.28)) + 0.08 * p.noise(14, 2, 5)
    depth = (p.y - edge).clamp(min=0.01)
    boards = (((p.x - 0.5) / (0.35 + depth) * 6) % 1 < 0.05).float()
    picture = _mix(picture, floor - 0.14 * boards, p.below(edge, 0.004))
    skirting = p.below(edge - 0.04, 0.004) * (1 - p.below(edge, 0.004))
    return _mix(picture, p.shift((0.95, 0.95, 0.93), 0.02), skirting)


SCENES: dict[str, Callable[[_Painter], Image]] = {
    "on a white background": _white,
    "on the beach": _beach,
    "on the moon": _moon,
    "in the snow": _snow,
    "on the grass": _grass,
    "in the forest": _forest,
    "on a wooden table": _table,
    "in the desert": _desert,
    "under the water": _underwater,
    "in space": _space,
    "in front of a brick wall": _bricks,
    "at sunset": _sunset,
    "in the mountains": _mountains,
    "in the city at night": _city,
    "in a room": _room,
}
"""Phrase → painter of every scene."""


def _layer(colour: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A premultiplied layer `[4, CANVAS, CANVAS]`."""
    return torch.cat([colour.expand(3, CANVAS, CANVAS) * mask, mask[None]])


def _grass_before(p: _Painter) -> torch.Tensor:
    return _layer(p.shift((0.2, 0.52, 0.14)) + 0.2 * p.noise(40, 1, 0.3), p.blades(46, 0.82))


def _snow_before(p: _Painter) -> torch.Tensor:
    return _layer(torch.ones(3, 1, 1), p.dots(12, (0.007, 0.014)))


def _forest_before(p: _Painter) -> torch.Tensor:
    return _layer(p.shift((0.1, 0.2, 0.06), 0.02), p.blades(26, 0.84))


def _underwater_before(p: _Painter) -> torch.Tensor:
    mask = torch.zeros(CANVAS, CANVAS)
    for _ in range(5):
        cx, cy, r = p.uniform(0, 1), p.uniform(0, 1), p.uniform(0.014, 0.03)
        mask = torch.maximum(mask, 0.7 * (p.disc(cx, cy, r, 0.004) - p.disc(cx, cy, r * 0.6, 0.004)).clamp(min=0))
    return _layer(p.shift((0.8, 0.95, 1.0), 0.02), mask)


BEFORE: dict[str, Callable[[_Painter], torch.Tensor]] = {
    "in the snow": _snow_before,
    "on the grass": _grass_before,
    "in the forest": _forest_before,
    "under the water": _underwater_before,
}
"""Phrase → painter of what passes before the things, of the scenes that have such."""

WITHOUT_SHADOW = ("under the water", "in space", "at sunset")
"""Scenes in which things don't stand on a lit ground."""


@lru_cache(maxsize=1)
def scene_bank() -> tuple[torch.Tensor, torch.Tensor]:
    """Every variant of every scene.

    Returns:
        Backgrounds `[scenes, VARIANTS, 3, CANVAS, CANVAS]` uint8, and what passes before the things,
        `[scenes, VARIANTS, 4, CANVAS, CANVAS]` uint8, premultiplied.
    """
    behind = torch.zeros(len(SCENES), VARIANTS, 3, CANVAS, CANVAS, dtype=torch.uint8)
    before = torch.zeros(len(SCENES), VARIANTS, 4, CANVAS, CANVAS, dtype=torch.uint8)
    for i, (name, paint) in enumerate(SCENES.items()):
        for v in range(VARIANTS):
            behind[i, v] = (paint(_Painter(1000 * i + v)).clamp(0, 1) * 255).round()
            if name in BEFORE:
                before[i, v] = (BEFORE[name](_Painter(1000 * i + 500 + v)).clamp(0, 1) * 255).round()
    return behind, before
