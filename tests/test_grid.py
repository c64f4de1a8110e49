"""Many prompts with words of their own in one batch."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.generation.generate import GenerateConfig, generate
from sentinv.generation.grid import Wish, generate_grid

WORDS = [Concept(token="<c>", rows={"text_encoder": torch.full((n, 16), 0.1 * n)}) for n in (1, 2)]


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_each_image_is_that_of_its_own_prompt(sd1_backbone, guidance):
    """Two words of one name and different lengths share a batch."""
    config = GenerateConfig(
        steps=2, batch_size=3, guidance_scale=guidance, negative_prompt="a dog" if guidance > 1 else ""
    )
    wishes = [Wish(prompt=p, concepts=[word], seed=5) for word in WORDS for p in ("a photo of <c>", "<c> on the moon")]
    made = [one.image for one in generate_grid(sd1_backbone, wishes, config)]
    for wish, image in zip(wishes, made, strict=True):
        (own,) = generate(sd1_backbone, wish.prompt, wish.concepts, seed=5, config=config)
        difference = torch.tensor(list(own.tobytes())).int() - torch.tensor(list(image.tobytes())).int()
        assert difference.abs().max() <= 1  # a batch of three rounds otherwise than one of one
    assert len({image.tobytes() for image in made}) == 4


def test_two_encoders_and_nothing_to_make(xl):
    from sentinv.models.backbone import Backbone

    backbone = Backbone.from_pipeline(xl, "tiny")
    word = Concept(token="<c>", rows={"text_encoder": torch.ones(1, 16), "text_encoder_2": torch.ones(1, 24)})
    wishes = [Wish(prompt="a <c>", concepts=[word]), Wish(prompt="a mug")]
    assert len(list(generate_grid(backbone, wishes, GenerateConfig(steps=1)))) == 2
    assert not list(generate_grid(backbone, []))


@pytest.fixture
def _workplace(tmp_path, monkeypatch, model_folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTINV_MODEL", str(model_folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    Path("words").mkdir()
    for number, word in enumerate(WORDS):
        word.save(f"words/{number}-concept.safetensors")


def run(*args, code=0):
    result = CliRunner().invoke(cli, ["generate", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def test_the_command_draws_every_prompt_with_every_word(_workplace):
    prompts = ("a photo of {}", "{} and {} on the moon")
    told = json.loads(run(*prompts, "--grid", "-c", "words", "-n", 2, "--steps", 1, "--json", "-q").stdout)
    assert len(told["images"]) == 8 and Image.open(told["grid"]).width > 4 * 16
    assert len({one["path"] for one in told["images"]}) == 8
    settings = json.loads(Image.open("grid/c-2-02-seed-1.png").text["sentinv"])
    assert (settings["prompt"], settings["seed"]) == ("<c> and <c> on the moon", 1)
    assert "exists: give --force" in run(*prompts, "--grid", "-c", "words", code=1).output


def test_what_a_grid_cannot_be_is_said(_workplace):
    assert "expected {} where the words go" in run("a photo", "--grid", "-c", "words", code=2).output
    assert "--grid needs learned words" in run("a {}", "--grid", code=2).output
    assert "--rank has no effect with --grid" in run("a {}", "--grid", "--rank", "-c", "words", code=2).output
    assert "--lora has no effect" in run("a {}", "--grid", "--lora", "none", "-c", "words", code=2).output
    assert "expected one prompt, got 2" in run("a", "photo", code=2).output
    assert "name a folder" in run("a {}", "--grid", "-c", "words", "-o", "a.png", code=2).output
