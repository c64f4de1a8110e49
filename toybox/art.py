"""The artists' drawings: fetched by package name, drawn as sprites, and kept apart by who may see them.

Five sets of emoji are five hands that draw the same things, and what every part is trained on. Two further sets, flat
and shaded drawings of one designer, are held out: concepts and measurements are drawn with them, nothing else. The
packages go into an ignored folder; no art is committed but rendered examples.

    python -m toybox.art     fetch the packages, print their licences, draw the sprites: a minute
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
import unicodedata
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from .fit import RUNS
from .things import THINGS, UNKNOWN_THINGS

SPRITE = 128
"""Side of a sprite in pixels; a drawing's longer side fills it but for a pixel on each side."""

HANDS = {
    "ada": "noto",
    "bruno": "noto-v1",
    "carla": "twemoji",
    "dario": "emojione",
    "elena": "fxemoji",
}
"""What captions call a training hand → the set that it is."""

HELD_OUT_HANDS = {"flat": "fluent-emoji-flat", "shaded": "fluent-emoji"}
"""The hands that no training program sees."""

FOLDER = RUNS / "art"
TRAINING, WIDER, HELD_OUT = (RUNS / f"sprites-{name}" for name in ("training", "wider", "held-out"))
GROUPS = {"Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects"}

# fxemoji has names of its own, most of them Unicode's of 2014 without spaces.
_FXEMOJI = {
    "cat-face": "cat", "cat": "catside", "dog-face": "dog", "dog": "dogside", "pig-face": "pig", "pig": "pigside",
    "mouse-face": "mouse", "mouse": "mouseside", "rabbit-face": "bunny", "rabbit": "bunnyside", "hamster": "hampster",
    "leopard": "leopardside", "dragon-face": "dragonhead", "dragon": "dragonside", "spouting-whale": "spurtingwhale",
    "front-facing-baby-chick": "frontfacingchick", "evergreen-tree": "evergreen", "fallen-leaf": "fallingleaf",
    "leaf-fluttering-in-wind": "leaffluttering", "hot-pepper": "chilipepper", "bear": "bear", "wrapped-gift": "present",
    "globe-showing-europe-africa": "europeafricaglobe", "globe-showing-americas": "americasglobe",
    "globe-showing-asia-australia": "asiaaustraliaglobe", "snow-capped-mountain": "snowmountains",
    "bullet-train": "highspeedtrainbulletnose", "racing-car": "racecar", "hourglass-not-done": "hourglassflowingsand",
    "mantelpiece-clock": "manltepiececlock", "sun": "sunrays", "necktie": "necktie", "clutch-bag": "makeupbag",
    "high-heeled-shoe": "heels", "man-s-shoe": "mensshoe", "running-shoe": "mensrunner", "gem-stone": "gem",
    "megaphone": "megaphone", "loudspeaker": "loudspeaker", "studio-microphone": "studiomic",
    "mobile-phone": "cellphone", "video-camera": "handheldvideocamera", "light-bulb": "lightbulb",
    "magnifying-glass-tilted-left": "leftmagnifyingglass", "magnifying-glass-tilted-right": "rightmagnifyingglass",
    "notebook-with-decorative-cover": "notebookdecorativecover", "pen": "lowerleftpen", "file-folder": "folder",
    "closed-mailbox-with-raised-flag": "closedmailboxraised", "closed-mailbox-with-lowered-flag": "closedmailboxlowered",
    "woman-s-sandal": "sandals", "woman-s-boot": "boot", "bouquet": "bouquetofflowers", "star": "star",
    "motorcycle": "motorcycle", "ribbon": "bow", "t-shirt": "mansshirt", "computer-mouse": "onebuttonmouse",
}  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """One drawing of a thing by one hand."""

    thing: str
    hand: str
    name: str
    """Its emoji's name."""


@dataclass(frozen=True)
class Sprites:
    """Drawings and their pixels."""

    drawings: tuple[Drawing, ...]
    pixels: torch.Tensor
    """`[drawings, 5, SPRITE, SPRITE]` uint8: straight RGB, alpha, and lightness for repainting (see `levels`)."""


def fetch(packages: list[str]) -> None:
    """Fetch npm packages into `FOLDER`, those that are missing, and print what each is and its licence."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if shutil.which("npm") is None:
        raise SystemExit("toybox: the drawings are npm packages; install npm (Debian: `apt-get install npm`)")
    for package in packages:
        target = FOLDER / package.rpartition("/")[2]
        if not target.is_dir():
            command = ["npm", "pack", "--silent", "--pack-destination", str(FOLDER), package]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"toybox: {package} could not be fetched: {done.stderr.strip()[-200:]}")
            archive = FOLDER / done.stdout.split()[-1]
            with tarfile.open(archive) as tar:
                tar.extractall(FOLDER / "unpacked", filter="data")
            (FOLDER / "unpacked" / "package").rename(target)
            archive.unlink()
        about = json.loads((target / "package.json").read_text(encoding="utf-8"))
        print(f"{package} {about['version']}: {licence(target) or about['license']}", flush=True)


def licence(folder: Path) -> str:
    """Name of the licence and of the author that a set states, "" if it states none."""
    path = folder / "info.json"
    if not path.is_file():
        return ""
    info = json.loads(path.read_text(encoding="utf-8"))
    return f"{info['license']['title']}, {info['author']['name']} ({info['author'].get('url', '')})"


@cache
def _set(name: str) -> dict[str, dict]:
    """Icons of a set by name, aliases followed."""
    data = json.loads((FOLDER / name / "icons.json").read_text(encoding="utf-8"))
    size = {"width": data.get("width", 16), "height": data.get("height", 16)}
    icons = {key: {**size, **icon} for key, icon in data["icons"].items()}
    aliases = data.get("aliases", {})
    for key, alias in aliases.items():
        parent = alias["parent"]
        while parent in aliases:
            parent = aliases[parent]["parent"]
        if set(alias) == {"parent"}:  # turned or mirrored aliases are other pictures
            icons[key] = icons[parent]
    return icons


@cache
def emoji_names() -> dict[str, tuple[str, str]]:
    """Name of every emoji with hyphens → (its characters, its group)."""
    path = FOLDER / "unicode-emoji-json" / "data-by-emoji.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    return {entry["slug"].replace("_", "-"): (characters, entry["group"]) for characters, entry in data.items()}


def find(name: str, collection: str) -> str | None:
    """The name of an emoji in a set, None if the set lacks it."""
    icons = _set(collection)
    if collection != "fxemoji":
        plain = name.replace("man-s-", "mans-")
        return next((key for key in (name, plain) if key in icons), None)
    characters = emoji_names()[name][0].replace("\ufe0f", "") if name in emoji_names() else ""
    unicode_name = unicodedata.name(characters, "") if len(characters) == 1 else ""
    candidates = (_FXEMOJI.get(name, ""), re.sub("[^a-z0-9]", "", unicode_name.lower()), name.replace("-", ""))
    return next((key for key in candidates if key in icons), None)


def draw(icon: dict) -> np.ndarray | None:
    """Draw an icon, centred, its longer side filling the sprite: `[SPRITE, SPRITE, 4]` uint8, None if it is empty."""
    import cairosvg  # of the extra `toybox`

    left, top, width, height = (icon.get(k, d) for k, d in (("left", 0), ("top", 0), ("width", 16), ("height", 16)))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )
    try:
        png = cairosvg.svg2png(svg.encode(), output_width=320, output_height=round(320 * height / width))
    except MemoryError:  # what cairo says of a few drawings that it can't make
        return None
    drawn = Image.open(io.BytesIO(png)).convert("RGBA")
    box = drawn.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    if box is None:
        return None
    cut = drawn.crop(box)
    factor = (SPRITE - 2) / max(cut.size)
    size = (max(1, round(cut.width * factor)), max(1, round(cut.height * factor)))
    cut = cut.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    sprite = Image.new("RGBA", (SPRITE, SPRITE), (0, 0, 0, 0))
    sprite.paste(cut, ((SPRITE - size[0]) // 2, (SPRITE - size[1]) // 2))
    return np.asarray(sprite)


def levels(sprite: torch.Tensor) -> torch.Tensor:
    """Lightness of a drawing from its darkest to its lightest parts, .5 where it is as light as its median.

    Args:
        sprite: `[4, H, W]` float in [0, 1], straight RGB and alpha.

    Returns:
        `[H, W]` in [0, 1]; `world.repaint` makes shades and tints of one colour from it.
    """
    luma = (sprite[:3] * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    inside = sprite[3] > 0.5
    if not inside.any():
        return torch.full_like(luma, 0.5)
    low, high = torch.quantile(luma[inside], torch.tensor([0.02, 0.98]))
    level = ((luma - low) / (high - low).clamp(min=0.2)).clamp(0, 1)
    middle = level[inside].median().clamp(0.25, 0.75)
    return torch.where(level < middle, 0.5 * level / middle, 0.5 + 0.5 * (level - middle) / (1 - middle))


def _draw_all(jobs: list[tuple[Drawing, str, str]], target: Path) -> None:
    """Draw `(drawing, set, icon)` and save the sprites with their index."""
    with ProcessPoolExecutor() as pool:
        drawn = list(pool.map(draw, [_set(collection)[key] for _, collection, key in jobs], chunksize=16))
    for (drawing, collection, _), pixels in zip(jobs, drawn, strict=True):
        if pixels is None:
            print(f"{collection} can't be drawn: {drawing.name}")
    kept = [(job[0], pixels) for job, pixels in zip(jobs, drawn, strict=True) if pixels is not None]
    target.mkdir(parents=True, exist_ok=True)
    out = np.lib.format.open_memmap(
        target / "pixels.npy", mode="w+", dtype=np.uint8, shape=(len(kept), 5, SPRITE, SPRITE)
    )
    for row, (_, pixels) in zip(out, kept, strict=True):
        sprite = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        row[:4] = sprite.numpy()
        row[4] = (levels(sprite / 255) * 255).round().byte().numpy()
    out.flush()
    index = [vars(drawing) for drawing, _ in kept]
    (target / "index.json").write_text(json.dumps(index), encoding="utf-8")
    print(f"{target.name}: {len(kept)} drawings of {len({d.thing for d, _ in kept})} things", flush=True)


def jobs(things: dict[str, tuple[str, ...]], hands: dict[str, str]) -> list[tuple[Drawing, str, str]]:
    """What there is to draw: `(drawing, set, icon)` of every drawing of these things by these hands."""
    out = []
    for thing, names in things.items():
        for hand, collection in hands.items():
            keys = {find(name, collection): name for name in reversed(names)}
            out += [(Drawing(thing, hand, keys[key]), collection, key) for key in keys if key is not None]
    return out


def wider_things() -> dict[str, tuple[str, ...]]:
    """Every emoji of animals, plants, food, places and objects that is neither known nor held out, by its own name."""
    taken = {name for table in (THINGS, UNKNOWN_THINGS) for names in table.values() for name in names}
    taken |= {*THINGS, *UNKNOWN_THINGS}
    clocks = re.compile("o-clock|thirty|moon|cat-|monkey-|flag|wheelchair")
    return {
        name.replace("-", " "): (name,)
        for name, (_, group) in emoji_names().items()
        if group in GROUPS and name not in taken and name.replace("-", " ") not in taken and not clocks.search(name)
    }


@cache
def _load(folder: Path) -> Sprites:
    if not (folder / "index.json").is_file():
        raise SystemExit("toybox: no sprites yet; run `python -m toybox.art` first")
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    pixels = torch.from_numpy(np.load(folder / "pixels.npy"))
    return Sprites(tuple(Drawing(**entry) for entry in index), pixels)


def training_sprites() -> Sprites:
    """The known things by the training hands."""
    return _load(TRAINING)


def wider_sprites() -> Sprites:
    """Things that the generator can't draw, by the training hands: for the judge, under Unicode's names."""
    return _load(WIDER)


def held_out_sprites() -> Sprites:
    """All things, known and unknown, by the held-out hands, and the unknown ones by the training hands.

    For concepts and measurements only: no training program may call it.
    """
    return _load(HELD_OUT)


@click.command()
def main() -> None:
    """Fetch the artists' sets, print their licences, and draw all sprites."""
    sets = [*HANDS.values(), *HELD_OUT_HANDS.values()]
    fetch([*(f"@iconify-json/{name}" for name in sets), "unicode-emoji-json"])
    _draw_all(jobs(THINGS, HANDS), TRAINING)
    _draw_all(jobs(wider_things(), HANDS), WIDER)
    everything = {**THINGS, **UNKNOWN_THINGS}
    _draw_all(jobs(everything, HELD_OUT_HANDS) + jobs(UNKNOWN_THINGS, HANDS), HELD_OUT)


if __name__ == "__main__":
    main()
