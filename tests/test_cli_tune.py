"""`sentinv tune`, `sentinv invert --tune` and --lora."""

import json
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sentinv.adapters.install import fresh_layers
from sentinv.adapters.layouts import LoraLayer
from sentinv.adapters.lora import Lora, load_lora
from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.models.loading import load

QUICK = ["--steps", "2", "--samples", "1", "--blended", "2", "--others", "1", "--others-weight", "0.2", "--rank", "2"]


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch, model_folder, picture):
    """An empty folder with a picture and a word, the tiny model as default, nobody's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTINV_MODEL", str(model_folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    picture.save("mug.png")
    rows = {"text_encoder": torch.arange(32.0).reshape(2, 16) / 100 + 0.01}
    metadata = {"sentinv.initial_text": "a red mug", "sentinv.base_model_hash": load(str(model_folder)).fingerprint}
    Concept(token="<c>", rows=rows, metadata=metadata).save("c.safetensors")


def run(*args, code=0):
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def test_tune_writes_a_lora_that_generate_and_evaluate_take():
    told = run("tune", "c.safetensors", "mug.png", *QUICK)
    assert "LoRA of rank 2 on 32 layers" in told.output and "--lora c-lora.safetensors" in told.output
    lora = load_lora("c-lora.safetensors")
    assert lora.token == "<c>" and lora.word_digest == Concept.load("c.safetensors").digest
    run_folder = Path("c-lora-run")
    assert "word + LoRA" in (run_folder / "report.html").read_text() and not (run_folder / "checkpoints").exists()
    assert len((run_folder / "metrics.jsonl").read_text().splitlines()) == 3
    plain = ["generate", "a photo of <c>", "-c", "c.safetensors", "-n", "1", "--steps", "2"]
    run(*plain, "-o", "plain")
    told = run(*plain, "-o", "half", "--lora", "c-lora.safetensors:0.5")
    assert "c-lora.safetensors: 32 of 32 layers found" in told.output and "warning" not in told.output
    settings = json.loads(Image.open("half/seed-0.png").text["sentinv"])
    assert settings["loras"] == {"c-lora.safetensors": 0.5}
    run(*plain, "-o", "none", "--lora", "c-lora.safetensors:0")
    assert Image.open("none/seed-0.png").tobytes() == Image.open("plain/seed-0.png").tobytes()


def test_the_same_seed_gives_the_same_file_and_nothing_is_overwritten():
    run("tune", "c.safetensors", "mug.png", *QUICK, "--quiet")
    first = Path("c-lora.safetensors").read_bytes()
    assert "exists" in run("tune", "c.safetensors", "mug.png", *QUICK, code=1).output
    told = run("tune", "c.safetensors", "mug.png", *QUICK, "--force", "--json", "--quiet")
    assert Path("c-lora.safetensors").read_bytes() == first
    facts = json.loads(told.stdout)
    assert facts["lora"] == "c-lora.safetensors" and facts["rows"] is None and facts["layers"] == 32
    assert "the word itself" in run("tune", "c.safetensors", "mug.png", "-o", "c.safetensors", "--force", code=1).output


def test_rows_that_learn_too_are_a_word_of_their_own():
    run(
        "tune",
        "c.safetensors",
        "mug.png",
        *QUICK,
        "--train-rows",
        "--rows-lr",
        "0.005",
        "--lr",
        "0.001",
        "--others",
        "0",
    )
    word = Concept.load("c-lora-word.safetensors")
    assert word.token == "<c>" and load_lora("c-lora.safetensors").word_digest == word.digest
    told = run("generate", "<c>", "-c", "c.safetensors", "--lora", "c-lora.safetensors", "-n", "1", "--steps", "1")
    assert "trained around other rows of <c>" in told.output


def test_invert_can_tune_as_well():
    told = run("invert", "mug.png", "--phrase", "a red mug", "--steps", "2", "--samples", "0", "--tune", "--quiet")
    assert Path("mug-concept.safetensors").is_file() and load_lora("mug-lora.safetensors").token == "<mug>"
    assert "mug-lora.safetensors" in told.output


def test_plan_tells_and_does_nothing():
    told = run("tune", "c.safetensors", "mug.png", "--plan")
    for part in (
        "'a red mug' to the model as it is",
        "14 scenes, 4 styles",
        "rank 8 on to_q",
        "about",
        "c-lora.safetensors",
    ):
        assert part in told.output
    plan = json.loads(run("tune", "c.safetensors", "mug.png", "--plan", "--json", "--words", "a cup in space").stdout)
    assert plan["thing"] == "a cup" and plan["memory"]["total"] > 0
    assert not Path("c-lora.safetensors").exists() and not Path("c-lora-run").exists()


def test_scenes_of_ones_own(tmp_path):
    Path("scenes.txt").write_text("# mine\non my desk\n\na comic of {}\n")
    plan = json.loads(run("tune", "c.safetensors", "mug.png", "--plan", "--json", "--scenes", "scenes.txt").stdout)
    assert plan["scenes"] == ["a photo of {} on my desk"] and plan["styles"] == ["a comic of {}"]
    Path("scenes.txt").write_text("# none\n")
    assert (
        "expected lines" in run("tune", "c.safetensors", "mug.png", "--plan", "--scenes", "scenes.txt", code=1).output
    )


@pytest.mark.parametrize(
    ("args", "message", "code"),
    [
        (["tune", "c.safetensors", "mug.png", "--rank", "0"], "rank must be", 2),
        (["tune", "c.safetensors", "mug.png", "--target", "nothing"], "none has such", 1),
        (["tune", "no.safetensors", "mug.png"], "does not exist", 1),
        (["tune", "c.safetensors", "mug.png", "--resume"], "nothing to resume", 1),
        (["generate", "<c>", "-c", "c.safetensors", "--lora", "no.safetensors"], "does not exist", 1),
        (["generate", "<c>", "-c", "c.safetensors", "--lora", "c.safetensors"], "learned word, not a LoRA", 1),
        (["generate", "<c>", "-c", "c.safetensors", "--lora", "c.safetensors:nan"], "not a finite number", 2),
        (["edit", "mug.png", "--archive", "a.safetensors", "--prompt", "x", "--lora", "l"], "neither --archive", 2),
    ],
)
def test_what_is_refused_is_a_line(args, message, code):
    told = run(*args, code=code)
    assert message in told.output and "Traceback" not in told.output


def test_a_word_that_nobody_says_what_it_is():
    Concept(token="<d>", rows={"text_encoder": torch.ones(1, 16)}).save("d.safetensors")
    assert "got none: such as 'a mug'" in run("tune", "d.safetensors", "mug.png", "--words", " ", code=1).output
    told = run("tune", "d.safetensors", "mug.png", "--plan").output
    assert (
        told.count("warning: nobody has said what <d> is, so it is taken for 'an object': --words says it better") == 1
    )


def test_edit_and_evaluate_have_it_on(tmp_path):
    layers = fresh_layers(
        load(os.environ["SENTINV_MODEL"]).unet, ("to_q", "conv1"), 2, torch.Generator().manual_seed(0)
    )
    layers = {name: LoraLayer(one.down, torch.ones_like(one.up), 2.0) for name, one in layers.items()}
    Lora(layers=layers, token="<c>").save("c-lora.safetensors")
    edit = ["edit", "mug.png", "--ddim-invert", "-c", "c.safetensors", "--prompt", "a <c> on the moon", "--steps", "2"]
    run(*edit, "-o", "plain.png")
    told = run(*edit, "-o", "tuned.png", "--lora", "c-lora.safetensors")
    assert f"{len(layers)} of {len(layers)} layers found" in told.output
    assert Image.open("plain.png").tobytes() != Image.open("tuned.png").tobytes()
    told = run("generate", "a mug", "--lora", "c-lora.safetensors", "-n", "1", "--steps", "1", "-o", "x")
    assert "c-lora.safetensors is left out: <c>, to which it belongs, is not in the prompt" in told.output
    run("generate", "a mug", "-n", "1", "--steps", "1", "-o", "y")
    assert Image.open("x/seed-0.png").tobytes() == Image.open("y/seed-0.png").tobytes()
