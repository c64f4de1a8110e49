"""Draw, once, what the parts learn from that look at pictures: known things in every guise, and pairs for the judge.

To draw a picture takes as long as to learn from it, so all are kept and seen several times, now and then mirrored. Each
chunk of 1024 is drawn from a seed of its own and kept in two files, as the latents are (see `latents`). The first chunks
hold easy pictures, with which the trainings begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from . import art, vocabulary, world
from . import captions as language
from .fit import RUNS, workers
from .latents import tokenise

CHUNK = 1024
FIRST_SEED = 2_000_000
EASY_CHUNKS = 16
STRANGE, DEFORMED, WIDER = 0.15, 0.67, 0.35
"""Shares of known things in looks that no caption names, of deformed drawings, and, among pairs, of things that the
generator can't draw: a judge must tell these apart, too."""

Facts = dict[str, torch.Tensor]
"""What is known of each picture of a chunk."""


def lesson(index: int, device: str = "cpu") -> tuple[world.Specs, torch.Tensor, Facts]:
    """A chunk of known things: specs, sprites for `render`, and the specs as facts."""
    easy = index < EASY_CHUNKS
    generator = torch.Generator().manual_seed(FIRST_SEED + index)
    specs = world.sample_specs(CHUNK, FIRST_SEED + index, plain=easy)
    specs, first = world.lesson(specs, *((0, 0) if easy else (STRANGE, DEFORMED)), generator, device)
    return specs, first, vars(specs)


@cache
def _wider() -> tuple[tuple[str, ...], torch.Tensor, torch.Tensor]:
    """Names of the further things, their drawings `[things, most]` as indices into the bank, and how many each has."""
    found: dict[str, list[int]] = {}
    for index, drawing in enumerate(art.wider_sprites().drawings):
        found.setdefault(drawing.thing, []).append(index)
    table = torch.zeros(len(found), max(map(len, found.values())), dtype=torch.int64)
    for row, indices in zip(table, found.values(), strict=True):
        row[: len(indices)] = torch.tensor(indices)
    return tuple(found), table, torch.tensor([len(indices) for indices in found.values()])


def pairs(index: int, device: str = "cpu") -> tuple[world.Specs, torch.Tensor, Facts]:
    """A chunk whose first half shows the same things in the same colours as the second, and nothing else alike.

    Returns:
        Specs, sprites for `render`, and as facts: the caption's `tokens` `[CHUNK, L]`, and a `label` `[CHUNK]` that is equal
        where the thing and its colour are.
    """
    seed, half, easy = FIRST_SEED + index, CHUNK // 2, index < EASY_CHUNKS
    generator = torch.Generator().manual_seed(seed)
    specs = world.sample_specs(CHUNK, seed, plain=easy).replace(second=-1, second_drawing=0)
    hands = torch.randint(len(world.HAND_NAMES), (CHUNK,), generator=generator)
    for name in ("object", "colour", "pattern"):
        getattr(specs, name)[half:] = getattr(specs, name)[:half]
    specs.drawing, specs.hand = world.choose(specs.object, hands, torch.rand(CHUNK, generator=generator))
    specs.signed &= specs.hand == hands
    first = world.sprites(specs)
    words = world.captions(specs)
    label = specs.object * 1000 + specs.colour * 10 + specs.pattern

    names, table, counts = _wider()
    wide = (torch.arange(CHUNK) % half) >= half - round(WIDER * half)
    thing = torch.randint(len(names), (half,), generator=generator).repeat(2)
    pick = (torch.rand(CHUNK, generator=generator) * counts[thing]).long()
    bank = art.wider_sprites().pixels
    first[wide] = world.repaint(bank[table[thing, pick][wide]].float() / 255, world.palette()[specs.colour[wide]])
    specs = specs.replace(pattern=torch.where(wide, 0, specs.pattern))
    stand_in = world.captions(specs.replace(object=torch.where(wide, 0, specs.object)))
    for i in wide.nonzero()[:, 0].tolist():
        words[i] = language.with_article(stand_in[i].replace(world.OBJECT_NAMES[0], names[int(thing[i])], 1))
    label = torch.where(wide, -(thing * 1000 + specs.colour * 10) - 1, label)
    if not easy:
        bent = torch.rand(CHUNK, generator=generator) < DEFORMED
        natural = (specs.colour == 0) & (specs.pattern == 0)
        first[bent] = world.deform(first[bent], natural[bent], generator)
    tokens = tokenise(CLIPTokenizer.from_pretrained(vocabulary.JUDGE_FOLDER), words)
    return specs, first.to(device), {"tokens": tokens, "label": label}


KINDS = {"lessons": lesson, "pairs": pairs}


@dataclass(frozen=True)
class Lessons:
    """All chunks of a kind that have been drawn."""

    pictures: tuple[np.ndarray, ...]
    """Each `[CHUNK, 3, RESOLUTION, RESOLUTION]` uint8, through a memory map."""
    facts: Facts
    """Of all pictures in a row."""
    easy: int
    """Chunks of easy pictures, which come first."""

    def choose(self, count: int, easy: float, rows: int, generator: torch.Generator) -> torch.Tensor:
        """Numbers `[count]` of random pictures, each from an easy chunk with a chance `easy`, of its chunk's first `rows`."""
        chance = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        first = torch.rand(count, generator=generator) < easy
        chunk = (torch.where(first, self.easy, len(self.pictures)) * chance[:, 0]).long()
        return chunk * CHUNK + (chance[:, 1] * rows).long()

    def show(self, chosen: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
        """Pictures by their numbers `[N]`, some mirrored (`[N]` bool): `[N, 3, RESOLUTION, RESOLUTION]` in [0, 1]."""
        found = torch.from_numpy(np.stack([self.pictures[i // CHUNK][i % CHUNK] for i in chosen.tolist()]))
        return torch.where(mirrored[:, None, None, None], found.flip(-1), found).float() / 255

    def draw(self, count: int, easy: float, generator: torch.Generator) -> tuple[world.Specs, torch.Tensor]:
        """Random lessons: what `count` pictures show, and the pictures; those of two things are never mirrored."""
        chosen = self.choose(count, easy, CHUNK, generator)
        specs = world.Specs(**{name: values[chosen] for name, values in self.facts.items()})
        specs = specs.replace(wording=torch.rand(specs.wording.shape, generator=generator))
        mirrored = (torch.rand(count, generator=generator) < 0.5) & (specs.second < 0)
        return specs, self.show(chosen, mirrored)

    def draw_pairs(
        self, count: int, easy: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Random pairs: `count` pictures, their captions' tokens and their labels (see `pairs`)."""
        first = self.choose(count // 2, easy, CHUNK // 2, generator)
        chosen = torch.cat([first, first + CHUNK // 2])
        mirrored = torch.rand(count, generator=generator) < 0.5
        return self.show(chosen, mirrored), self.facts["tokens"][chosen], self.facts["label"][chosen]


def jostle(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures `[N, 3, H, W]` as if the camera had been elsewhere: nearer or farther by a fifth, moved by up to a tenth."""
    zoom, shift = torch.rand(len(pictures), 1, generator=generator), torch.rand(len(pictures), 2, generator=generator)
    theta = torch.eye(2, 3).repeat(len(pictures), 1, 1) * (0.83 + 0.37 * zoom[..., None])
    theta[:, :, 2] = 0.4 * shift - 0.2
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


@cache
def load(kind: str) -> Lessons:
    """The chunks of one of `KINDS` that have been drawn so far."""
    paths = sorted((RUNS / kind).glob("[0-9][0-9][0-9][0-9][0-9].npy"))
    if not paths:
        raise SystemExit(f"toybox: no {kind} yet; run `python -m toybox.lessons` first")
    facts = [load_file(path.with_suffix(".safetensors")) for path in paths]
    return Lessons(
        tuple(np.load(path, mmap_mode="r") for path in paths),
        {name: torch.cat([one[name] for one in facts]) for name in facts[0]},
        sum(int(path.stem) < EASY_CHUNKS for path in paths),
    )


def make_chunk(path: Path, index: int, device: str) -> None:
    """Draw and save one chunk of the kind that the path's folder is named after."""
    specs, first, facts = KINDS[path.parent.name](index, device)
    parts = [world.render(specs[i : i + 64], first[i : i + 64], device) for i in range(0, CHUNK, 64)]
    pictures = torch.cat([(part * 255).round().byte().cpu() for part in parts])
    save_file({name: values.contiguous() for name, values in facts.items()}, path.with_suffix(".safetensors"))
    np.save(path.with_suffix(".partial.npy"), pictures.numpy())
    path.with_suffix(".partial.npy").rename(path)


@click.command()
@click.option("--lessons", default=163840, show_default=True, help="Pictures for classifier, captioner and tower.")
@click.option("--pairs", default=98304, show_default=True, help="Pictures for the judge.")
def main(**counts: int) -> None:
    """Draw them; chunks that exist are kept."""
    me = workers()
    for kind, count in counts.items():
        (RUNS / kind).mkdir(parents=True, exist_ok=True)
        for index in range(me.rank, count // CHUNK, me.count):
            path = RUNS / kind / f"{index:05d}.npy"
            if not path.is_file():
                make_chunk(path, index, me.device)
                print(f"{kind}: {path.name} of {count // CHUNK}", flush=True)


if __name__ == "__main__":
    main()
