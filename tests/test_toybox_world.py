"""The world of the built-in model: deterministic, faithful to its words, and ignorant of the concepts."""

import pytest
import torch

from toybox import captions as language
from toybox import concepts, glyphs, latents, styles, world

try:
    glyphs.find_font()
except SystemExit as missing:
    pytest.skip(str(missing), allow_module_level=True)


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
        assert world.OBJECT_NAMES[specs.object[i]] in words
        assert world.SCENE_NAMES[specs.scene[i]] in text
        if specs.colour[i]:
            assert world.COLOUR_NAMES[specs.colour[i]] in words
        if specs.pattern[i]:
            assert language.PATTERNS[specs.pattern[i]] in words
        assert " a a" not in text
        assert " a o" not in text


def test_all_training_templates_occur():
    texts = " | ".join(world.captions(world.sample_specs(20000, 13)))
    starts = [template.split(" {}")[0] for template in language.OBJECT_TEMPLATES + language.STYLE_TEMPLATES]
    assert len(starts) == 27 + 19
    assert [start for start in starts if start not in texts and f"{start}n" not in texts] == []


def test_the_world_is_large_enough():
    assert len(glyphs.OBJECTS) >= 40
    assert len(glyphs.COLOURS) >= 8
    assert len(world.SCENE_NAMES) >= 8
    assert len(styles.STYLES) >= 4
    assert (world.sample_specs(4000, 1).second >= 0).float().mean() == pytest.approx(0.06, abs=0.02)


@pytest.mark.parametrize("colour", list(glyphs.COLOURS))
def test_a_colour_is_seen(colour):
    """Repainted objects are nearest, in hue, to the colour they are said to have."""
    import colorsys

    hues = {name: colorsys.rgb_to_hsv(*(v / 255 for v in rgb))[0] for name, rgb in glyphs.COLOURS.items()}
    for glyph in list(glyphs.OBJECTS.values())[::6]:
        painted = glyphs.colourise(glyphs.draw_glyph(glyph), glyphs.COLOURS[colour])
        mean = (painted[:3] * painted[3:]).sum((1, 2)) / painted[3:].sum()
        hue = colorsys.rgb_to_hsv(*mean.tolist())[0]
        distance = {name: min(abs(hue - other), 1 - abs(hue - other)) for name, other in hues.items()}
        assert min(distance, key=distance.get) == colour


def test_concepts_are_held_out():
    """No training program can draw a concept: not its object, not its look, not its seed."""
    everything = concepts.all_concepts()
    assert len(everything) == 12
    assert sum(c.known for c in everything) == 6
    assert not set(glyphs.OBJECTS.values()) & set(glyphs.UNKNOWN_OBJECTS.values())
    assert not set(glyphs.OBJECTS) & set(glyphs.UNKNOWN_OBJECTS)
    # Training seeds are below 2**29 (drawn per step) or start at FIRST_SEED (the pool of latents).
    assert world.HELD_OUT_SEEDS.start > 2**29
    assert world.HELD_OUT_SEEDS.start > latents.FIRST_SEED + 10**6
    bank = glyphs.sprite_bank().flatten(0, 1)
    for concept in everything:
        sprite = concepts.sprite(concept)
        difference = (bank - sprite).abs().mean((1, 2, 3)).min()
        assert difference > 0.01, concept.name


def test_concept_files_are_what_the_program_draws():
    from torchvision.io import read_image

    for concept in concepts.all_concepts():
        for stem, picture in concepts.draw(concept).items():
            kept = read_image(str(concepts.FOLDER / concept.name / f"{stem}.png")).float() / 255
            assert (kept - picture).abs().mean() < 0.01, f"{concept.name}/{stem}"


def test_an_edit_changes_one_thing():
    """The target of a scene edit is the same object in the same place."""
    for concept in concepts.all_concepts()[::4]:
        pictures = concepts.draw(concept)
        mask = (pictures["mask"] > 0.99).float()
        inside = ((pictures["image"] - pictures["edit-1"]).abs() * mask).sum() / (3 * mask.sum())
        outside = ((pictures["image"] - pictures["edit-1"]).abs() * (1 - mask)).sum() / (3 * (1 - mask).sum())
        assert inside < 0.02
        assert outside > 0.1


def test_missing_font_is_one_line(monkeypatch):
    monkeypatch.setattr(glyphs, "FONT_PATHS", ("nowhere.ttf",))
    with pytest.raises(SystemExit, match="apt-get install fonts-noto-color-emoji"):
        glyphs.find_font()
