"""The built-in model as it is shipped: it loads with the standard classes, offline, and draws what it is told."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sentinv.adapters.install import fresh_layers
from sentinv.adapters.lora import Lora
from sentinv.errors import ModelError
from sentinv.models.built_in import built_in
from sentinv.models.loading import load
from sentinv.training.config import TuneConfig

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "sentinv" / "toybox"
if not (FOLDER / "pipeline" / "model_index.json").is_file():
    pytest.skip("the built-in model's weights are not in this checkout", allow_module_level=True)

SIDE = load("toybox").resolution

BLOCKED = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError(f"network access: {args}")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


def test_all_parts_together_are_small():
    size = sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file() and p.suffix not in {".py", ".pyc"})
    assert size <= 48_000_000


def test_the_file_of_a_lora_is_small():
    """That of `sentinv tune` with nothing asked for, without what its header says of the run."""
    config = TuneConfig()
    fresh = fresh_layers(load("toybox").unet, config.targets, config.rank, torch.Generator().manual_seed(config.seed))
    layers = {
        name: replace(one, down=one.down.half().float()) for name, one in fresh.items()
    }  # as those that were learned
    assert 370_000 < len(Lora(layers=layers, token="<cat>").to_bytes()) < 399_000


def test_everything_loads_with_the_network_blocked(tmp_path):
    """Standard classes, and the two residual ones, in a process that can't open a connection."""
    code = f"""{BLOCKED}
import torch
from diffusers import StableDiffusionPipeline
from transformers import *
from sentinv.models.residual import ResidualBlip, ResidualClip
folder = {str(FOLDER)!r}
pipeline = StableDiffusionPipeline.from_pretrained(folder + "/pipeline", dtype=torch.float32)
pipeline.set_progress_bar_config(disable=True)
picture = pipeline("a red cat on the beach", num_inference_steps=2).images[0]
assert picture.size == ({SIDE}, {SIDE})
processor = BlipProcessor.from_pretrained(folder + "/captioner")
captioner = ResidualBlip.from_pretrained(folder + "/captioner", dtype=torch.float32)
said = captioner.generate(**processor(images=picture, return_tensors="pt"), max_new_tokens=20)
assert processor.decode(said[0], skip_special_tokens=True)
classifier = AutoModelForImageClassification.from_pretrained(folder + "/classifier", dtype=torch.float32)
inputs = AutoImageProcessor.from_pretrained(folder + "/classifier")(picture, return_tensors="pt")
assert classifier(**inputs).logits.shape[1] == len(classifier.config.id2label) >= 40
clip = ResidualClip.from_pretrained(folder + "/clip", dtype=torch.float32)
inputs = CLIPProcessor.from_pretrained(folder + "/clip")(text=["a cat"], images=picture, return_tensors="pt")
assert clip(**inputs).logits_per_image.shape == (1, 1)
tower = AutoModelForImageClassification.from_pretrained(folder + "/tower", dtype=torch.float32)
inputs = AutoImageProcessor.from_pretrained(folder + "/tower")(picture, return_tensors="pt")
assert tower(**inputs).logits.shape == (1, pipeline.text_encoder.config.hidden_size)
import sentinv
sentinv.generate(sentinv.load("toybox"), "a cat", config=sentinv.GenerateConfig(steps=2))
print("loaded")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.strip().endswith("loaded"), done.stderr[-2000:]


def test_a_script_without_sentinv_draws(tmp_path):
    target = tmp_path / "cat.png"
    script = [sys.executable, str(ROOT / "examples" / "draw.py"), "a red cat on the beach", str(target)]
    subprocess.run(script, check=True, capture_output=True)
    assert Image.open(target).size == (SIDE, SIDE)


def test_configs_are_stable_diffusions():
    backbone = load("toybox")
    assert backbone.schedule.prediction_type == "epsilon"
    assert backbone.schedule.train_timesteps == 1000
    config = backbone.schedule.config
    assert (config["clip_sample"], config["set_alpha_to_one"], config["steps_offset"]) == (False, False, 1)
    tokenizer = backbone.text_encoders[0].tokenizer
    assert backbone.text_encoders[0].model.config.eos_token_id == tokenizer.eos_token_id
    text = "zyx quokka émigré 42"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).replace(" ", "") == text.replace(
        " ", ""
    )


def test_latents_have_the_scale_that_the_schedule_supposes():
    from sentinv.files.images import prepare

    backbone = load("toybox")
    pictures = sorted((ROOT / "benchmarks" / "concepts").glob("*/image.png"))
    pixels = torch.cat([prepare(Image.open(p).convert("RGB"), (SIDE, SIDE), multiple=8) for p in pictures])
    moments = backbone.encode(pixels)
    latents = backbone.sample_latents(moments.mean, moments.std, torch.zeros_like(moments.mean))
    assert latents.std().item() == pytest.approx(1.0, abs=0.25)
    error = (backbone.decode(latents) - pixels).div(2).square().mean((1, 2, 3))
    assert (-10 * error.log10()).mean() > 26


PARTS = ("pipeline", "captioner", "classifier", "attributes", "clip", "tower")


@pytest.fixture
def installation(monkeypatch, tmp_path):
    """A copy of the built-in model that may be damaged."""
    from sentinv.models import built_in as parts

    shutil.copytree(FOLDER, tmp_path / "toybox")
    monkeypatch.setattr(parts.resources, "files", lambda name: tmp_path)
    return tmp_path / "toybox"


@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_part_is_one_line(installation, part):
    """One byte in the middle of the weights, which no format notices."""
    weights = max(installation.glob(f"{part}/**/*.safetensors"), key=lambda path: path.stat().st_size)
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match=f"the built-in {part} is damaged: {part}.* install sentinv again") as error:
        built_in(part)
    assert "\n" not in str(error.value)
    for other in {*PARTS} - {part}:
        assert built_in(other).is_dir()


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_one_line(installation, part):
    next(installation.glob(f"{part}/**/*.safetensors")).unlink()
    with pytest.raises(ModelError, match=f"lacks the built-in {part}") as error:
        built_in(part)
    assert "\n" not in str(error.value)
    shutil.rmtree(installation)
    with pytest.raises(ModelError, match="install sentinv again"):
        load("toybox")


def test_a_damaged_installation_ends_the_command_in_one_line(installation, monkeypatch):
    from click.testing import CliRunner

    from sentinv.cli.main import cli

    (installation / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"torn")
    ended = CliRunner().invoke(cli, ["generate", "a cat", "--quiet"])
    assert ended.exit_code == 1
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("sentinv: error: the built-in pipeline is damaged")


def test_digests_are_of_every_file():
    digests = json.loads((FOLDER / "digests.json").read_text(encoding="utf-8"))
    files = {p.relative_to(FOLDER).as_posix() for part in PARTS for p in (FOLDER / part).rglob("*") if p.is_file()}
    assert set(digests) == files


def test_it_draws_what_it_is_told():
    """The first prompts of `python -m toybox.measure` with other seeds; the bounds are its rates less three standard errors."""
    pytest.importorskip("toybox")
    from toybox import measure

    recorded = json.loads((ROOT / "toybox" / "results" / "quality.json").read_text(encoding="utf-8"))
    lines = (ROOT / "toybox" / "results" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    specs, texts = measure.asked([json.loads(line) for line in lines[:32]])
    guidance = float(recorded["command"].split()[-1])
    pictures = measure.generate(measure.load_generator(), texts, guidance, seed=10_000)
    rates = measure.judge_pictures(specs, pictures)
    for attribute in ("object", "scene", "style", "colour"):
        expected, n = recorded["generated"][attribute]["rate"], rates[attribute]["n"]
        slack = 3 * max(expected * (1 - expected), 0.01) ** 0.5 / n**0.5
        assert rates[attribute]["rate"] >= expected - slack, attribute
