"""The short part of benchmarks/reliability: the same programs, a few of each."""

import os
import random
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "reliability"))
import faults
import loras
import memory_ends
import resume
import words

ROOT = Path(__file__).parents[1]
SAFE = {"torch": "2.10", "transformers": "5.3", "diffusers": "0.42.1", "Pillow": "12.3"}
"""The first versions without the holes that let a file run code or fill memory."""


def test_killed_runs_resume_to_the_same_bytes_and_the_control_does_not():
    found = resume.killed(count=6, controls=1)
    assert found["kills"] >= 6 and found["equal"] == found["runs"]
    assert (found["controls"], found["equal controls"]) == (1, 0)


def test_killed_runs_of_a_lora_do_so_too():
    found = resume.killed(count=3, controls=0, learn=resume.tuned_result)
    assert found["kills"] >= 3 and found["equal"] == found["runs"]


def test_signals_end_a_run_in_time_with_all_but_a_step_saved():
    codes, _, wrong = resume.signalled(4)
    assert wrong == [] and sum(codes.values()) == 4


def test_memory_may_end_anywhere_in_any_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    memory_ends.prepare(tmp_path)
    for command, place, code in (
        ("generate", "prompts are encoded", 1),
        ("generate --rank", "CLIP looks at pictures", 0),
        ("edit", "a picture is encoded", 1),
        ("edit --mask", "images are decoded", 1),
    ):
        assert memory_ends.tried(command, place, once=False) == (code, True, ""), (command, place)
    assert len(list((tmp_path / "ranked").glob("seed-*.png"))) == 2  # they were drawn


def test_a_failing_write_of_a_whole_run_leaves_what_was_there(tmp_path):
    chance = random.Random(0)
    lock = [1, 2]  # the first calls of a run make its lock file
    tried, wrong = faults.failing_writes(tmp_path, lambda count: [*lock, *chance.sample(range(3, count), 2)])
    assert tried == 12 and wrong == []


@pytest.mark.parametrize("name", list(words.PROPERTIES))
def test_words(name):
    words.hold(name, 20)


def test_hostile_loras(tmp_path):
    model = loras.backbone()
    layers = loras.layers_of(model)
    path = tmp_path / "cat-lora.safetensors"
    hostile = [*list(loras.spoilt(layers))[:-1:9], *list(loras.odd_headers(layers))[::19], *loras.other_bases()]
    assert len(hostile) > 25
    for name, data in hostile:
        path.write_bytes(data)
        with pytest.raises(loras.SentinvError) as told:
            loras.whole_way(path, model)
        assert str(told.value).isprintable(), name
    path.write_bytes(loras.file(loras.kohya(layers)))
    assert "layers found" in loras.whole_way(path, model)


def test_every_range_of_dependencies_begins_behind_the_holes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    everything = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    ranges = {requirement.name: requirement.specifier for requirement in map(Requirement, everything)}
    for name, safe in SAFE.items():
        oldest = re.fullmatch(r">=([\d.]+)", str(ranges[name]))
        assert oldest and tuple(map(int, oldest[1].split("."))) >= tuple(map(int, safe.split("."))), name


COMMIT = "0123456789abcdef0123456789abcdef01234567"
OFFLINE = """
import socket, sys, time

def refuse(*arguments, **options):
    raise OSError("no network")

socket.getaddrinfo = socket.socket.connect = refuse
import huggingface_hub, transformers
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from sentinv.errors import ModelError
from sentinv.models.loading import load
begun = time.perf_counter()
try:
    load("sd21", device="cpu")
except ModelError as error:
    print(error, time.perf_counter() - begun, sep="\\n")
print(load("sd15", device="cpu").resolution)
"""


def test_without_a_network_a_cached_model_loads_and_another_is_refused_quickly(tmp_path, model_folder):
    """In a process of its own that finds no network. What imports take is not counted: seconds, of the libraries."""
    cached = tmp_path / "hub" / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    shutil.copytree(model_folder, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    environment = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, seconds, resolution = done.stdout.splitlines()
    assert said == "cannot download model_index.json of sd21: the hub is out of reach; go online, or give a folder"
    assert float(seconds) < 2 and resolution == "16"
