"""Sixty calls of somebody who sits down at this for the first time: what comes of each, and what it says.

A row is a call, its exit code, and a part of what it prints: of the last line, if it fails. No call ends in a traceback or in
"this is a bug"; what fails, fails in one line of stderr (usage errors have click's lines around it).
"""

# ruff: noqa: E501 - a call and what it says are one line

import shlex
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept

INVERT = "invert mug.png --word red --steps 1 --samples 0 --batch-size 1"
GENERATE = "generate 'a photo of <c>' -c c.safetensors --steps 1 -n 1"
MASK = "edit mug.png --steps 2 --prompt 'a dog' --mask"
EDIT = "edit mug.png --steps 2 --ddim-invert"

CALLS = [
    # which picture
    ("invert", 2, "Missing argument 'IMAGE"),
    ("invert nothing.png", 1, "nothing.png does not exist"),
    ("invert .", 1, ". is a folder; expected a JPEG, PNG or WebP picture: name a file in it"),
    ("invert notes.txt", 1, "notes.txt is not a picture; expected JPEG, PNG, WebP, AVIF or TIFF"),
    ("invert page.jpg", 1, "page.jpg is a web page"),
    (
        "invert IMG_1.HEIC",
        1,
        "IMG_1.HEIC is a HEIC picture, which this installation can't read: pip install 'sentinv[heic]'",
    ),
    ("invert photo.jxl", 1, "photo.jxl is a JPEG XL picture, which this installation can't read"),
    ("invert clip.mov", 1, "clip.mov is a video"),
    ("invert half.jpg", 1, "half.jpg is damaged or cut off"),
    ("invert icon.png", 1, "icon.png is 8 x 8 pixels; expected at least 16"),
    ("invert c.safetensors", 1, "c.safetensors is not a picture"),
    (INVERT.replace("mug.png", "scan.tif"), 0, "scan-concept.safetensors"),
    (INVERT.replace("mug.png", "web.avif"), 0, "web-concept.safetensors"),
    (INVERT.replace("mug.png", "'My Cat (1).JPG'"), 0, "my-cat-1-concept.safetensors"),
    (INVERT.replace("mug.png", "кот.png"), 0, "kot-concept.safetensors"),
    (INVERT.replace("mug.png", "猫.png"), 0, "u732b-concept.safetensors"),
    (INVERT.replace("mug.png", "cut-out.png"), 0, "cut-out.png is partly transparent"),
    (
        INVERT.replace("mug.png", "tall.png"),
        0,
        "only the middle 16 x 16 of 16 x 48 pixels are trained on; --crop top, bottom or none",
    ),
    (INVERT.replace("mug.png", "tall.png --crop top"), 0, "only the top 16 x 16"),
    (INVERT.replace("mug.png", "tall.png --crop none"), 0, "tall-concept.safetensors"),
    (INVERT.replace("mug.png", "tall.png --crop top --plan"), 0, "image       the top 16 x 16 of 16 x 48 pixels"),
    (INVERT.replace("mug.png", "tall.png --crop middle"), 2, "'middle' is not one of"),
    # how to learn
    (INVERT, 0, "mug-concept.safetensors"),
    (INVERT + " --plan", 0, "files       mug-concept.safetensors, mug-run/"),
    (INVERT + " --token mug", 1, "use '<mug>'"),
    (INVERT + " --token '<My Mug>'", 1, "use '<my-mug>'"),
    (INVERT + " --token '<кот>'", 1, "use '<kot>'"),
    (INVERT + " --steps -5", 2, "steps must be at least 0, got -5"),
    (INVERT + " --steps many", 2, "'many' is not a valid integer"),
    (INVERT + " --lr 0", 2, "learning_rate must be finite and above 0"),
    (INVERT + " --phrase 'a mug'", 2, "--word and --phrase exclude each other"),
    (INVERT + " --captioner blip", 2, "--captioner has no effect with --init word: leave it out"),
    (INVERT + " --classifier vit", 2, "--classifier has no effect with --init word: leave it out"),
    (INVERT + " -o mug.pt", 1, "expected a name that ends in .safetensors"),
    (INVERT + " -o no/mug.safetensors", 1, "the folder no does not exist; create it first"),
    (INVERT + " --device gpu", 2, "'gpu' is not a device of this machine"),
    (INVERT + " --device meta", 2, "'meta' is not a device of this machine"),
    (INVERT + " --model sd3", 1, "which does not exist"),
    (INVERT + " --mask mug.png", 1, "is a picture in colours; expected a mask in black and white"),
    (INVERT + " --mask black.png", 1, "the mask is empty"),
    (INVERT + " --mask label.png", 0, "mug-concept.safetensors"),
    (
        "invert mug.png --phrase 'cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat' --plan",
        1,
        "a placeholder would be cut off",
    ),
    (
        "invert mug.png --phrase 'cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat cat' --samples 0",
        1,
        "a placeholder would be cut off",
    ),
    # what to make of it
    ("generate", 2, "Missing argument 'PROMPT'"),
    (GENERATE, 0, "a-photo-of-c/seed-0.png"),
    (GENERATE + " -o out.png", 0, "out.png"),
    (GENERATE + " -o out.jpg", 2, "images are written as PNG"),
    (GENERATE.replace("-n 1", "-n 3") + " -o out.png", 2, "is one file for 3 images: name a folder"),
    (GENERATE.replace("<c>", "<C>"), 1, "the prompt names <C>, but the concepts given are: <c>; write <c>"),
    (GENERATE.replace("<c>", "<dog>"), 1, "add its concept file (-c) or take the brackets off"),
    (GENERATE.replace("<c>", "c"), 0, "<c> does not occur in the prompt: write it there"),
    (GENERATE.replace("<c>", "(<c>:1.4)"), 0, "(word:weight) is text here; --weight '<c>=1.4' weighs a learned word"),
    (GENERATE.replace("<c>", "<c> <lora:x:.8>"), 0, "<lora:x:.8> is text here, and nothing is loaded"),
    (GENERATE.replace("<c>", "<c> BREAK [cat|dog]"), 0, "[a|b] is text here"),
    (GENERATE + " --weight '<c>=1.3'", 0, "seed-0.png"),
    (GENERATE + " --weight c=1.3", 2, "such as '<cat>=1.2'"),
    (GENERATE + " --weight '<dog>=1.3'", 1, "<dog> has a weight and does not occur in the prompt"),
    (GENERATE + " --negative blurry --guidance 1", 2, "--negative has no effect with --guidance 1"),
    (GENERATE + " --width 100001", 2, "is not in the range"),
    (GENERATE.replace("c.safetensors", "mug.png"), 1, "mug.png is a picture without a word in its text"),
    ("generate 'кот на луне' --steps 1 -n 1", 0, "кот-на-луне/seed-0.png"),
    ("generate '一只猫' --steps 1 -n 1", 0, "一只猫/seed-0.png"),
    # changing a picture
    ("edit mug.png --prompt 'a dog'", 2, "say how to edit"),
    (MASK + " mug.png", 1, "is a picture in colours"),
    (MASK + " black.png", 1, "the mask is empty"),
    (MASK + " label.png", 0, "mug-edit.png"),
    (MASK + " cut-out.png", 0, "what is opaque, 25% of it, is the mask"),
    (MASK + " other.png", 1, "they must be of one size"),
    (EDIT + " --prompt 'a <dog>' --source-prompt 'a cat'", 1, "the prompt names <dog>"),
    (EDIT + " --prompt 'a dog' --source-prompt 'a cat' -o out.jpg", 1, "expected a name that ends in .png"),
    (
        EDIT + " --prompt 'a dog' --source-prompt 'a cat' --guidance 1 --source npi",
        2,
        "--source has no effect at --guidance 1",
    ),
    # looking around
    ("inspect c.safetensors", 0, "vector  started as   width"),
    ("inspect mug.png", 1, "mug.png is a picture without a word in its text"),
    ("insepct c.safetensors", 2, "No such command 'insepct'"),
    ("describe mug.png --word red --classifier vit", 1, "caption: "),
]


def write_files(folder):
    values = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    picture = Image.fromarray(values)
    picture.save("mug.png")
    for name in ("кот.png", "猫.png", "My Cat (1).JPG"):
        picture.save(name)
    picture.save("scan.tif")
    picture.save("web.avif")
    inside = np.zeros((16, 16), np.uint8)
    inside[4:12, 4:12] = 1
    cut_out = picture.convert("RGBA")
    cut_out.putalpha(Image.fromarray(inside * 255))
    cut_out.save("cut-out.png")
    Image.fromarray(inside).save("label.png")
    Image.fromarray(inside).resize((32, 32)).save("other.png")
    Image.new("L", (16, 16)).save("black.png")
    Image.new("RGB", (16, 48), "green").save("tall.png")
    Image.new("RGB", (8, 8)).save("icon.png")
    Image.new("RGB", (400, 400)).save("half.jpg")
    Path("half.jpg").write_bytes(Path("half.jpg").read_bytes()[:-400])
    Path("notes.txt").write_text("a red mug")
    Path("page.jpg").write_text("<!doctype html><p>404")
    brands = {"IMG_1.HEIC": b"heic", "clip.mov": b"qt  "}
    for name, brand in brands.items():
        Path(name).write_bytes(struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + brand * 2)
    Path("photo.jxl").write_bytes(b"\xff\x0a\x7f\x44")
    Concept(token="<c>", rows={"text_encoder": torch.arange(1.0, 17.0)[None] / 100}).save("c.safetensors")


@pytest.fixture(autouse=True)
def _desk(tmp_path, monkeypatch, model_folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTINV_MODEL", str(model_folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    monkeypatch.setitem(__import__("sys").modules, "pillow_jxl", None)
    write_files(tmp_path)


def test_there_are_sixty():
    assert len({call for call, _, _ in CALLS}) == len(CALLS) >= 60


@pytest.mark.parametrize(("call", "code", "line"), CALLS)
def test_a_call(call, code, line):
    before = {path.name for path in Path().iterdir()}
    result = CliRunner().invoke(cli, shlex.split(call))
    assert result.exit_code == code, result.output
    assert line in result.output
    assert "this is a bug" not in result.output and "Traceback" not in result.output
    if code:
        assert line in result.stderr.splitlines()[-1] and (code == 2 or result.stderr.startswith("sentinv: "))
        assert {path.name for path in Path().iterdir()} <= before | {"mug-run"} and not list(Path().glob(".sentinv*"))
