"""The world of the built-in model: deterministic, faithful to its words, and ignorant of the concepts.

Drawn here with made-up sprites, so that the tests need no network; what the artists' sets hold is tested by names.
"""

import ast
import colorsys
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sentinv.concepts.initialization import Initialization
from toybox import art, concepts, judge, latents, lessons, styles, surety, things, world
from toybox import captions as language

ROOT = Path(__file__).resolve().parent.parent
LOAD = art._load


def made_up(things_: dict[str, tuple[str, ...]], hands: dict[str, str], seed: int) -> art.Sprites:
    """A blob for each drawing: another for every thing, another for every hand."""
    drawings = tuple(
        art.Drawing(thing, hand, name) for thing, names in things_.items() for hand in hands for name in names
    )
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(len(drawings), 4, 8, 8, generator=generator)
    axis = torch.linspace(-1, 1, 8)
    pixels[:, 3] = ((axis[:, None] ** 2 + axis**2) < 0.9).float()
    large = torch.nn.functional.interpolate(pixels, size=(art.SPRITE, art.SPRITE), mode="bilinear")
    levels = torch.stack([art.levels(sprite) for sprite in large])
    return art.Sprites(drawings, (torch.cat([large, levels[:, None]], 1) * 255).round().byte())


@pytest.fixture(scope="module", autouse=True)
def sprites():
    """Small tables of made-up drawings in place of the artists'."""
    known = {name: things.THINGS[name] for name in world.OBJECT_NAMES}
    tables = {
        art.TRAINING: made_up({name: names[:1] for name, names in known.items()}, {"ada": "", "carla": ""}, 1),
        art.WIDER: made_up({"boar": ("boar",), "ram": ("ram",)}, {"ada": ""}, 2),
    }
    patch = pytest.MonkeyPatch()
    patch.setattr(art, "_load", tables.__getitem__)
    for cached in (world.drawings_by_hand, world._banks, lessons._wider):
        cached.cache_clear()
    yield
    patch.undo()
    for cached in (world.drawings_by_hand, world._banks, lessons._wider):
        cached.cache_clear()


def test_same_seed_same_pictures_and_captions():
    first, again = (world.sample_specs(24, 5) for _ in range(2))
    assert torch.equal(world.render(first), world.render(again))
    assert world.captions(first) == world.captions(again)
    other = world.sample_specs(24, 6)
    assert not torch.equal(world.render(first), world.render(other))


def test_a_picture_does_not_depend_on_its_batch():
    specs = world.sample_specs(40, 9)
    whole = world.render(specs)
    parts = torch.cat([world.render(specs[start : start + 7]) for start in range(0, 40, 7)])
    assert torch.allclose(whole, parts, atol=1e-5)
    assert whole.shape == (40, 3, world.RESOLUTION, world.RESOLUTION)
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_captions_name_what_is_shown():
    specs = world.sample_specs(600, 11)
    specs.wording[:, 4] = 0.5  # the scene is named
    for i, text in enumerate(world.captions(specs)):
        words = text.split()
        assert world.OBJECT_NAMES[specs.object[i]] in text
        assert world.SCENE_NAMES[specs.scene[i]] in text
        if specs.colour[i]:
            assert world.COLOUR_NAMES[specs.colour[i]] in words
        if specs.pattern[i]:
            assert language.PATTERNS[specs.pattern[i]] in words
        assert " a a" not in text
        assert " a o" not in text
        if specs.signed[i]:
            assert world.HAND_NAMES[specs.hand[i]] in words
        else:
            assert not {*world.HAND_NAMES} & {*words}


def test_all_training_templates_occur():
    texts = " | ".join(world.captions(world.sample_specs(20000, 13)))
    starts = [template.split(" {}")[0] for template in language.OBJECT_TEMPLATES + language.STYLE_TEMPLATES]
    assert len(starts) == 27 + 19
    assert [start for start in starts if start not in texts and f"{start}n" not in texts] == []


def test_the_world_is_large_enough():
    assert len(things.THINGS) >= 250
    assert len(language.COLOURS) >= 9
    assert len(world.SCENE_NAMES) >= 12
    assert len(styles.STYLES) + len(art.HANDS) >= 8
    specs = world.sample_specs(4000, 1)
    assert (specs.second >= 0).float().mean() == pytest.approx(0.1, abs=0.02)
    assert specs.scale.min() >= 0.45
    assert specs.scale.max() <= 0.95


def test_easy_pictures_show_one_thing_in_its_own_colours():
    specs = world.sample_specs(400, 3, plain=True)
    assert (specs.second < 0).all()
    assert (specs.colour == 0).all()
    assert (specs.scale >= 0.75).all()


@pytest.mark.parametrize("colour", [name for name in language.COLOURS if name != "gray"])
def test_a_colour_is_seen(colour):
    """Repainted drawings are nearest, in hue, to the colour they are said to have."""
    hues = {name: colorsys.rgb_to_hsv(*(v / 255 for v in rgb))[0] for name, rgb in language.COLOURS.items()}
    del hues["gray"]
    index = world.COLOUR_NAMES.index(colour)
    painted = world.drawn(torch.arange(0, 60, 7), torch.full((9,), index))
    for sprite in painted:
        mean = sprite[:3].sum((1, 2)) / sprite[3:].sum()
        hue = colorsys.rgb_to_hsv(*mean.tolist())[0]
        distance = {name: min(abs(hue - other), 1 - abs(hue - other)) for name, other in hues.items()}
        assert min(distance, key=distance.get) == colour


def test_natural_colours_stay():
    sprites = art.training_sprites()
    kept = world.drawn(torch.arange(4), torch.zeros(4, dtype=torch.int64))
    straight = sprites.pixels[:4].float() / 255
    assert torch.allclose(kept, torch.cat([straight[:, :3] * straight[:, 3:4], straight[:, 3:4]], 1))


def test_a_deformed_drawing_keeps_the_colours_that_a_caption_names():
    """And is another drawing; premultiplied colour never exceeds its alpha."""
    sprites = world.drawn(torch.arange(8), torch.tensor([0, 1] * 4))
    natural = torch.tensor([True, False] * 4)
    bent = world.deform(sprites, natural, torch.Generator().manual_seed(0))
    assert (bent - sprites).abs().mean() > 0.01
    assert (bent[:, :3] <= bent[:, 3:] + 1e-5).all()
    red = bent[1::2]
    assert (red[:, 0] >= red[:, 1] - 1e-3).all()


def test_known_and_unknown_things_share_no_drawing():
    known = {name for names in things.THINGS.values() for name in names}
    unknown = {name for names in things.UNKNOWN_THINGS.values() for name in names}
    assert len(things.UNKNOWN_THINGS) == 24
    assert not {*things.THINGS} & {*things.UNKNOWN_THINGS}
    assert not known & unknown
    assert len(known) == sum(len(names) for names in things.THINGS.values())
    assert not {*art.HANDS.values()} & {*art.HELD_OUT_HANDS.values()}


def test_the_judge_sees_no_unknown_thing_either(monkeypatch):
    everything = {*things.THINGS, *things.UNKNOWN_THINGS, "teddy-bear", "boar"}
    monkeypatch.setattr(art, "emoji_names", lambda: dict.fromkeys(everything, ("", "Animals & Nature")))
    assert set(art.wider_things()) == {"boar"}


def test_no_training_program_can_see_what_is_held_out():
    """Only concepts and measurements name the held-out drawings, and no program imports either of these."""
    for path in (ROOT / "toybox").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        if path.name not in {"concepts.py", "measure.py", "art.py"}:
            assert not {"held_out_sprites", "HELD_OUT", "HELD_OUT_HANDS"} & names, path.name
            assert not {"concepts", "measure"} & imported, path.name


def test_concepts_are_held_out():
    """No training program draws a concept's seed, thing or hand, or paints in its look."""
    everything = concepts.all_concepts()
    assert len(everything) == 24
    assert [sum(c.kind == kind for c in everything) for kind in sorted({c.kind for c in everything})] == [8, 8, 8]
    # Training seeds are below 2**29 (drawn per step) or start at FIRST_SEED (the pool of latents).
    assert world.HELD_OUT_SEEDS.start > 2**29
    assert world.HELD_OUT_SEEDS.start > latents.FIRST_SEED + 10**6
    for concept in everything:
        assert concept.hand in art.HELD_OUT_HANDS or (concept.known and len(concept.look) > 2)
        assert concept.known or concept.thing in things.UNKNOWN_THINGS


def test_an_edit_changes_one_thing(monkeypatch):
    """The target of a scene edit is the same thing in the same place."""
    sprite = art.training_sprites().pixels[0].float() / 255
    monkeypatch.setattr(concepts, "drawing", lambda *_: sprite)
    for concept in concepts.all_concepts()[::8]:
        pictures = concepts.draw(concept)
        mask = (pictures["mask"] > 0.99).float()
        inside = ((pictures["image"] - pictures["edit-1"]).abs() * mask).sum() / (3 * mask.sum())
        outside = ((pictures["image"] - pictures["edit-1"]).abs() * (1 - mask)).sum() / (3 * (1 - mask).sum())
        assert inside < 0.02
        assert outside > 0.1


def test_aliases_are_followed_but_for_turned_ones(monkeypatch, tmp_path):
    data = {
        "icons": {"fox-face": {"body": "<g/>"}},
        "aliases": {"fox": {"parent": "fox-face"}, "vixen": {"parent": "fox"}, "xof": {"parent": "fox", "hFlip": True}},
        "width": 64,
        "height": 32,
    }
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "icons.json").write_text(json.dumps(data))
    monkeypatch.setattr(art, "FOLDER", tmp_path)
    icons = art._set.__wrapped__("some")
    assert icons["vixen"] == icons["fox"] == {"body": "<g/>", "width": 64, "height": 32}
    assert "xof" not in icons


def test_without_sprites_or_npm_the_advice_is_one_line(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=r"run `python -m toybox\.art` first") as told:
        LOAD(tmp_path)
    assert "\n" not in str(told.value)
    monkeypatch.setattr(art, "FOLDER", tmp_path)
    monkeypatch.setattr(art.shutil, "which", lambda _: None)
    with pytest.raises(SystemExit, match="apt-get install npm"):
        art.fetch(["anything"])


@pytest.fixture
def drawn_lessons(tmp_path, monkeypatch):
    """Two small chunks of each kind, the first of easy pictures."""
    monkeypatch.setattr(lessons, "RUNS", tmp_path)
    monkeypatch.setattr(lessons, "CHUNK", 16)
    monkeypatch.setattr(lessons, "EASY_CHUNKS", 1)
    tokenizer = SimpleNamespace(model_max_length=8, from_pretrained=lambda folder: tokenizer)
    monkeypatch.setattr(lessons, "CLIPTokenizer", tokenizer)
    monkeypatch.setattr(lessons, "tokenise", lambda _, words: torch.tensor([list(word.encode()[:8]) for word in words]))
    for kind in lessons.KINDS:
        (tmp_path / kind).mkdir()
        for index in range(2):
            lessons.make_chunk(tmp_path / kind / f"{index:05d}.npy", index, "cpu")
    lessons.load.cache_clear()
    yield {kind: lessons.load(kind) for kind in lessons.KINDS}
    lessons.load.cache_clear()


def test_lessons_show_what_their_specs_say(drawn_lessons):
    specs, pictures = drawn_lessons["lessons"].draw(40, 1.0, torch.Generator().manual_seed(1))
    assert (specs.second < 0).all() and not specs.pattern.any()  # easy ones
    again, same = drawn_lessons["lessons"].draw(40, 1.0, torch.Generator().manual_seed(1))
    assert torch.equal(specs.object, again.object) and torch.equal(pictures, same)
    wanted = world.render(specs)  # easy pictures are not deformed
    either = torch.minimum(
        (pictures - wanted).abs().amax((1, 2, 3)), (pictures - wanted.flip(-1)).abs().amax((1, 2, 3))
    )
    assert either.max() < 3 / 255

    hard, _ = drawn_lessons["lessons"].draw(200, 0.0, torch.Generator().manual_seed(2))
    assert hard.pattern.any() and hard.colour.any()


def test_pairs_share_their_thing_and_its_colour_and_nothing_else(drawn_lessons):
    every = drawn_lessons["pairs"]
    pictures, tokens, label = every.draw_pairs(12, 0.0, torch.Generator().manual_seed(3))
    assert pictures.shape == (12, 3, world.RESOLUTION, world.RESOLUTION) and tokens.shape == (12, 8)
    assert torch.equal(label[:6], label[6:])
    assert (every.facts["label"] < 0).any() and (every.facts["label"] >= 0).any()  # of things that it can't draw, too


def test_the_judge_is_told_the_things_of_pairs_and_of_lessons(monkeypatch):
    names = world.OBJECT_NAMES
    label = torch.tensor([5 * 1000 + 3 * 10 + 1, -(7 * 1000 + 2 * 10) - 1])
    pairs = SimpleNamespace(
        draw_pairs=lambda *_: (torch.zeros(2, 3, 128, 128), torch.zeros(2, 4, dtype=torch.long), label)
    )
    specs = world.sample_specs(2, seed=1)
    specs.second = torch.tensor([-1, 3])
    lessons = SimpleNamespace(draw=lambda *_: (specs, torch.zeros(2, 3, 128, 128)))
    monkeypatch.setattr(judge, "tokenise", lambda _, words: torch.zeros(len(words), 4, dtype=torch.long))
    _, ids, _, thing = judge.draw(pairs, lessons, None, 4, 0.0, torch.Generator())
    assert thing.tolist() == [5, len(names) + 7, specs.object[0].item(), -1] and len(ids) == 4


def test_nearly_all_right_names_are_believed_and_strange_things_counted(monkeypatch):
    """Of 100 right names with scores 0 to 99, 95 are; 4 of 110 strange things score below that; wrong names don't count."""
    objects = world.sample_specs(110, surety.SEED).object[:100].tolist()
    right = [Initialization(world.OBJECT_NAMES[i], score=float(n)) for n, i in enumerate(objects)]
    wrong = [Initialization("nothing", score=-5.0)] * 10
    told = [right + wrong, [Initialization("cat", score=float(n)) for n in range(1, 111)]]
    monkeypatch.setattr(surety, "_said", lambda *_: told.pop(0))
    threshold, doubted = surety.unsure_below(None, 110)
    assert 4.5 < threshold < 5.5 and doubted == pytest.approx(4 / 110)
