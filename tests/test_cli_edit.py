"""`sentinv edit` on a tiny pipeline in a folder: what it writes, what it refuses, and in how many lines."""

import json

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.editing.archive import Archive

STEPS = ["--steps", "6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, _pipelines, picture):
    """A model, a concept, an image and masks, as a user has them."""
    folder = tmp_path_factory.mktemp("edit")
    _pipelines["sd1"].save_pretrained(folder / "model")
    rows = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    Concept(token="<c>", rows={"text_encoder": rows}).save(folder / "c.safetensors")
    Concept(token="<c>", rows={"text_encoder": rows + 1}).save(folder / "other.safetensors")
    picture.resize((16, 16)).save(folder / "mug.png")
    picture.resize((16, 16)).rotate(90).save(folder / "turned.png")
    mask = Image.new("L", (16, 16))
    mask.save(folder / "empty.png")
    mask.paste(255, (5, 5, 10, 10))
    mask.save(folder / "mask.png")
    mask.resize((20, 20)).save(folder / "large.png")
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """Run `sentinv edit` in an empty folder; options that are files are looked up in the user's."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model="model"):
        found = [str(folder / a) if (folder / str(a)).exists() else str(a) for a in arguments]
        return CliRunner().invoke(cli, ["edit", *found, "--model", str(folder / model)])

    return run


def lines(result):
    return [line for line in result.stderr.splitlines() if line]


def test_edits_an_image_and_says_what_it_cost(run, tmp_path):
    result = run("mug.png", "--ddim-invert", "-c", "c.safetensors", "--prompt", "a red <c>", *STEPS, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["source_prompt"] == "a photo of <c>"
    assert facts["inversion_evaluations"] == 6 + 7
    assert [edit["evaluations"] for edit in facts["edits"]] == [12]
    with Image.open(tmp_path / "mug-edit.png") as image:
        assert image.size == (16, 16)
        assert json.loads(image.text["sentinv"])["prompt"] == "a red <c>"


def test_never_overwrites_without_force(run, tmp_path):
    arguments = ("mug.png", "--ddim-invert", "--source-prompt", "a mug", "--prompt", "a dog", *STEPS)
    (tmp_path / "mug-edit.png").write_bytes(b"mine")
    result = run(*arguments)
    assert result.exit_code == 1
    assert "--force" in lines(result)[-1]
    assert (tmp_path / "mug-edit.png").read_bytes() == b"mine"
    assert run(*arguments, "--force").exit_code == 0
    assert (tmp_path / "mug-edit.png").read_bytes() != b"mine"


def test_never_overwrites_what_it_reads(run, folder, tmp_path):
    (tmp_path / "linked.png").symlink_to(folder / "mug.png")
    for name in (folder / "mug.png", tmp_path / "linked.png"):
        before = name.read_bytes()
        result = run("mug.png", "--ddim-invert", "--prompt", "a mug", *STEPS, "-o", str(name), "--force")
        assert result.exit_code == 1 and "is read for this edit" in lines(result)[-1]
        assert name.read_bytes() == before


def test_an_archive_serves_several_edits(run, tmp_path):
    common = ("-c", "c.safetensors", "--prompt", "a red <c>")
    first = run("mug.png", "--ddim-invert", *common, *STEPS, "--save-archive", "a.safetensors")
    assert first.exit_code == 0, first.stderr
    assert Archive.load(tmp_path / "a.safetensors").config.steps == 6
    second = run("mug.png", "--archive", "a.safetensors", *common, "-o", "again.png", "--json")
    assert json.loads(second.stdout)["inversion_evaluations"] == 0
    assert (tmp_path / "again.png").read_bytes()[-600:] == (tmp_path / "mug-edit.png").read_bytes()[-600:]
    for wrong, message in (
        (("turned.png", "-c", "c.safetensors"), "another image"),
        (("mug.png", "-c", "other.safetensors"), "another concept"),
        (("mug.png", "-c", "c.safetensors", "--source-prompt", "a mug"), "--source-prompt"),
    ):
        result = run(*wrong, "--archive", "a.safetensors", "--prompt", "a red <c>", "-o", "x.png")
        assert result.exit_code == 1
        assert message in lines(result)[-1]
    assert not (tmp_path / "x.png").exists()


def test_a_sweep_is_a_contact_sheet(run, tmp_path):
    arguments = ("mug.png", "--ddim-invert", "--source-prompt", "a mug", "--prompt", "a dog", *STEPS)
    result = run(*arguments, "--sweep", "skip=0:.6:.2", "--json")
    assert result.exit_code == 0, result.stderr
    edits = json.loads(result.stdout)["edits"]
    assert [edit["skip"] for edit in edits] == [0, 0.2, 0.4, 0.6]
    with Image.open(tmp_path / "mug-sweep.png") as sheet:
        assert sheet.width > 300


def test_reconstructs_and_fails_above_a_limit(run, tmp_path):
    arguments = ("mug.png", "--ddim-invert", "--source-prompt", "a mug", "--reconstruct", *STEPS)
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[:3]] == ["autoencoder", "inversion", "guidance"]
    exact = run(*arguments, "--source", "delta", "--fail-above", "1e-4", "--json")
    assert exact.exit_code == 0, exact.stderr
    assert json.loads(exact.stdout)["guidance_error"] < 1e-5
    failed = run(*arguments, "--source", "none", "--fail-above", "1e-9")
    assert failed.exit_code == 1
    assert "does not come back" in lines(failed)[-1]
    assert list(tmp_path.iterdir()) == []


def test_edits_inside_a_mask_only(run, folder, tmp_path):
    result = run("mug.png", "--mask", "mask.png", "--prompt", "a dog", *STEPS, "--feather", "0", "-o", "out.png")
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "out.png") as edited, Image.open(folder / "mug.png") as image:
        for x in range(16):
            for y in range(16):
                if not (5 <= x < 10 and 5 <= y < 10):
                    assert edited.getpixel((x, y)) == image.getpixel((x, y))
    for mask, message in (("large.png", "of one size"), ("empty.png", "empty"), ("none.png", "none.png")):
        result = run("mug.png", "--mask", mask, "--prompt", "a dog", "-o", "x.png")
        assert result.exit_code == 1
        assert message in lines(result)[-1]


def test_warns_if_the_learned_word_is_not_in_the_prompt(run):
    result = run("mug.png", "--ddim-invert", "-c", "c.safetensors", "--prompt", "a red mug", *STEPS)
    assert result.exit_code == 0
    assert "warning: <c> does not occur in the prompt" in result.stderr
    named = run("mug.png", "--ddim-invert", "--source-prompt", "a mug", "--prompt", "a <d>", *STEPS, "-o", "d.png")
    assert named.exit_code == 1
    assert "<d>" in lines(named)[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompt", "a dog"],
        ["--ddim-invert"],
        ["--reconstruct", "--mask", "mask.png"],
        ["--ddim-invert", "--prompt", "a dog", "--fail-above", "1"],
        ["--ddim-invert", "--prompt", "a dog", "--skip", "1"],
        ["--ddim-invert", "--prompt", "a dog", "--sweep", "guidance=0:1:1"],
        ["--ddim-invert", "--prompt", "a dog", "--sweep", "skip=0:2:1"],
        ["--ddim-invert", "--archive", "x", "--prompt", "a dog"],
        ["--mask", "mask.png", "--prompt", "a dog", "--save-archive", "x"],
        ["--ddim-invert", "--prompt", "a dog", "--method", "magic"],
        ["--ddim-invert", "--prompt", "a dog", "--guidance", "nan"],
        ["--ddim-invert", "--prompt", "a dog", "--steps", "1001"],
        ["--ddim-invert", "--prompt", "a dog", "--feather", "1"],
        ["--ddim-invert", "--prompt", "a dog", "--skip", "nan"],
        ["--mask", "mask.png", "--prompt", "a dog", "--skip", "nan"],
        ["--ddim-invert", "--prompt", "a dog", "--sweep", "skip=0:.5:inf"],
        ["--ddim-invert", "--prompt", "a dog", "--seed", "1"],
        ["--ddim-invert", "--reconstruct", "--prompt", "a dog"],
        ["--ddim-invert", "--reconstruct", "--skip", "0.5"],
        ["--ddim-invert", "--prompt", "a dog", "--source-guidance", "2"],
        ["--ddim-invert", "--prompt", "a dog", "--source", "none", "--source-guidance", "2"],
        ["--ddim-invert", "--prompt", "a dog", "--sweep", "skip=0:.5:.5", "--skip", ".1"],
        ["--archive", "x", "--prompt", "a dog", "--method", "ddim"],
        ["--mask", "mask.png", "--prompt", "a dog", "--source", "none"],
        ["--mask", "mask.png", "--prompt", "a dog", "--source-prompt", "a cat"],
    ],
)
def test_usage_errors_are_exit_code_two(run, arguments, tmp_path):
    result = run("mug.png", *arguments)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_is_told_before_the_work(run):
    for option, ending in (("-o", ".png"), ("--save-archive", ".safetensors")):
        result = run("mug.png", "--ddim-invert", "--prompt", "a dog", option, f"none/x{ending}")
        assert result.exit_code == 1 and len(lines(result)) == 1
        assert f"cannot write none/x{ending}: the folder none does not exist; create it first" in result.stderr
        result = run("mug.png", "--ddim-invert", "--prompt", "a dog", option, "x.jpg")
        assert result.exit_code == 1 and len(lines(result)) == 1
        assert f"cannot write x.jpg: expected a name that ends in {ending}; choose one" in result.stderr


def test_a_mask_drawn_in_white_on_nothing_is_white_where_it_was_drawn(run, tmp_path):
    drawn = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    drawn.paste((255, 255, 255, 255), (5, 5, 10, 10))
    drawn.save(tmp_path / "drawn.png")
    made = []
    for mask in ("mask.png", "drawn.png"):
        result = run("mug.png", "--mask", mask, "--prompt", "a dog", *STEPS, "-o", f"of-{mask}")
        assert result.exit_code == 0, result.stderr
        made.append(Image.open(tmp_path / f"of-{mask}"))
    assert made[0].tobytes() == made[1].tobytes()
    settings = json.loads(made[0].text["sentinv"])
    assert settings["feather"] == 2 and "source" not in settings and "method" not in settings
