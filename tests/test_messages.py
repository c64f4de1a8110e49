"""What is said where something goes wrong: one line, what and why and what to do, and the exit code.

The numbers are those of the list of failures that this package is held to. Those that end in no message are tested
elsewhere: 5, 6 (kills and resumed bytes), 8, 9 (other settings, signals), 15 (what is installed is undone), 26 to 31 (what a
picture means), 38 (steps, not clocks, order checkpoints); 11, 12 and 39 are of parts that this package does not have.
"""

# ruff: noqa: E501 - what is said is one line here too

import errno
import os
import re
import shlex
import shutil
import struct
import zlib
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from test_files import FaultyOs

import sentinv.models.backbone
from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.files import atomic as files
from sentinv.files.locks import lock

INVERT = "invert mug.png --word red --steps 2 --samples 0"


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch, model_folder, picture):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTINV_MODEL", str(model_folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    picture.save("mug.png")


def concept(path, width=16, token="<c>", **changes):
    Concept(token=token, rows={"text_encoder": torch.ones(1, width)}, **changes).save(path)


def breaking(monkeypatch, answer):
    monkeypatch.setattr(sentinv.models.backbone.Backbone, "predict", answer)


def no_number(monkeypatch):
    honest, calls = sentinv.models.backbone.Backbone.predict, []

    def predict(self, *arguments):
        calls.append(1)
        return honest(self, *arguments) * (float("nan") if len(calls) == 6 else 1)  # four of the start, one step

    breaking(monkeypatch, predict)


def no_memory(monkeypatch):
    def predict(self, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    breaking(monkeypatch, predict)
    monkeypatch.setattr("sentinv.training.rescue.free_memory", lambda device: 12_000_000)


def full_disk(monkeypatch):
    monkeypatch.setattr(files, "os", FaultyOs(16, errno.ENOSPC))


def interrupted_run(*damage):
    def arrange(monkeypatch):
        Path("mug-run/checkpoints").mkdir(parents=True)
        for name in damage:
            Path("mug-run/checkpoints", name).write_bytes(b"\x40" + bytes(99))

    return arrange


def taken_word(monkeypatch):
    monkeypatch.setattr("sentinv.models.text_encoder.TextEncoder.vocabulary", {"<mug>": 1})


def tensors(**content):
    def arrange(monkeypatch):
        save_file(content, "x.safetensors")

    return arrange


def written(name, data):
    def arrange(monkeypatch):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(data() if callable(data) else data)

    return arrange


def two_concepts(monkeypatch):
    concept("a.safetensors")
    concept("b.safetensors")


def other_width(monkeypatch):
    concept("x.safetensors", 24)


def pickled(monkeypatch):
    torch.save({"<c>": Path("x")}, "x.pt")


def bomb():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def cut_picture():
    return Path("mug.png").read_bytes()[:200]


def tiny_picture(monkeypatch):
    Image.new("RGB", (1, 1)).save("x.png")


def damaged_model(monkeypatch):
    shutil.copytree(os.environ["SENTINV_MODEL"], "model")
    file = next(Path("model/unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:5000])


def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("sentinv.models.parts._go_offline_if_unreachable", lambda: None)
    monkeypatch.setenv("HF_HOME", "nowhere")


# number, what is wrong, what is typed, what is said (… stands for anything)
CASES = [
    (
        1,
        no_number,
        INVERT + " --blended 0",
        "the loss or the rows were not finite in step 2 of 2: the best rows until then are in mug-concept.safetensors; try a smaller --relative-lr",
    ),
    (
        2,
        None,
        INVERT + " --lr 10 --max-norm 0 --steps 9",
        "a row grew to more than 1000 times the vocabulary's median length in step 3 of 9: the best rows until then are in mug-concept.safetensors; try a smaller --lr",
    ),
    (
        3,
        no_memory,
        INVERT + " --blended 0",
        "out of memory, even with gradient checkpointing and one item at a time: a step needs about 1 MB beside the weights, 12 MB are free; use a smaller --dtype or model, another device, or end other programs",
    ),
    (
        4,
        full_disk,
        INVERT,
        "cannot write mug-concept.safetensors: the disk is full; free some space or choose another place",
    ),
    (7, None, INVERT + " --resume", "nothing to resume: mug-run/checkpoints does not exist; start without --resume"),
    (
        7,
        interrupted_run(),
        INVERT + " --resume",
        "no checkpoint to resume from in mug-run/checkpoints: check the path, or start anew without resuming",
    ),
    (
        7,
        interrupted_run("step-000001.safetensors"),
        INVERT + " --resume",
        "no checkpoint to resume from in mug-run/checkpoints: check the path, or start anew without resuming",
    ),
    (13, taken_word, INVERT, "the placeholder <mug> is in this model's vocabulary already: choose another name"),
    (
        13,
        None,
        INVERT + " --token '<A B>'",
        "expected a placeholder in lower case and angle brackets (letters, digits, '-', '_', '.'), got '<A B>': use '<a-b>'",
    ),
    (
        14,
        written("t.txt", b"a " * 60 + b"{}\n"),
        INVERT + " --templates t.txt",
        "the prompt 'a a …' has 61 tokens, the text encoder takes 38, and a placeholder would be cut off: shorten the prompt, put the placeholder first, or give it fewer vectors",
    ),
    (
        16,
        two_concepts,
        "generate '<c>' -c a.safetensors -c b.safetensors",
        "expected concepts with different placeholders, got <c> twice: learn one of them under another --token",
    ),
    (
        17,
        None,
        "invert mug.png --steps 0 --samples 0 --phrase '" + "red " * 50 + "'",
        "the prompt 'a photo of a <mug>' has 42 tokens, the text encoder takes 38, and a placeholder would be cut off: shorten the prompt, put the placeholder first, or give it fewer vectors",
    ),
    (18, None, "invert mug.png --phrase ' '", "expected a phrase to start from, got none: give at least a word"),
    (
        18,
        None,
        "invert mug.png --phrase 'a \udcff cat'",
        r"expected text, got bytes that are not UTF-8: 'a \udcff cat'; type it anew",
    ),
    (
        18,
        written("t.txt", b"a photo\n"),
        INVERT + " --templates t.txt",
        "t.txt, line 1: expected one '{}' where the placeholder goes, got 'a photo'",
    ),
    (
        19,
        other_width,
        "invert mug.png --from x.safetensors",
        "<c> does not fit …: expected rows of width 16, got 24; use the model that the concept was made with",
    ),
    (
        19,
        other_width,
        "generate '<c>' -c x.safetensors",
        "these rows do not fit the model …: expected widths text_encoder 16, got text_encoder 24; use the model that the concept was made with",
    ),
    (
        20,
        tensors(a=torch.ones(1, 16), b=torch.ones(1, 16)),
        "inspect x.safetensors",
        "x.safetensors: expected one tensor, or clip_l and clip_g, got 2: a, b; is it a concept?",
    ),
    (
        21,
        tensors(a=torch.ones(1, 16, dtype=torch.int64)),
        "inspect x.safetensors",
        "x.safetensors holds int64 in a; expected float32, float16 or bfloat16",
    ),
    (
        22,
        tensors(a=torch.full((1, 16), float("nan"))),
        "inspect x.safetensors",
        "x.safetensors has 16 values in a that are NaN or infinite: it is of no use",
    ),
    (
        22,
        tensors(a=torch.zeros(1, 16)),
        "inspect x.safetensors",
        "x.safetensors holds nothing but zeros: it is of no use",
    ),
    (
        23,
        pickled,
        "inspect x.pt",
        "x.pt is a pickle, which can run code: get it as .safetensors, or allow pickles explicitly",
    ),
    (
        24,
        written("x.safetensors", b"PK\3\4" + bytes(200)),
        "inspect x.safetensors",
        "x.safetensors is a pickle, which can run code, under the name of a safetensors file: don't trust it",
    ),
    (
        25,
        written("x.png", cut_picture),
        "invert x.png --word red",
        "x.png is damaged or cut off (200 bytes: image file is truncated); copy or download it again",
    ),
    (
        32,
        tiny_picture,
        "invert x.png --word red",
        "x.png is 1 x 1 pixels; expected at least 16 on each side: use a larger picture",
    ),
    (
        33,
        written("x.png", bomb),
        "invert x.png --word red",
        "x.png is too large; expected at most 50 million pixels: scale it down",
    ),
    (
        34,
        written("x.png", b"hello"),
        "invert x.png --word red",
        "x.png is not a picture; expected JPEG, PNG, WebP, AVIF or TIFF: convert it, or name another file",
    ),
    (
        34,
        written("many/x.png", b"hello"),
        "invert many --word red",
        "many is a folder; expected a JPEG, PNG or WebP picture: name a file in it",
    ),
    (
        35,
        offline,
        INVERT + " --model sd15",
        "cannot download model_index.json of sd15: the hub is out of reach; go online, or give a folder",
    ),
    (36, damaged_model, INVERT + " --model model", "cannot load unet of model: …; the model is incomplete or damaged"),
    (
        37,
        None,
        INVERT + " -o " + "x" * 300 + ".safetensors",
        "cannot write …: the name is too long; choose a shorter one",
    ),
    (
        37,
        None,
        INVERT + " -o /proc/x.safetensors",
        "cannot write /proc/x.safetensors.lock: No such file or directory; choose another place",
    ),
    (
        37,
        written("x", b""),
        INVERT + " -o x/y.safetensors",
        "cannot write x/y.safetensors: the folder x does not exist; create it first",
    ),
    (
        10,
        None,
        INVERT,
        "mug-concept.safetensors is being written by process … on …; wait for it to end or choose another output",
    ),
]


@pytest.mark.parametrize(("number", "arrange", "typed", "line"), CASES)
def test_one_line_says_it(monkeypatch, number, arrange, typed, line):
    if arrange:
        arrange(monkeypatch)
    with lock("mug-concept.safetensors") if number == 10 else nullcontext():
        result = CliRunner().invoke(cli, shlex.split(typed))
    assert result.exit_code == 1, result.output
    errors = [said for said in result.stderr.splitlines() if "error" in said]
    wanted = re.escape(f"sentinv: error: {line}").replace("…", ".+")
    assert len(errors) == 1 and re.fullmatch(wanted, errors[0]), errors
    assert errors[0] == result.stderr.splitlines()[-1]
