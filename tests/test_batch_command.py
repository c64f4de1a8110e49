"""`sentinv batch`: each picture of a folder or a list exactly once, whatever happens on the way."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner
from seeing import build_captioner
from test_readme import ROOT, needs_toybox

from sentinv.batch import book as books
from sentinv.batch.cluster import _chunks
from sentinv.batch.fit import evenly
from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.files.locks import lock

QUICK = ["--steps", "2", "--word", "mug", "--at-once", "2"]


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch, model_folder, picture):
    """A folder of three pictures, the tiny model as default, nobody's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTINV_MODEL", str(model_folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    Path("photos").mkdir()
    for number, name in enumerate(("Mug", "cat", "dog")):
        picture.rotate(90 * number).save(f"photos/{name}.png")


@pytest.fixture
def unloaded(monkeypatch):
    """No model can be loaded."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("sentinv.models.loading.load", load)


def run(*args, code=0):
    result = CliRunner().invoke(cli, ["batch", *(str(arg) for arg in args)])
    assert result.exit_code == code, result.output
    return result


def refused(*args, code=1):
    """The one line that a command ends in."""
    return run(*args, code=code).output.strip().splitlines()[-1]


def contents(folder="words"):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.safetensors")}


def test_a_folder_becomes_words_records_and_an_index():
    told = run("photos", "-o", "words", *QUICK)
    assert "3 done, 0 failed, 0 left" in told.output and "pictures per minute" in told.output
    assert sorted(contents()) == [f"{name}-concept.safetensors" for name in ("cat", "dog", "mug")]
    record = json.loads(Path("words/cat.json").read_text())
    assert (record["status"], record["text"], record["token"], record["steps"]) == ("done", "mug", "<cat>", 2)
    assert record["settings"]["word"] == "mug" and record["settings"]["steps"] == 2
    page = Path("words/index.html").read_text()
    assert (
        page.count("data:image/jpeg") == 3
        and 'href="cat-concept.safetensors"' in page
        and "3 learned, 0 failed" in page
    )
    assert not list(Path("words").glob("*.lock")) and not list(Path("words").glob(".sentinv*"))


def test_a_word_is_that_of_invert():
    run("photos", "-o", "words", *QUICK, "--at-once", "1")
    one = CliRunner().invoke(cli, ["invert", "photos/cat.png", "--word", "mug", "--steps", "2", "--samples", "0"])
    assert one.exit_code == 0, one.output
    assert Path("cat-concept.safetensors").read_bytes() == contents()["cat-concept.safetensors"]


def test_started_again_it_does_what_is_missing_or_has_other_options(monkeypatch):
    run("photos", "-o", "words", *QUICK)
    before = contents()
    with monkeypatch.context() as nothing_left:
        nothing_left.setattr("sentinv.models.loading.load", None)
        told = json.loads(run("photos", "-o", "words", *QUICK, "--json", "-q").stdout)
    assert (told["done"], told["learned_now"], told["left"]) == (3, 0, 0)
    Path("words/cat.json").unlink()
    Path("words/dog-concept.safetensors").write_bytes(b"damaged")
    told = json.loads(run("photos", "-o", "words", *QUICK, "--json", "-q").stdout)
    assert told["learned_now"] == 2 and contents() == before
    told = run("photos", "-o", "words", *QUICK, "--steps", "3")
    assert "learned again, for other options (steps 2 → 3): mug, cat, dog" in told.output
    assert contents() != before


def test_killed_at_any_write_it_comes_to_the_same(monkeypatch):
    run("photos", "-o", "whole", *QUICK)
    write, calls = books.atomic_write, 0

    class Killed(BaseException):
        """Of no kind that anybody catches."""

    def failing(path, data, **options):
        nonlocal calls
        calls += 1
        if calls == dies:
            raise Killed
        return write(path, data, **options)

    monkeypatch.setattr(books, "atomic_write", failing)
    for dies in range(1, 8):
        calls, folder = 0, f"words-{dies}"
        with pytest.raises(Killed):
            CliRunner().invoke(cli, ["batch", "photos", "-o", folder, *QUICK], catch_exceptions=False)
        monkeypatch.setattr(books, "atomic_write", write)
        run("photos", "-o", folder, *QUICK)
        assert contents(folder) == contents("whole")
        monkeypatch.setattr(books, "atomic_write", failing)


def test_a_picture_that_fails_does_not_stop_the_others():
    Path("photos/broken.png").write_bytes(b"not a picture")
    told = run("photos", "-o", "words", *QUICK, code=1)
    assert "1 of 4 pictures failed" in told.output and "photos/broken.png: " in told.output
    assert len(contents()) == 3 and "failed:" in Path("words/index.html").read_text()
    first = Path("words/broken.json").read_bytes()
    assert "3 done, 1 failed, 0 left" in run("photos", "-o", "words", *QUICK, code=1).output
    assert Path("words/broken.json").read_bytes() == first
    again = json.loads(run("photos", "-o", "words", *QUICK, "--retry-failed", "--json", "-q", code=1).stdout)
    assert (again["learned_now"], again["failed"]) == (0, 1)
    Path("photos/broken.png").write_bytes(Path("photos/cat.png").read_bytes())
    assert "4 done, 0 failed" in run("photos", "-o", "words", *QUICK).output


def test_a_list_has_options_of_its_own(picture):
    picture.convert("L").point(lambda value: 255 * (value > 90)).save("photos/mask.png")
    Path("photos/list.csv").write_text(
        "image,name,token,phrase,mask,kind,seed,lr,flip\n"
        'cat.png,tom,<tom>,"a red, striped cat",mask.png,object,7,0.01,true\n'
        "dog.png,,,,,style,,,\n"
    )
    lines = [{"image": "cat.png", "seed": 3, "flip": True}, {"image": "../photos/dog.png", "steps": 1}]
    Path("photos/list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("photos/list.csv", "-o", "words", *QUICK)
    tom, dog = (json.loads(Path(f"words/{name}.json").read_text()) for name in ("tom", "dog"))
    assert Concept.load("words/tom-concept.safetensors").token == "<tom>" and tom["text"] == "a red, striped cat"
    assert [tom["settings"][name] for name in ("seed", "learning_rate", "flip", "kind")] == [7, 0.01, True, "object"]
    assert tom["settings"]["mask"] and (dog["text"], dog["settings"]["kind"]) == ("mug", "style")
    run("photos/list.jsonl", "-o", "more", *QUICK)
    cat, dog = (json.loads(Path(f"more/{name}.json").read_text()) for name in ("cat", "dog"))
    assert (cat["settings"]["seed"], cat["settings"]["flip"], dog["steps"]) == (3, True, 1)


def test_pictures_are_described_many_at_a_time(tmp_path):
    captioner = build_captioner(tmp_path / "captioner")
    run("photos", "-o", "words", "--steps", "1", "--captioner", captioner)
    assert {json.loads(path.read_text())["initializer"] for path in Path("words").glob("[!b]*.json")} == {"caption"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("image,colour\ncat.png,red\n", "line 2: there is no column 'colour'"),
        ("image\nfish.png\n", "there is no file photos/fish.png"),
        ("image\ncat.png\n./cat.png\n", "would both write cat-concept.safetensors"),
        ("image,steps\ncat.png,many\n", "'many' is not a valid integer"),
        ("image,steps\ncat.png,-1\n", "steps must be at least 0"),
        ("image,token\ncat.png,Cat\n", "expected a placeholder in lower case"),
        ("image,name\ncat.png,../cat\n", "expected a name without a folder"),
        ("image,word,phrase\ncat.png,cat,a cat\n", "exclude each other"),
        ("image,token\ncat.png\n", "expected 2 fields"),
        ('image\n"cat.png\n', "is not CSV"),
        ("name\ncat\n", "expected a picture in the column 'image'"),
        ("image\n", "has no rows"),
        ("\xff", "it is not UTF-8"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(unloaded, text, line):
    Path("photos/list.csv").write_bytes(text.encode("latin-1"))
    told = refused("photos/list.csv", "-o", "words", "--steps", "2")
    assert line in told and told.startswith("sentinv: error: ") and not Path("words").exists()


def test_what_cannot_be_used_is_one_line_before_any_model(unloaded, monkeypatch):
    Path("list.jsonl").write_text('{"image": ["cat.png"]}\n')
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("years of work")
    assert "expected text or a number in 'image'" in refused("list.jsonl", "-o", "words")
    assert "there is no nowhere" in refused("nowhere", "-o", "words")
    assert "has no pictures" in refused("empty", "-o", "words")
    assert "has no pictures" in refused("photos/*.tiff", "-o", "words")
    assert "something else in it" in refused("photos", "-o", "full")
    assert "--workers has no effect without --ray" in refused("photos", "-o", "words", "--workers", "2", code=2)
    assert "put --ray last" in refused("--ray", "photos", "photos", "-o", "words", code=2)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'sentinv[ray]'" in refused("photos", "-o", "words", "--ray")
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    begun = time.monotonic()
    assert "nothing answers at 127.0.0.1:9" in refused("photos", "-o", "words", "--ray=127.0.0.1:9")
    assert "expected an address" in refused("photos", "-o", "words", "--ray=somewhere")
    assert time.monotonic() - begun < 10


def test_folders_of_others_are_left_alone(unloaded, monkeypatch):
    Path("words").mkdir()
    Path("words/batch.json").write_text(json.dumps({"format": 1, "sources": ["/elsewhere"]}))
    assert "the results of another batch, of /elsewhere" in refused("photos", "-o", "words")
    Path("words/batch.json").unlink()
    with lock("words/batch"):
        told = subprocess.run(
            [sys.executable, "-m", "sentinv", "batch", "photos", "-o", "words", *QUICK],
            capture_output=True,
            text=True,
            check=False,
        )
    assert told.returncode == 1 and "is being written by process" in told.stderr


def test_a_signal_leaves_what_was_done_and_the_same_command_goes_on(monkeypatch):
    run("photos", "-o", "whole", *QUICK)
    write = books.Book.write

    def interrupting(self, *args):
        record = write(self, *args)
        os.kill(os.getpid(), signal.SIGTERM)
        return record

    monkeypatch.setattr(books.Book, "write", interrupting)
    told = run("photos", "-o", "words", *QUICK, code=128 + signal.SIGTERM)
    assert "the same command goes on" in told.output and 0 < len(contents()) < 3
    monkeypatch.setattr(books.Book, "write", write)
    run("photos", "-o", "words", *QUICK)
    assert contents() == contents("whole")


@needs_toybox
def test_the_commands_of_the_guide_run(monkeypatch):
    """Word for word, but for the number of steps; the one that wants Ray has a test of its own."""
    monkeypatch.delenv("SENTINV_MODEL")
    shutil.copytree(ROOT / "examples", "examples")
    guide = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("sentinv ")]
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command.replace("--steps 20", "--steps 1"))[1:]
        if "--ray" not in words:
            told = CliRunner().invoke(cli, words)
            assert told.exit_code == 0, told.output
    assert Path("words/cat-concept.safetensors").exists() and Path("grid/grid.png").exists()
    python = re.search(r"```python\n(.*?)```", guide, re.DOTALL)[1]
    exec(compile(python.replace("steps=20", "steps=1"), "docs/batch.md", "exec"), {})
    assert Concept.load("teapot.safetensors").token == "<teapot>"


def test_chunks_keep_all_workers_busy_to_the_end():
    sizes = [len(chunk) for chunk in _chunks(list(range(100)), 2, 4)]
    assert sum(sizes) == 100 and max(sizes) <= 16 and len(sizes) >= 8
    assert [len(chunk) for chunk in _chunks([1, 2, 3], 2, 2)] == [2, 1]
    assert [evenly(count, 8) for count in (0, 1, 3, 9, 12, 64, 100)] == [8, 1, 3, 5, 6, 8, 8]


def test_workers_come_to_the_same_words_and_one_is_killed(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    run("photos", "-o", "whole", *QUICK, "--steps", "12")
    command = [sys.executable, "-m", "sentinv", "batch", "photos", "-o", "words", *QUICK, "--steps", "12"]
    ray, killed = ["--workers", "1", "--ray"], False
    for _ in range(
        5
    ):  # a local cluster has half a minute to start: on a machine that is busy it may take several tries
        driver = subprocess.Popen([*command, *ray], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while driver.poll() is None and not killed:
            if list(Path("words").glob("*-concept.safetensors")):
                killed = any(_kill(pid) for pid in _workers_of(driver.pid))
            time.sleep(0.02)
        out, err = driver.communicate(timeout=300)
        if "timed out during startup" not in err:
            break
    assert driver.returncode == 0 and out.startswith("3 done, 0 failed, 0 left"), (out, err)
    assert contents() == contents("whole")


def _workers_of(pid):
    """Actors among the descendants of a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            called = (folder / "cmdline").read_text()
        except (OSError, ValueError):
            continue
        found.append((int(folder.name), parent, called))
    family = {pid}
    for _ in range(5):
        family |= {own for own, parent, _ in found if parent in family}
    return [own for own, _, called in found if own in family and "ray::Worker" in called]


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
