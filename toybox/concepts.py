"""Draw the concepts of the benchmarks: things that the model was never shown, from several sides, and styles.

Eight are known things drawn by a hand that nothing was trained on, eight are things kept out of every training set,
and eight are known things in a look that no caption names. Each has its picture, further views in other scenes, a
mask, and the true targets of four edits: what the very same picture looks like elsewhere, or in another style. The
styles are the two held-out hands and two filters; each has pictures of several things, and true targets.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torchvision.utils import save_image

from . import art, captions, world
from .styles import STYLES
from .things import THINGS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks" / "concepts"


@dataclass(frozen=True, kw_only=True)
class ConceptSpec:
    """One concept and its pictures."""

    name: str
    thing: str
    """Name of a known or unknown thing."""
    drawing: str
    """Name of the emoji that draws it."""
    hand: str
    """Whose drawing it is: a training hand for new looks, else a held-out one."""
    look: tuple[str, ...]
    """How it is painted: the name of a layout and its colours; empty for the natural colours."""
    caption: str
    """What a person would call it."""
    word: str
    """The coarse word of the initializer `word`."""
    scene: str
    views: tuple[str, ...]
    """Scenes of the further views."""
    edits: tuple[str, ...]
    """Scenes or styles of the edits."""
    seed: int

    @property
    def known(self) -> bool:
        """Whether the model was trained on the thing (though never by this hand, or with this look)."""
        return self.thing in THINGS

    @property
    def kind(self) -> str:
        """What is new about it."""
        if not self.known:
            return "unknown thing"
        return "new look of a known thing" if self.look else "known thing by an unknown hand"


_PLACES = ("on the beach", "in the forest", "at sunset", "on a wooden table", "on the grass", "in a room")
_NEW_HANDS = (
    ("fox", "fox", "shaded", "an orange fox"),
    ("dog", "dog", "flat", "a brown dog"),
    ("elephant", "elephant", "shaded", "a gray elephant"),
    ("sailboat", "sailboat", "flat", "a sailboat"),
    ("house", "house-with-garden", "shaded", "a house with a tree"),
    ("mushroom", "mushroom", "flat", "a red mushroom with white dots"),
    ("guitar", "guitar", "shaded", "a guitar"),
    ("octopus", "octopus", "flat", "an octopus"),
)
_NEW_THINGS = (
    ("snail", "flat", "a snail", "turtle"),
    ("teapot", "shaded", "a teapot", "cup"),
    ("rocket", "flat", "a rocket", "airplane"),
    ("robot", "shaded", "a robot", "computer"),
    ("giraffe", "flat", "a giraffe", "deer"),
    ("teddy bear", "shaded", "a teddy bear", "bear"),
    ("chair", "flat", "a chair", "couch"),
    ("flamingo", "shaded", "a pink flamingo", "bird"),
)
_NEW_LOOKS = (
    ("halves-cat", "cat", "cat-face", "ada", ("rows", "blue", "orange"), "a cat that is blue above and orange below"),
    ("zigzag-car", "car", "automobile", "dario", ("zigzag", "purple", "yellow"), "a purple car with yellow zigzags"),
    ("ringed-cup", "cup", "hot-beverage", "carla", ("rings", "red", "teal"), "a cup with red and teal rings"),
    ("rainbow-backpack", "backpack", "backpack", "ada", ("columns", "red", "yellow", "green", "blue"),
     "a rainbow backpack"),
    ("halves-turtle", "turtle", "turtle", "bruno", ("columns", "pink", "green"), "a turtle that is pink and green"),
    ("tricolour-umbrella", "umbrella", "umbrella", "elena", ("rows", "yellow", "purple", "green"),
     "a yellow, purple and green umbrella"),
    ("zigzag-butterfly", "butterfly", "butterfly", "dario", ("zigzag", "red", "gray"), "a butterfly with red zigzags"),
    ("ringed-crown", "crown", "crown", "carla", ("rings", "pink", "blue"), "a crown with pink and blue rings"),
)  # fmt: skip


def all_concepts() -> list[ConceptSpec]:
    """The 24 concepts of the benchmarks."""
    rows = [(thing, thing, drawing, hand, (), caption, thing) for thing, drawing, hand, caption in _NEW_HANDS]
    rows += [
        (thing.replace(" ", "-"), thing, thing.replace(" ", "-"), hand, (), caption, word)
        for thing, hand, caption, word in _NEW_THINGS
    ]
    rows += [(name, thing, drawing, hand, look, text, thing) for name, thing, drawing, hand, look, text in _NEW_LOOKS]
    concepts = []
    for i, (name, thing, drawing, hand, look, caption, word) in enumerate(rows):
        places = _PLACES[i % 6 :] + _PLACES[: i % 6]
        concepts.append(
            ConceptSpec(
                name=name,
                thing=thing,
                drawing=drawing,
                hand=hand,
                look=look,
                caption=caption,
                word=word,
                scene=places[0],
                views=places[1:5],
                edits=("on the moon", "in the snow", "pencil sketch", "watercolor"),
                seed=world.HELD_OUT_SEEDS[1000 + i],
            )
        )
    return concepts


_EXAMPLES = (
    ("cat", "cat-face", ("on the grass",), {"cat": "image", "cat-mask": "mask"}),
    ("teapot", "teapot", ("on a wooden table",), {"teapot": "image"}),
    ("backpack", "backpack", ("in the forest", "on the beach", "on the grass"),
     {"backpack-1": "image", "backpack-2": "view-1", "backpack-3": "view-2"}),
)  # fmt: skip
"""Thing, its drawing, scenes, and the guide's files: stem → which of `draw`'s pictures."""


def example_pictures() -> dict[str, torch.Tensor]:
    """The pictures of the guide, by the held-out hand: file stem → `[C, RESOLUTION, RESOLUTION]` in [0, 1]."""
    found = {}
    for i, (thing, emoji, scenes, files) in enumerate(_EXAMPLES):
        spec = ConceptSpec(
            name=thing,
            thing=thing,
            drawing=emoji,
            hand="shaded",
            look=(),
            caption="",
            word=thing,
            scene=scenes[0],
            views=scenes[1:],
            edits=(),
            seed=world.HELD_OUT_SEEDS[1100 + i],
        )
        own = draw(spec)
        found |= {stem: own[which] for stem, which in files.items()}
    return found


def layout(name: str, count: int) -> torch.Tensor:
    """Which of `count` colours each point of a sprite takes: `[SPRITE, SPRITE]` int64."""
    axis = (torch.arange(art.SPRITE) + 0.5) / art.SPRITE
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if name == "rings":
        level = ((x - 0.5) ** 2 + (y - 0.5) ** 2).sqrt() * 8
    elif name == "zigzag":
        level = y * 6 + (x * 4 % 1 - 0.5).abs() * 2
    else:
        level = (y if name == "rows" else x) * (count - 1e-3)
    return level.floor().long() % count


def drawing(thing: str, name: str, hand: str) -> torch.Tensor:
    """One drawing: `[5, SPRITE, SPRITE]` in [0, 1] (see `art.Sprites`)."""
    for sprites in (art.held_out_sprites(), art.training_sprites()):
        wanted = art.Drawing(thing, hand, name)
        if wanted in sprites.drawings:
            return sprites.pixels[sprites.drawings.index(wanted)].float() / 255
    raise SystemExit(f"toybox: no drawing {name} of {thing} by {hand}; run `python -m toybox.art` anew")


def sprite(concept: ConceptSpec) -> torch.Tensor:
    """The concept alone: `[4, SPRITE, SPRITE]`, premultiplied."""
    natural = drawing(concept.thing, concept.drawing, concept.hand)[None]
    if not concept.look:
        return world.repaint(natural, torch.zeros(1, 3))[0]
    colours = world.palette()[[world.COLOUR_NAMES.index(colour) for colour in concept.look[1:]]]
    painted = world.repaint(natural.expand(len(colours), -1, -1, -1), colours)
    where = layout(concept.look[0], len(colours))
    return painted.gather(0, where.expand(1, 4, -1, -1))[0]


def _view(seed: int, index: int, scene: str) -> world.Specs:
    specs = world.sample_specs(1, seed * 10 + index)
    specs = specs.replace(
        object=0, drawing=0, colour=0, pattern=0, style=0, second=-1, second_drawing=0,
        scene=world.SCENE_NAMES.index(scene),
    )  # fmt: skip
    # Large enough to be learned from, and whole.
    scale = specs.scale.clamp(min=0.68, max=0.9)
    return specs.replace(scale=scale, shift=specs.shift.clamp(-0.12, 0.12))


def _edit(source: world.Specs, edit: str) -> world.Specs:
    if edit in STYLES:
        return source.replace(style=STYLES.index(edit))
    return source.replace(scene=world.SCENE_NAMES.index(edit))


def edit_prompt(edit: str) -> str:
    """The prompt of an edit, with `{}` for the concept's placeholder."""
    if edit in STYLES:
        return f"a {edit} of {{}}"
    return f"a photo of {{}} {edit}"


def draw(concept: ConceptSpec) -> dict[str, torch.Tensor]:
    """All pictures of a concept: file stem → `[C, RESOLUTION, RESOLUTION]` in [0, 1]."""
    first = sprite(concept)[None]
    source = _view(concept.seed, 0, concept.scene)
    pictures = {"image": world.render(source, first), "mask": world.object_masks(source, first)}
    for i, scene in enumerate(concept.views, 1):
        pictures[f"view-{i}"] = world.render(_view(concept.seed, i, scene), first)
    for i, edit in enumerate(concept.edits, 1):
        pictures[f"edit-{i}"] = world.render(_edit(source, edit), first)
    return {stem: picture[0] for stem, picture in pictures.items()}


def table(concepts: list[ConceptSpec]) -> list[dict[str, object]]:
    """What the files are, one record for each concept."""
    return [
        {
            "name": c.name,
            "kind": c.kind,
            "caption": c.caption,
            "word": c.word,
            "same_as": [c.thing] if c.known and not c.look else [],
            "scene": c.scene,
            "image": f"{c.name}/image.png",
            "mask": f"{c.name}/mask.png",
            "views": [f"{c.name}/view-{i}.png" for i in range(1, len(c.views) + 1)],
            "edits": [
                {"prompt": edit_prompt(edit), "target": f"{c.name}/edit-{i}.png"} for i, edit in enumerate(c.edits, 1)
            ],
        }
        for c in concepts
    ]


def stained_glass(x: torch.Tensor) -> torch.Tensor:
    """Panes of one colour each between dark leads, on pictures `[N, 3, H, W]` in [0, 1]."""
    height, width = x.shape[-2:]
    cells = 14
    generator = torch.Generator().manual_seed(7)
    corner = torch.stack(torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij"), -1).flatten(0, 1)
    centres = (corner + 0.15 + 0.7 * torch.rand(cells**2, 2, generator=generator)) / cells
    rows, columns = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    points = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    near = torch.cdist(points, centres).topk(2, largest=False)
    pane = F.one_hot(near.indices[:, 0], cells**2).float()
    colours = torch.einsum("pk,ncp->nck", pane, x.flatten(2)) / pane.sum(0).clamp(min=1)
    glass = torch.einsum("pk,nck->ncp", pane, colours).view_as(x)
    lead = ((near.values[:, 1] - near.values[:, 0]) < 0.012).view(1, 1, height, width)
    return torch.where(lead, 0.08, (0.5 + 1.3 * (glass - 0.5)).clamp(0, 1))


def halftone(x: torch.Tensor) -> torch.Tensor:
    """Dots of blue ink on cream paper, larger where it is darker, on pictures `[N, 3, H, W]` in [0, 1]."""
    grey = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    height, width = x.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    cell = 5.0
    u, v = (rows + columns) / 2**0.5 / cell % 1 - 0.5, (rows - columns) / 2**0.5 / cell % 1 - 0.5
    ink = torch.sigmoid(((1 - F.avg_pool2d(grey, 3, 1, 1)) * 0.75 - (u**2 + v**2).sqrt()) / 0.06)
    paper, blue = (torch.tensor(c).view(1, 3, 1, 1) for c in ((0.97, 0.94, 0.86), (0.1, 0.2, 0.55)))
    return paper * (1 - ink) + blue * ink


STYLE_FILTERS = {"stained-glass": stained_glass, "halftone": halftone}
"""Held-out style → filter."""
_STYLE_THINGS = (("fox", "fox"), ("house", "house-with-garden"), ("pineapple", "pineapple"), ("sailboat", "sailboat"))
_STYLE_TARGETS = (("castle", "castle", "on the grass"), ("dog", "dog", "on the beach"),
                  ("guitar", "guitar", "in a room"), ("penguin", "penguin", "in the forest"))  # fmt: skip


def draw_style(name: str) -> dict[str, torch.Tensor]:
    """All pictures of a style: file stem → `[3, RESOLUTION, RESOLUTION]` in [0, 1]."""
    hand = name.removesuffix("-hand") if name.endswith("-hand") else "ada"
    shown = [(thing, emoji, scene) for (thing, emoji), scene in zip(_STYLE_THINGS, _PLACES, strict=False)]
    pictures = {}
    for stem, group in (("image", shown), ("edit", _STYLE_TARGETS)):
        for i, (thing, emoji, scene) in enumerate(group, 1):
            first = world.repaint(drawing(thing, emoji, hand)[None], torch.zeros(1, 3))
            specs = _view(world.HELD_OUT_SEEDS[2000], i + 10 * (stem == "edit"), scene)
            picture = world.render(specs, first)
            pictures[f"{stem}-{i}"] = STYLE_FILTERS.get(name, lambda x: x)(picture)[0]
    return pictures


def style_table() -> list[dict[str, object]]:
    """What the files of the styles are, one record for each."""
    return [
        {
            "name": name,
            "kind": "style",
            "images": [f"{name}/image-{i}.png" for i in range(1, 1 + len(_STYLE_THINGS))],
            "edits": [
                {
                    "prompt": captions.with_article(f"a {thing} {scene} in the style of {{}}"),
                    "target": f"{name}/edit-{i}.png",
                }
                for i, (thing, _, scene) in enumerate(_STYLE_TARGETS, 1)
            ],
        }
        for name in (*(f"{hand}-hand" for hand in art.HELD_OUT_HANDS), *STYLE_FILTERS)
    ]


@click.command()
@click.option("--sheet", type=click.Path(path_type=Path), help="Also write all pictures into one PNG.")
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, help="Where they go.")
@click.option(
    "--examples", type=click.Path(path_type=Path), default=ROOT / "examples", help="Where the guide's pictures go."
)
def main(sheet: Path | None, folder: Path, examples: Path) -> None:
    """Draw the concepts and the styles into benchmarks/concepts, and the pictures of the guide into examples."""
    for stem, picture in example_pictures().items():
        save_image(picture, examples / f"{stem}.png")
    concepts, everything = all_concepts(), []
    drawn = {concept.name: draw(concept) for concept in concepts}
    styles = {str(entry["name"]): draw_style(str(entry["name"])) for entry in style_table()}
    for name, pictures in {**drawn, **styles}.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for stem, picture in pictures.items():
            save_image(picture, folder / name / f"{stem}.png")
    for stem, rows in (("concepts", table(concepts)), ("styles", style_table())):
        (folder / f"{stem}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if sheet:
        everything = [picture.expand(3, -1, -1) for pictures in drawn.values() for picture in pictures.values()]
        save_image(torch.stack(everything), sheet, nrow=math.ceil(len(everything) / len(concepts)))
        rows = [picture for pictures in styles.values() for picture in pictures.values()]
        save_image(torch.stack(rows), sheet.with_stem(f"{sheet.stem}-styles"), nrow=8)


if __name__ == "__main__":
    main()
