"""Every command of the README is parsed, and run with the built-in model where it is there."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sentinv.cli.main import cli
from sentinv.editing.inversion import InversionConfig

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    part.split("#")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
    for part in line.split(" && ")
    if part.strip()
]
OURS = [command for command in COMMANDS if command.startswith("sentinv ")]
PARTS = ("pipeline", "captioner", "classifier", "clip")

needs_toybox = pytest.mark.skipif(
    not all((ROOT / "sentinv" / "toybox" / part / "config.json").is_file() for part in PARTS[1:])
    or not (ROOT / "sentinv" / "toybox" / "pipeline" / "model_index.json").is_file(),
    reason=f"the weights of the built-in model ({', '.join(PARTS)}) are not in sentinv/toybox",
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def in_short(command):
    """The same command with fewer steps, where it does not say how many."""
    name = shlex.split(command)[1]
    few = {"invert": "--samples 1 --steps 4", "tune": "--samples 1 --steps 2", "generate": "--steps 2"}.get(name, "")
    return shlex.split(re.sub(r"--steps \d+", "", command)) + few.split()


def test_the_readme_has_its_commands():
    assert len(set(OURS)) == len(OURS) >= 12, (
        "a second run of the same command would not replace what the first one wrote"
    )
    assert {shlex.split(command)[1] for command in OURS} >= {"invert", "generate", "inspect"}
    others = [command for command in COMMANDS if command not in OURS]
    assert others == [
        "python3 -m venv .venv",
        ". .venv/bin/activate",
        "pip install -e .",
        "pip install -e '.[test]'",
        "pytest",
    ]


@pytest.mark.parametrize("command", OURS)
def test_every_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, *rest = shlex.split(command)[1:]
    group = click.Context(cli)
    found = cli.get_command(group, name)
    assert found is not None
    found.make_context(name, rest, parent=group)


@pytest.mark.parametrize(
    "name", re.findall(r"\bexamples/[\w.-]+", README) + re.findall(r"\]\((?!http|#)(.+?)\)", README)
)
def test_every_file_that_is_named_is_there(name):
    assert (ROOT / name.partition("#")[0]).exists()


def test_the_settings_file_is_understood(tmp_path, monkeypatch):
    from sentinv.cli.settings import defaults_of

    (block,) = (text for language, text in BLOCKS if language == "toml")
    (tmp_path / "sentinv.toml").write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    command = cli.get_command(click.Context(cli), "invert")
    assert defaults_of("invert", command) == {"model": "sd15", "steps": 200, "max_vectors": 8}


@needs_toybox
@pytest.mark.slow
def test_every_command_runs(workplace, monkeypatch):
    """In the order of the README, in one folder, as a reader would; what needs another model is left out."""
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workplace))
    for command in OURS:
        if "--model" in command:
            continue
        if f"{command} --resume" in OURS:
            interrupt(command)
            continue
        resumed = "--resume" in command
        words = shlex.split(re.sub(r"--steps \d+", "--steps 10", command)) if resumed else in_short(command)
        result = CliRunner().invoke(cli, words[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}"
    assert Path("cat-concept.safetensors").exists() and Path("a-photo-of-cat-on-the-moon/grid.png").exists()


GUIDE = (ROOT / "docs" / "editing.md").read_text(encoding="utf-8").replace("\\\n", " ")
GUIDED = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines() if line]


@needs_toybox
@pytest.mark.slow
def test_every_command_of_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for command in GUIDED:
        words = shlex.split(command)
        steps = {"invert": ["--samples", "0", "--steps", "4"], "edit": ["--steps", "6"]}[words[1]]
        result = CliRunner().invoke(cli, [*words[1:], *([] if "--archive" in words else steps)])
        assert result.exit_code == 0, f"{command}\n{result.output}"
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    exec(code.replace("[concept])", "[concept], config=few)", 1), {"few": InversionConfig(steps=4)})
    made = {"cat-watercolor.png", "cat-snow.png", "cat-sweep.png", "cat-dog.png", "watercolor.png"}
    assert made <= {path.name for path in tmp_path.glob("*.png")}


def interrupt(command):
    """Start a command and stop it after its first step."""
    words = shlex.split(re.sub(r"--steps \d+", "--steps 10", command))
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background have it ignored
    )
    metrics = Path("teapot-run/metrics.jsonl")
    while process.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told


@needs_toybox
@pytest.mark.slow
def test_the_python_runs(workplace, monkeypatch):
    import sentinv
    from sentinv.training.config import TrainConfig

    (code,) = (text for language, text in BLOCKS if language == "python")
    assert len([line for line in code.splitlines() if line]) == 6
    invert = sentinv.invert
    monkeypatch.setattr(
        sentinv, "invert", lambda *args, **options: invert(*args, **options, config=TrainConfig(steps=2))
    )
    monkeypatch.chdir(workplace)
    exec(compile(code, "README.md", "exec"), {})
    assert Path("moon.png").exists() and Path("my-cat.safetensors").exists()
