import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from judging import build_judge
from PIL import Image
from seeing import build_captioner, build_classifier

import sentinv
from sentinv.cli.bench import STUDIES
from sentinv.cli.invert import InvertOptions, train_config
from sentinv.cli.main import COMMANDS, cli
from sentinv.concepts.concept import Concept
from sentinv.errors import Interrupted, SentinvError
from sentinv.files.locks import lock
from sentinv.training.config import TrainConfig

ROOT = Path(__file__).parent.parent
QUICK = ["--steps", "2", "--samples", "1"]


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch, model_folder, picture):
    """An empty folder with a picture, the tiny model as default, nobody's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTINV_MODEL", str(model_folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    picture.save("mug.png")


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    return str(build_captioner(tmp_path_factory.mktemp("captioner")))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return str(build_classifier(tmp_path_factory.mktemp("classifier")))


def run(*args, code=0):
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def save_concept(path="c.safetensors", token="<c>", count=2, **options):
    rows = {"text_encoder": torch.arange(count * 16.0).reshape(count, 16) / 100 + 0.01}
    return Concept(token=token, rows=rows, **options).save(path)


# the group


def test_help_is_quick_and_names_the_commands_that_are_there():
    begun = time.perf_counter()
    text = subprocess.check_output([sys.executable, "-m", "sentinv", "--help"], cwd=ROOT, text=True)
    assert time.perf_counter() - begun < 5  # 0.2 s on an idle machine
    for name, what in COMMANDS.items():
        assert f"\n  {name} " in text and what.split()[0] in text


@pytest.mark.parametrize(
    "name",
    [*COMMANDS, *(f"bench {name}" for name in STUDIES)],
)
def test_every_command_has_help_that_fits(name):
    text = run(*name.split(), "--help").stdout
    assert max(map(len, text.splitlines())) <= 80


def test_an_unforeseen_error_is_one_line_and_debug_shows_where(monkeypatch):
    monkeypatch.setattr("sentinv.concepts.reading.load_all", lambda *args, **options: 1 / 0)
    result = run("inspect", "c.safetensors", code=1)
    assert result.stderr == (
        "sentinv: error: ZeroDivisionError: division by zero; this is a bug: --debug shows where it happened\n"
    )
    for place in (["--debug", "inspect", "x"], ["inspect", "x", "--debug"]):
        assert "Traceback" in run(*place, code=1).stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried …"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried …"),
    ],
)
def test_out_of_memory_says_what_to_do(monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr("sentinv.concepts.reading.load_all", fail)
    monkeypatch.setattr(Concept, "load", fail)
    told = "sentinv: error: out of memory: {}end other programs\n"
    assert run("inspect", "c.safetensors", code=1).stderr == told.format("")
    ways = run("generate", "a cat", "-c", "c.safetensors", code=1).stderr
    there = run("generate", "--help").stdout
    assert ways.startswith("sentinv: error: out of memory: --dtype bfloat16") and ways.endswith("end other programs\n")
    assert all(option in there for option in re.findall(r"--[a-z-]+", ways)) and "--gradient" not in ways
    assert "--gradient-checkpointing" in run("invert", "mug.png", "--from", "c.safetensors", code=1).stderr


# invert


def test_invert_writes_concept_report_and_metrics(captioner):
    result = run("invert", "mug.png", "--captioner", captioner, *QUICK, "--json")
    told = json.loads(result.stdout)
    concept = Concept.load("mug-concept.safetensors")
    assert told["text"] == "a red striped cat on the moon" and told["initializer"] == "caption"
    assert concept.token == told["token"] == "<mug>" and concept.count == told["vectors"] == len(told["tokens"])
    assert concept.metadata["modelspec.thumbnail"].startswith("data:image/jpeg")
    assert sorted(path.name for path in Path("mug-run").iterdir()) == ["metrics.jsonl", "report.html"]
    metrics = [json.loads(line) for line in Path("mug-run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [0, 1, 2] and metrics[2]["evaluation"] is not None
    assert not list(Path.cwd().glob("*.lock"))


def test_invert_gives_the_bytes_of_the_three_calls_of_python(model_folder):
    run("invert", "mug.png", "--phrase", "a red cat", *QUICK, "--token", "<c>")
    backbone = sentinv.load(model_folder)
    sentinv.invert(backbone, "mug.png", "a red cat", sentinv.TrainConfig(steps=2), token="<c>").save("own.safetensors")
    ours, own = (Concept.load(name) for name in ("mug-concept.safetensors", "own.safetensors"))
    assert torch.equal(ours.rows["text_encoder"], own.rows["text_encoder"])
    assert ours.fingerprint == sentinv.load(model_folder).fingerprint


def test_invert_tells_what_it_did():
    result = run("invert", "mug.png", "--word", "red", *QUICK)
    assert result.stdout.splitlines()[0] == "<mug>  1 vector from 'red'"
    assert result.stdout.splitlines()[-2:] == ["mug-concept.safetensors", "mug-run/report.html"]
    assert "sentinv: <mug> starts from word: 'red', 1 vector" in result.stderr
    assert '--concept mug-concept.safetensors --model "' not in result.stderr and "--model" in result.stderr
    quiet = run("invert", "mug.png", "--word", "red", *QUICK, "--min-snr", "0", "--force", "--quiet")
    assert quiet.stderr == ""


def test_the_training_options_reach_the_training():
    Path("own.txt").write_text("my {}\nyour {}\n")
    options = "--lr 0.5 --batch-size 2 --schedule cosine --no-flip --stop auto --seed 7".split()
    run("invert", "mug.png", "--word", "red", *QUICK, *options, "--templates", "own.txt", "--kind", "style")
    header = Concept.load("mug-concept.safetensors").metadata
    assert header["sentinv.seed"] == "7" and header["sentinv.learning_rate"] == "0.5"
    page = Path("mug-run/report.html").read_text()
    for setting in ("cosine", "my {}, your {}", "style", "auto"):
        assert f"<code>{setting}</code>" in page


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("--lr 0.5", {"learning_rate": 0.5}),
        ("--batch-size 3", {"batch_size": 3}),
        ("--blended 0", {"batch_size": 4, "blended": 0}),
        ("--schedule constant", {"schedule": "constant"}),
        ("--min-snr 5", {"min_snr": 5.0}),
        ("--min-snr 0", {"min_snr": None}),
        ("--max-norm 0", {"max_norm": None}),
        ("--fixed-norms", {"fixed_norms": True}),
        ("--flip", {"flip": True}),
        ("--seed 7", {"seed": 7}),
        ("--gradient-checkpointing", {"gradient_checkpointing": True}),
    ],
)
def test_each_option_is_a_field_of_the_config(options, wanted):
    command = cli.get_command(click.Context(cli), "invert")
    typed, plain = (
        train_config(InvertOptions(**command.make_context("invert", ["mug.png", *more]).params))
        for more in (options.split(), [])
    )
    assert plain == TrainConfig() and typed == replace(plain, **wanted) != plain


def test_ranking_finds_its_judge_before_it_samples(monkeypatch):
    """CLIP of another model than the built-in one is the hub's, here out of reach."""
    monkeypatch.setattr("sentinv.cli.generate._make", lambda *_: pytest.fail("sampled before"))
    monkeypatch.setattr("sentinv.models.parts._go_offline_if_unreachable", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = CliRunner().invoke(cli, ["generate", "a mug", "--rank"])
    assert result.exit_code == 1 and "openai/clip-vit-base-patch32" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_reader_that_has_gone_is_no_bug():
    save_concept()
    command = [sys.executable, "-m", "sentinv", "inspect", "c.safetensors"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert "bug" not in process.stderr.read()


@pytest.mark.parametrize(
    "options", [["--init", "vanilla"], ["--init", "random", "--seed", "3"], ["--max-vectors", "2"]]
)
def test_starts(options, captioner):
    eyes = ["--captioner", captioner] if "--max-vectors" in options else []
    result = run("invert", "mug.png", *eyes, *options, *QUICK, "--json")
    assert json.loads(result.stdout)["vectors"] == (2 if "--max-vectors" in options else 1)
    assert ("was cut" in result.stderr) == ("--max-vectors" in options)


def test_continuing_a_concept():
    save_concept()
    told = json.loads(run("invert", "mug.png", "--from", "c.safetensors", *QUICK, "--json").stdout)
    assert told["initializer"] == "concept" and told["vectors"] == 2


def test_several_images_with_masks(picture):
    for name in ("one.png", "two.png"):
        picture.save(name)
        Image.new("L", picture.size, 255).save(f"mask-{name}")
    masks = ["--mask", "mask-one.png", "--mask", "mask-two.png"]
    told = json.loads(run("invert", "one.png", "two.png", "--word", "red", *masks, *QUICK, "--json").stdout)
    assert told["token"] == "<one>"
    assert Path("one-run/report.html").read_text().count('alt="input') == 2


def test_plan_writes_nothing(captioner):
    before = sorted(Path.cwd().iterdir())
    result = run("invert", "mug.png", "--captioner", captioner, "--plan")
    for word in ("a red striped cat on the moon", "<mug>", "27: 'a photo of a <mug>'", "MB", "mug-run/"):
        assert word in result.stdout
    plan = json.loads(run("invert", "mug.png", "--captioner", captioner, "--plan", "--json").stdout)
    assert plan["vectors"] == len(plan["tokens"]) and plan["memory"]["total"] > plan["memory"]["weights"] > 0
    assert sorted(Path.cwd().iterdir()) == before


def test_plan_refuses_what_the_run_would_refuse():
    save_concept(count=3)
    refused = ["invert", "mug.png", "--from", "c.safetensors", "--max-vectors", "2"]
    for plan in ([], ["--plan"]):
        assert "<c> has 3 vectors, allowed are 2" in run(*refused, *QUICK, *plan, code=1).stderr
    Concept(token="<w>", rows={"text_encoder": torch.ones(1, 8)}).save("w.safetensors")
    for plan in ([], ["--plan"]):
        told = run("invert", "mug.png", "--from", "w.safetensors", *QUICK, *plan, code=1).stderr
        assert "expected rows of width 16, got 8" in told


def test_an_interrupted_run_resumes_to_the_same_bytes(model_folder):
    """A real process, stopped by a signal after a step; then the same command with --resume."""
    command = ["invert", "mug.png", "--word", "red", "--steps", "40", "--samples", "0", "--batch-size", "1"]
    run(*command, "-o", "whole.safetensors", "--token", "<mug>")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "sentinv", *command], env=environment, stderr=subprocess.PIPE, text=True
    )
    metrics = Path("mug-run/metrics.jsonl")
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert stderr.splitlines()[-1].startswith("sentinv: stopped after step ")
    assert not Path("mug-concept.safetensors").exists() and len(list(Path("mug-run/checkpoints").iterdir())) >= 1
    assert "--resume goes on" in run(*command, code=1).stderr
    assert "learning_rate" in run(*command, "--lr", "0.5", "--resume", code=1).stderr
    run(*command, "--resume")
    assert Path("mug-concept.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()
    assert not Path("mug-run/checkpoints").exists()
    assert metrics.read_text().count("\n") == 41


# errors

# what is typed, exit code, what the line says (… is invert mug.png --word red)
ERRORS = [
    ("invert", 2, "Missing argument 'IMAGE…'"),
    ("invert none.png --word red", 1, "none.png does not exist; expected a JPEG, PNG or WebP picture: check the name"),
    ("invert mug.png --init word", 2, "--init word needs --word"),
    ("invert mug.png --init class --word red", 2, "--init class and --word exclude each other: give one start"),
    ("… --phrase 'a cat'", 2, "--word and --phrase exclude each other: give one start"),
    (
        "invert mug.png --word 'two words'",
        1,
        "expected one word to start from, got 'two words': give a word, or several as a phrase",
    ),
    ("invert mug.png --phrase ''", 1, "expected a phrase to start from, got none: give at least a word"),
    ("… --drop-scene", 2, "--drop-scene has no effect with --init word: leave it out"),
    ("generate mug --clip x", 2, "--clip has no effect without --rank: leave it out"),
    ("bench speed --full-size --model x", 2, "--model has no effect with --full-size: leave it out"),
    ("bench speed --image none.png", 1, "none.png does not exist; expected a JPEG, PNG or WebP picture"),
    ("… --lr -1", 2, "learning_rate must be finite and above 0, got -1.0"),
    ("… --steps -1", 2, "steps must be at least 0, got -1"),
    ("… --token Mug", 1, "use '<mug>'"),
    ("… --token '<Mug>'", 1, "use '<mug>'"),
    ("… --mask a.png --mask b.png", 2, "got 2 --mask for 1 images: give one for each, in their order"),
    (
        "… --mask small.png",
        1,
        "--mask small.png: the mask has 16 x 16, its picture 24 x 20 pixels: give one of the same size",
    ),
    ("… -o mug.pt", 1, "cannot write mug.pt: expected a name that ends in .safetensors; choose one"),
    ("… -o no/mug-concept.safetensors", 1, "the folder no does not exist; create it first"),
    ("… -o there.safetensors", 1, "there.safetensors exists: give --force to replace it, or choose another --output"),
    ("… --resume", 1, "nothing to resume: mug-run/checkpoints does not exist; start without --resume"),
    ("… --templates there.safetensors", 1, "cannot read templates from there.safetensors"),
    ("… --model nowhere", 1, "got nowhere, which does not exist"),
    ("… --device nonsense", 2, "'nonsense' is not a device of this machine"),
    ("invert mug.png --from none.safetensors", 1, "none.safetensors"),
    ("generate 'a photo of <c>'", 1, "the prompt names <c>, but the concepts given are: none; add its concept file"),
    ("generate 'a photo of <c>' -c there.safetensors -c there.safetensors", 1, "<c>"),
    ("generate x -o full", 1, "full exists: give --force to write into it, or choose another --output"),
    ("inspect mug.png", 1, "mug.png"),
    ("describe none.png", 1, "none.png does not exist; expected a JPEG, PNG or WebP picture: check the name"),
    ("nonsense", 2, "No such command 'nonsense'"),
]


@pytest.mark.parametrize(("typed", "code", "text"), ERRORS, ids=[typed for typed, _, _ in ERRORS])
def test_errors_are_one_line(typed, code, text):
    save_concept("there.safetensors")
    Path("full").mkdir()
    Image.new("L", (16, 16), 255).save("small.png")
    before = sorted(Path.cwd().iterdir())
    result = run(*shlex.split(typed.replace("…", "invert mug.png --word red")), code=code)
    last = result.stderr.splitlines()[-1]
    assert text in last and result.stdout == "" and "Traceback" not in result.stderr
    assert last.startswith("sentinv: error: " if code == 1 else "Error: ")
    assert code == 2 or len([line for line in result.stderr.splitlines() if "error" in line]) == 1
    assert sorted(Path.cwd().iterdir()) == before


def test_a_held_output_names_its_holder():
    with lock("mug-concept.safetensors"):
        script = [sys.executable, "-m", "sentinv", "invert", "mug.png", "--word", "red"]
        done = subprocess.run(script, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1 and f"process {os.getpid()}" in done.stderr and not Path("mug-run").exists()


def test_a_placeholder_in_the_vocabulary_is_refused(monkeypatch):
    monkeypatch.setattr("sentinv.models.text_encoder.TextEncoder.vocabulary", {"<mug>": 1})
    assert "choose another name" in run("invert", "mug.png", "--word", "red", code=1).stderr


def test_ctrl_c_before_training_is_130(monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("sentinv.models.loading.load", stop)
    result = run("invert", "mug.png", "--word", "red", code=130)
    assert result.stderr.splitlines()[-1] == "sentinv: stopped" and not Path("mug-run").exists()


def test_sigterm_outside_training_is_143_and_leaves_nothing(monkeypatch):
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("sentinv.models.loading.load", lambda *args, **options: os.kill(os.getpid(), signal.SIGTERM))
    result = run("invert", "mug.png", "--word", "red", code=143)
    assert result.stderr.splitlines()[-1] == "sentinv: stopped"
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["mug.png"]
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("everything", [Exception, BaseException])
def test_a_library_that_takes_every_exception_for_its_own_does_not_take_a_signal(monkeypatch, number, everything):
    def load(*args, **options):
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        except everything as error:
            raise SentinvError("the model is damaged") from error

    monkeypatch.setattr("sentinv.models.loading.load", load)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background may have it ignored
    try:
        result = CliRunner().invoke(cli, ["generate", "a cat"])
        assert result.exit_code == 128 + number and result.stderr.endswith("sentinv: stopped\n")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize(("second", "code"), [(KeyboardInterrupt(), 130), (Interrupted("", signal.SIGTERM), 143)])
def test_a_second_signal_while_the_first_is_told(monkeypatch, second, code):
    def stop(*args, **options):
        raise KeyboardInterrupt

    def tell(*args):
        raise second

    monkeypatch.setattr("sentinv.models.loading.load", stop)
    monkeypatch.setattr("sentinv.cli.main._tell", tell)
    run("invert", "mug.png", "--word", "red", code=code)


def test_only_our_own_warnings_are_shown(monkeypatch):
    import warnings

    def load(*args, **options):
        warnings.warn_explicit("of theirs", UserWarning, "theirs.py", 1, module="theirs")
        warnings.warn_explicit("of ours,\n in two lines", UserWarning, "ours.py", 1, module="sentinv.ours")
        raise sentinv.SentinvError("end")

    monkeypatch.setattr("sentinv.concepts.reading.load_all", load)
    result = run("inspect", "x", code=1)
    assert result.stderr == "sentinv: warning: of ours, in two lines\nsentinv: error: end\n"


# generate, describe, inspect


def test_generate_writes_images_with_their_settings_and_a_grid():
    save_concept()
    args = [
        "generate",
        "a photo of <c> on the moon",
        "-c",
        "c.safetensors",
        "--steps",
        "2",
        "--count",
        "3",
        "--seed",
        "5",
    ]
    paths = run(*args, "--negative", "blue").stdout.split()
    folder = "a-photo-of-c-on-the-moon"
    assert paths == [f"{folder}/seed-{seed}.png" for seed in (5, 6, 7)] + [f"{folder}/grid.png"]
    text = Image.open(paths[1]).text
    first, negative, rest = text["parameters"].splitlines()
    assert first == "a photo of <c> on the moon" and negative == "Negative prompt: blue" and "Seed: 6" in rest
    assert json.loads(text["sentinv"])["steps"] == 2
    assert run(*args, code=1).stderr.count("\n") == 1
    again = run(*args, "--negative", "blue", "--force", "--json").stdout
    assert [image["seed"] for image in json.loads(again)["images"]] == [5, 6, 7]


def test_what_was_generated_before_a_stop_is_kept(monkeypatch):
    def stopping(*args, **options):
        yield from itertools.islice(plain(*args, **options), 2)
        raise KeyboardInterrupt

    plain = sentinv.generation.generate.generate_images
    monkeypatch.setattr(sentinv.generation.generate, "generate_images", stopping)
    args = ["generate", "a cat", "--steps", "1", "-n", "5", "--batch-size", "2", "--seed", "5", "-o", "out"]
    assert run(*args, code=130).stderr.endswith("sentinv: stopped: 2 of 5 images are in out\n")
    assert sorted(path.name for path in Path("out").iterdir()) == ["seed-5.png", "seed-6.png"]


def test_a_folder_that_cannot_be_is_told_before_the_work(monkeypatch):
    monkeypatch.setattr(sentinv.generation.generate, "generate_images", lambda *args, **options: 1 / 0)
    Path("taken").touch()
    assert "taken" in run("generate", "a cat", "-o", "taken/out", code=1).stderr
    assert "bug" in run("generate", "a cat", "-o", "out", code=1).stderr
    assert not Path("out").exists()


def test_an_image_of_no_numbers_is_an_error_and_no_black_picture():
    result = run("generate", "a cat", "-n", "1", "--steps", "2", "--guidance", "1e39", "-o", "out", code=1)
    assert result.stderr.endswith("the latents have values that are not finite in float32: lower the guidance\n")
    assert not Path("out").exists()


def test_generate_in_another_shape():
    args = ["generate", "a cat", "--steps", "1", "-n", "2", "-o", "out", "--width", "26"]
    paths = run(*args, "--height", "12").stdout.split()
    assert [Image.open(path).size for path in paths[:2]] == [(26, 12)] * 2
    assert "Size: 26x12" in Image.open(paths[0]).text["parameters"]
    result = run(*args, "--height", "13", "--force", code=1)
    assert result.stderr == "sentinv: error: --height: expected a multiple of 2, got 13\n"
    assert Image.open(paths[0]).size == (26, 12)


def test_rank_orders_by_clip(tmp_path, tokenizer):
    judge = build_judge(tokenizer)
    judge.model.save_pretrained(tmp_path / "clip")
    judge.processor.save_pretrained(tmp_path / "clip")
    save_concept(metadata={"sentinv.initial_text": "a red cat"})
    args = ["generate", "<c> on the moon", "-c", "c.safetensors", "--steps", "1", "--count", "3", "-o", "out", "--rank"]
    images = json.loads(run(*args, "--clip", tmp_path / "clip", "--json").stdout)["images"]
    scores = [image["clip"] for image in images]
    assert scores == sorted(scores, reverse=True)
    pictures = [Image.open(image["path"]) for image in images]
    expected = judge.images(pictures) @ judge.texts(["a red cat on the moon"])[0]
    assert scores == pytest.approx(expected.tolist(), abs=1e-5)
    assert Path(images[0]["path"]).name == f"rank-1-seed-{images[0]['seed']}.png"


def test_generate_says_that_a_word_is_not_used():
    save_concept()
    result = run("generate", "a cat", "-c", "c.safetensors", "--steps", "1", "-n", "1", "-o", "out")
    assert "<c> does not occur in the prompt" in result.stderr and result.stdout == "out/seed-0.png\n"


def test_describe_shows_every_start(captioner, classifier):
    seeing = ["--captioner", captioner, "--classifier", classifier]
    lines = run("describe", "mug.png", *seeing, "--phrase", "red cat").stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        *("init", "caption", "class", "phrase", "random", "vanilla")
    ]
    starts = json.loads(run("describe", "mug.png", *seeing, "--json").stdout)["starts"]
    assert starts[0]["text"] == "a red striped cat on the moon" and all(
        s["vectors"] == len(s["tokens"]) for s in starts
    )


def test_describe_shows_the_rest_where_a_model_is_missing(classifier, tmp_path):
    (tmp_path / "empty").mkdir()
    result = run("describe", "mug.png", "--captioner", tmp_path / "empty", "--classifier", classifier, code=1)
    assert "tabby" in result.stdout and "vanilla" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("sentinv: error: caption: cannot load captioner")


def test_inspect_shows_every_vector():
    run("invert", "mug.png", "--phrase", "red cat", *QUICK)
    text = run("inspect", "mug-concept.safetensors").stdout
    assert "'red cat' (phrase)" in text and "<mug>_1" in text
    rows = json.loads(run("inspect", "mug-concept.safetensors", "--json").stdout)["rows"]
    assert [row["word"] for row in rows] == ["red", "cat"] and all(-1 <= row["cosine"] <= 1.001 for row in rows)


def test_inspect_reads_strangers_files():
    from safetensors.torch import save_file

    save_file({"emb_params": torch.ones(2, 768)}, "strange.safetensors")
    text = run("inspect", "strange.safetensors").stdout
    assert "<strange>" in text and "27.713" in text


def test_toybox_is_told_once_and_loudly(monkeypatch):
    monkeypatch.setattr(
        "sentinv.models.loading.load", lambda *args, **options: (_ for _ in ()).throw(sentinv.SentinvError("end"))
    )
    result = run("invert", "mug.png", "--word", "red", "--model", "toybox", code=1)
    assert result.stderr.count("DEMONSTRATION") == 1 and "--model sd15" in result.stderr
