"""Draw the concepts of the benchmarks: things that the model was never shown, from several sides.

Six are known objects with a look that no caption of the world names, six are objects kept out of every training
set. Each has its picture, further views in other scenes, a mask, and the true targets of four edits: what the very
same picture looks like elsewhere, or in another style.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torchvision.utils import save_image

from . import glyphs, world
from .styles import STYLES

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "concepts"


@dataclass(frozen=True, kw_only=True)
class ConceptSpec:
    """One concept and its pictures."""

    name: str
    object: str
    """Name of a known or unknown object."""
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
        """Whether the model was trained on the object (though never with this look)."""
        return self.object in glyphs.OBJECTS


_PLACES = ("on the beach", "in the forest", "at sunset", "on a wooden table", "on the grass", "in space")
_NEW_LOOKS = (
    ("halves-cat", "cat", ("rows", "blue", "orange"), "a cat that is blue above and orange below"),
    ("zigzag-car", "car", ("zigzag", "purple", "yellow"), "a purple car with yellow zigzags"),
    ("ringed-cup", "cup", ("rings", "red", "teal"), "a cup with red and teal rings"),
    ("rainbow-backpack", "backpack", ("columns", "red", "yellow", "green", "blue"), "a rainbow backpack"),
    ("halves-turtle", "turtle", ("columns", "pink", "green"), "a turtle that is pink and green"),
    ("tricolour-umbrella", "umbrella", ("rows", "yellow", "purple", "green"), "a yellow, purple and green umbrella"),
)
_NEW_OBJECTS = (
    ("snail", "a brown snail", "turtle"),
    ("teapot", "a red teapot", "cup"),
    ("fox", "an orange fox", "cat"),
    ("rocket", "a grey and red rocket", "airplane"),
    ("owl", "a brown owl", "penguin"),
    ("robot", "a grey robot with red ears", "dog"),
)


def all_concepts() -> list[ConceptSpec]:
    """The twelve concepts of the benchmarks."""
    rows = [(name, thing, look, caption, thing) for name, thing, look, caption in _NEW_LOOKS]
    rows += [(thing, thing, (), caption, word) for thing, caption, word in _NEW_OBJECTS]
    concepts = []
    for i, (name, thing, look, caption, word) in enumerate(rows):
        places = _PLACES[i % 6 :] + _PLACES[: i % 6]
        concepts.append(
            ConceptSpec(
                name=name,
                object=thing,
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


def layout(name: str, count: int) -> torch.Tensor:
    """Which of `count` colours each point of a sprite takes: `[SPRITE, SPRITE]` int64."""
    axis = (torch.arange(glyphs.SPRITE) + 0.5) / glyphs.SPRITE
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if name == "rings":
        level = ((x - 0.5) ** 2 + (y - 0.5) ** 2).sqrt() * 8
    elif name == "zigzag":
        level = y * 6 + (x * 4 % 1 - 0.5).abs() * 2
    else:
        level = (y if name == "rows" else x) * (count - 1e-3)
    return level.floor().long() % count


def sprite(concept: ConceptSpec) -> torch.Tensor:
    """The concept alone: `[4, SPRITE, SPRITE]`, premultiplied."""
    natural = glyphs.draw_glyph({**glyphs.OBJECTS, **glyphs.UNKNOWN_OBJECTS}[concept.object])
    if not concept.look:
        return glyphs.premultiply(natural)
    colours = [glyphs.colourise(natural, glyphs.COLOURS[colour]) for colour in concept.look[1:]]
    where = layout(concept.look[0], len(colours))
    painted = torch.stack(colours).gather(0, where.expand(1, 4, -1, -1))[0]
    return glyphs.premultiply(painted)


def _view(concept: ConceptSpec, index: int, scene: str) -> world.Specs:
    specs = world.sample_specs(1, concept.seed * 10 + index)
    return specs.replace(object=0, colour=0, pattern=0, style=0, second=-1, scene=world.SCENE_NAMES.index(scene))


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
    source = _view(concept, 0, concept.scene)
    pictures = {"image": world.render(source, first), "mask": world.object_masks(source, first)}
    for i, scene in enumerate(concept.views, 1):
        pictures[f"view-{i}"] = world.render(_view(concept, i, scene), first)
    for i, edit in enumerate(concept.edits, 1):
        pictures[f"edit-{i}"] = world.render(_edit(source, edit), first)
    return {stem: picture[0] for stem, picture in pictures.items()}


def table(concepts: list[ConceptSpec]) -> list[dict[str, object]]:
    """What the files are, one record for each concept."""
    return [
        {
            "name": c.name,
            "kind": "new look of a known object" if c.known else "unknown object",
            "caption": c.caption,
            "word": c.word,
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


@click.command()
@click.option("--sheet", type=click.Path(path_type=Path), help="Also write all pictures into one PNG.")
def main(sheet: Path | None) -> None:
    """Draw the concepts into benchmarks/concepts."""
    concepts, everything = all_concepts(), []
    for concept in concepts:
        folder = FOLDER / concept.name
        folder.mkdir(parents=True, exist_ok=True)
        for stem, picture in draw(concept).items():
            save_image(picture, folder / f"{stem}.png")
            everything.append(picture.expand(3, -1, -1))
    (FOLDER / "concepts.json").write_text(json.dumps(table(concepts), indent=1) + "\n", encoding="utf-8")
    if sheet:
        save_image(torch.stack(everything), sheet, nrow=math.ceil(len(everything) / len(concepts)))


if __name__ == "__main__":
    main()
