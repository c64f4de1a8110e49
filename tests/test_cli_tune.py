"""`sentinv tune`, `sentinv invert --tune` and --lora."""

import json
import os
import shlex
import shutil
import signal
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
from sentinv.errors import Interrupted, TrainingError
from sentinv.files.json_lines import JsonLines
from sentinv.models.built_in import built_in
from sentinv.models.loading import load
from sentinv.training import samples
from sentinv.training.history import WRONG

QUICK = ["--steps", "2", "--samples", "1", "--blended", "2", "--others", "1", "--others-weight", "0.2", "--rank", "2"]
QUICK_WORD = ["--phrase", "a red mug", "--steps", "1", "--samples", "0"]


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


def vae():
    """The autoencoder of the tiny model, as one of its own."""
    return str(Path(os.environ["SENTINV_MODEL"]) / "vae")


def run(*args, code=0):
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def test_tune_writes_a_lora_that_generate_and_evaluate_take():
    told = run("tune", "c.safetensors", "mug.png", *QUICK)
    assert "LoRA of rank 2 on 56 layers" in told.output and "--lora c-lora.safetensors" in told.output
    lora = load_lora("c-lora.safetensors")
    assert lora.token == "<c>" and lora.word_digest == Concept.load("c.safetensors").digest
    run_folder = Path("c-lora-run")
    assert "word + LoRA" in (run_folder / "report.html").read_text() and not (run_folder / "checkpoints").exists()
    assert len((run_folder / "metrics.jsonl").read_text().splitlines()) == 3
    plain = ["generate", "a photo of <c>", "-c", "c.safetensors", "-n", "1", "--steps", "2"]
    run(*plain, "-o", "plain")
    told = run(*plain, "-o", "half", "--lora", "c-lora.safetensors:0.5")
    assert "c-lora.safetensors: 56 of 56 layers found" in told.output and "warning" not in told.output
    settings = json.loads(Image.open("half/seed-0.png").text["sentinv"])
    assert settings["loras"] == [["c-lora.safetensors", 0.5]]
    run(*plain, "-o", "none", "--lora", "c-lora.safetensors:0")
    assert Image.open("none/seed-0.png").tobytes() == Image.open("plain/seed-0.png").tobytes()


def test_the_same_seed_gives_the_same_file_and_nothing_is_overwritten():
    run("tune", "c.safetensors", "mug.png", *QUICK, "--quiet")
    first = Path("c-lora.safetensors").read_bytes()
    assert "exists" in run("tune", "c.safetensors", "mug.png", *QUICK, code=1).output
    told = run("tune", "c.safetensors", "mug.png", *QUICK, "--force", "--json", "--quiet")
    assert Path("c-lora.safetensors").read_bytes() == first
    facts = json.loads(told.stdout)
    assert facts["lora"] == "c-lora.safetensors" and facts["rows"] is None and facts["layers"] == 56
    Path("folder").mkdir()
    Path("folder/c.safetensors").symlink_to(Path("c.safetensors").resolve())
    word = Path("c.safetensors").read_bytes()
    Path("x-word.safetensors").write_bytes(word)
    for name, output, *more in (
        ("c.safetensors", "c.safetensors"),
        ("c.safetensors", Path("c.safetensors").resolve()),
        ("folder", "c.safetensors"),
        ("x-word.safetensors", "x.safetensors", "--train-rows"),
    ):
        told = run("tune", name, "mug.png", *QUICK, *more, "-o", output, "--force", code=1)
        assert "the word itself" in told.output
    assert Path("c.safetensors").read_bytes() == Path("x-word.safetensors").read_bytes() == word


def test_a_stopped_run_goes_on_to_the_same_file(monkeypatch):
    more = [*QUICK, "--steps", "6"]
    run("tune", "c.safetensors", "mug.png", *more, "-o", "whole.safetensors")
    write = JsonLines.write

    def stop(lines, record):
        write(lines, record)
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(JsonLines, "write", stop)
        told = run("tune", "c.safetensors", "mug.png", *more, code=143)
    assert "stopped after step 3 of 6: resume to go on" in told.output and not Path("c-lora.safetensors").exists()
    for options, why in (
        (["--rank", "3"], "rank"),
        (["--words", "a pot"], "blend"),
        (["--others-weight", "1"], "weight"),
    ):
        assert why in run("tune", "c.safetensors", "mug.png", *more, *options, "--resume", code=1).output
    run("tune", "c.safetensors", "mug.png", *more, "--resume")
    assert Path("c-lora.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()


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
    assert word.thing == "a red mug" and word.metadata["sentinv.learning_rate"] == "0.005"
    told = run("generate", "<c>", "-c", "c.safetensors", "--lora", "c-lora.safetensors", "-n", "1", "--steps", "1")
    assert told.output.count("trained around other rows of <c>") == 1
    Path("c-lora.safetensors").unlink()
    shutil.rmtree("c-lora-run")
    told = run("tune", "c.safetensors", "mug.png", *QUICK, "--train-rows", "-o", "c-lora.safetensors", code=1)
    assert "c-lora-word.safetensors exists" in told.output


def test_invert_can_tune_as_well():
    Path("sentinv.toml").write_text("[tune]\nsteps = 2\nrank = 2\n")
    told = run("invert", "mug.png", *QUICK_WORD, "--tune", "--kind", "style", "--vae", vae())
    assert Path("mug-concept.safetensors").is_file() and load_lora("mug-lora.safetensors").rank == 2
    place = f"--concept mug-concept.safetensors --lora mug-lora.safetensors --model {os.environ['SENTINV_MODEL']} --vae {vae()}"
    assert told.output.count("next:") == 1
    assert f'next: sentinv generate "a painting in the style of <mug>" {place}\n' in told.output


def test_what_invert_and_tune_say_is_one_object(monkeypatch):
    """The images of the word are made for its own report, and only shown again on the LoRA's."""
    Path("sentinv.toml").write_text("[tune]\nsteps = 2\nrank = 2\n")
    shown, made = [], []
    honest, drawn = samples.tuned_samples, samples.generate
    monkeypatch.setattr(
        samples, "tuned_samples", lambda *given: shown.append((given[-1], honest(*given))) or shown[-1][1]
    )
    monkeypatch.setattr(samples, "generate", lambda *given, **more: made.append(given[2]) or drawn(*given, **more))
    told = run("invert", "mug.png", *QUICK_WORD, "--samples", "1", "--tune", "--json", "--quiet")
    ((alone, both),) = shown
    assert both.before == alone.after and len(both.after) == len(both.before) == 1 and len(made) == 1
    facts = json.loads(told.stdout)
    assert (facts["concept"], facts["lora"]["lora"]) == ("mug-concept.safetensors", "mug-lora.safetensors")
    assert facts["lora"]["rank"] == 2 and facts["lora"]["token"] == facts["token"] == "<mug>"


def test_where_the_lora_does_not_come_a_command_says_how_to_go_on(monkeypatch):
    """What it says, pasted, does what would have happened."""
    Path("sentinv.toml").write_text("[tune]\nsteps = 2\nrank = 2\n[invert]\ndtype = 'float32'\n")
    Image.open("mug.png").convert("L").save("my mask.png")
    options = ["--mask", "my mask.png", "--crop", "none", "--seed", "3", "--gradient-checkpointing", "--vae", vae()]
    asked = []

    def fail(backbone, concept, pictures, config, **others):
        asked.append(config)
        raise TrainingError("no")

    monkeypatch.setattr("sentinv.training.tune.tune", fail)
    told = run("invert", "mug.png", *QUICK_WORD, *options, "--device", "cpu", "--tune", "--json", code=1)
    assert json.loads(told.stdout)["lora"] is None and not Path("mug-lora-run").exists()
    line = told.stderr.splitlines()[-1]
    assert line.startswith(
        "sentinv: error: no; <mug> is learned, and its LoRA is by: sentinv tune mug-concept.safetensors"
    )
    command = shlex.split(line.partition("by: ")[2])
    assert {*options, "--dtype", "float32", "--device"} <= {*command} and "--json" in command
    assert "no" in run(*command[1:], code=1).stderr
    assert asked[0] == asked[1] and asked[0].seed == 3 and asked[0].gradient_checkpointing and asked[0].rank == 2


def test_a_lora_that_is_stopped_is_gone_on_with_by_the_command_that_is_told(monkeypatch):
    def stop(backbone, concept, pictures, config, *, checkpoints, **others):
        Path(checkpoints.folder).mkdir()
        raise Interrupted("stopped after step 1 of 2: resume to go on", 2)

    monkeypatch.setattr("sentinv.training.tune.tune", stop)
    told = run("invert", "mug.png", *QUICK_WORD, "--tune", "-o", "my mug.safetensors", code=130)
    assert "resume to go on, by: sentinv tune 'my mug.safetensors' mug.png --samples 0 --resume" in told.stderr


def test_the_plan_of_both_halves_is_one_plan():
    ask = ["invert", "mug.png", "--phrase", "a red mug on the moon", "--plan", "--tune"]
    plan = json.loads(run(*ask, "--json").stdout)
    assert plan["lora"]["thing"] == "a red mug" and plan["lora"]["rank"] == 3
    alone = json.loads(run(*ask[:-1], "--json").stdout)["memory"]["total"]
    assert (
        plan["memory"]["total"]
        == max(alone, plan["lora"]["memory"]["total"])
        > min(alone, plan["lora"]["memory"]["total"])
    )
    told = run(*ask).output
    assert "then a LoRA rank 3" in told and "mug-lora.safetensors" in told and told.count("memory") == 1
    Path("mug-lora.safetensors").touch()
    assert "mug-lora.safetensors exists" in run(*ask).output


def test_words_drawn_at_random_do_not_say_what_the_thing_is():
    warning = "warning: nobody has said what <mug> is, so it is taken for 'an object'"
    told = run("invert", "mug.png", "--init", "random", "--plan", "--tune")
    assert told.output.count(warning) == 1
    told = run("invert", "mug.png", "--init", "random", "--steps", "1", "--samples", "0", "--blended", "1")
    assert told.output.count(warning) == 1
    assert warning in run("tune", "mug-concept.safetensors", "mug.png", "--plan").output
    again = ["invert", "mug.png", "--from", "mug-concept.safetensors", "-o", "again.safetensors", "--tune", "--plan"]
    assert "nobody has said what <again> is" in run(*again).output


def test_a_word_of_another_width_leaves_nothing_behind():
    Concept(token="<d>", rows={"text_encoder": torch.ones(1, 24)}).save("d.safetensors")
    before = {*Path().iterdir()}
    line = "expected rows of width 16, got 24"
    assert line in run("tune", "d.safetensors", "mug.png", "--words", "a mug", *QUICK, code=1).output
    assert {*Path().iterdir()} == before


def test_plan_tells_and_does_nothing():
    told = run("tune", "c.safetensors", "mug.png", "--plan")
    for part in (
        "'a red mug' to the model as it is",
        "14 scenes, 4 styles",
        "rank 3 on to_q",
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
        (
            ["generate", "<c>", "-c", "c.safetensors", "--lora", "c.safetensors:nan"],
            "expected a scale from -100 to 100, got nan",
            2,
        ),
        (
            ["generate", "<c>", "--lora", "c.safetensors:"],
            "a number behind the colon, such as c.safetensors:0.8, got ''",
            2,
        ),
        (
            ["generate", "<c>", "--lora", "c.safetensors:x"],
            "a number behind the colon, such as c.safetensors:0.8, got 'x'",
            2,
        ),
        (["generate", "<c>", "--lora", "x:y.safetensors"], "x:y.safetensors does not exist", 1),
        (["generate", "<c>", "--lora", "x.safetensors:1e30"], "expected a scale from -100 to 100, got 1e30", 2),
        (["generate", "<c>", "--lora", ":0.5"], "expected a file, and behind a colon its scale, got ':0.5'", 2),
        (["tune", "c.safetensors", "mug.png", "--target", "nothing", "--plan"], "none has such", 1),
        (["tune", "c.safetensors", "mug.png", "--words", "a <c>"], "such as 'a mug', got 'a <c>'", 1),
        (["tune", "c.safetensors", "mug.png", "--words", "a mug {}"], "such as 'a mug', got 'a mug {}'", 1),
        (["tune", "c.safetensors", "mug.png", "--scenes", "none.txt"], "cannot read scenes from none.txt", 1),
        (["edit", "mug.png", "--archive", "a.safetensors", "--prompt", "x", "--lora", "l"], "neither --archive", 2),
    ],
)
def test_what_is_refused_is_a_line(args, message, code):
    told = run(*args, code=code)
    assert message in told.output and "Traceback" not in told.output


def test_a_run_that_has_to_end_keeps_its_best_weights():
    told = run("tune", "c.safetensors", "mug.png", *QUICK, "--lr", "1e30", "--json", code=1)
    line = "the best weights until then are in c-lora.safetensors; try a smaller --lr"
    assert line in told.stderr and load_lora("c-lora.safetensors").token == "<c>"
    assert json.loads(told.stdout)["stop"] in WRONG


def test_a_pickle_is_no_lora():
    torch.save({"lora_unet_x.lora_up.weight": torch.ones(1)}, "c.ckpt")
    told = run("generate", "<c>", "-c", "c.safetensors", "--lora", "c.ckpt", code=1).output
    assert "is a pickle, which can run code: get it as .safetensors, or convert it elsewhere" in told
    assert "allow" not in told


def test_a_word_that_nobody_says_what_it_is():
    Concept(token="<d>", rows={"text_encoder": torch.ones(1, 16)}).save("d.safetensors")
    assert "such as 'a mug', got none" in run("tune", "d.safetensors", "mug.png", "--words", " ", code=1).output
    told = run("tune", "d.safetensors", "mug.png", "--plan").output
    assert told.count("warning: nobody has said what <d> is, so it is taken for 'an object'") == 1


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
    assert json.loads(Image.open("tuned.png").text["sentinv"])["loras"] == [["c-lora.safetensors", 1.0]]
    left = [*edit, "-o", "left.png", "--lora", "c-lora.safetensors:0.7", "--source-prompt", "a mug"]
    run(*["a mug on the moon" if one.endswith("moon") else one for one in left])
    assert "loras" not in json.loads(Image.open("left.png").text["sentinv"])
    Lora(layers=layers, token="<c>", metadata={"sentinv.concept_hash": "0"}).save("x-lora.safetensors")
    rate = ["evaluate", "c.safetensors", "--images", "mug.png", "--count", "1", "--steps", "1", "--prompt", "a {}"]
    rate += ["--json", "--clip", built_in("clip")]
    plain, told = run(*rate), run(*rate, "--lora", "x-lora.safetensors:0.5")
    assert json.loads(plain.stdout)["loras"] == [] and json.loads(told.stdout)["loras"] == [["x-lora.safetensors", 0.5]]
    assert f"x-lora.safetensors: {len(layers)} of {len(layers)} layers found" in told.stderr
    assert told.stderr.count("around other rows of <c>") == 1
    worth = [[one["value"] for one in json.loads(each.stdout)["scores"]] for each in (plain, told)]
    assert worth[0] != worth[1]
    told = run("generate", "a mug", "--lora", "c-lora.safetensors", "-n", "1", "--steps", "1", "-o", "x")
    assert "c-lora.safetensors is left out: <c>, to which it belongs, is not in the prompt" in told.output
    run("generate", "a mug", "-n", "1", "--steps", "1", "-o", "y")
    assert Image.open("x/seed-0.png").tobytes() == Image.open("y/seed-0.png").tobytes()
