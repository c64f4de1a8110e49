"""Memory ends at one place of one command: what is said, and what is left.

    python benchmarks/reliability/memory_ends.py

Every command that computes, on a tiny model; in each run one of the places below finds no memory, at every call or at the first
one only. A run is wrong if it ends in a traceback or "this is a bug", or with another code than 0 and 1, or if what it says at
exit code 1 is not one line that begins with "sentinv: error: ".
"""

import itertools
import os
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from click.testing import CliRunner
from kit import report
from PIL import Image
from tiny import picture, pipeline_folder

import sentinv.models.loading
from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.evaluation.judges import ClipJudge
from sentinv.models.backbone import Backbone

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from conftest import build_tokenizer
from judging import build_judge

PLACES = {
    "the weights are read": (sentinv.models.loading, "read_weights"),
    "the model is moved": (Backbone, "to"),
    "prompts are encoded": (Backbone, "encode_ids"),
    "the UNet predicts": (Backbone, "predict"),
    "a picture is encoded": (Backbone, "encode"),
    "images are decoded": (Backbone, "decode"),
    "CLIP looks at pictures": (ClipJudge, "images"),
    "CLIP reads texts": (ClipJudge, "texts"),
}
"""Where memory ends: the function that finds none."""

SAMPLING = "--steps 2"
COMMANDS = {
    "invert": "invert mug.png --word red --steps 2 --samples 1 --batch-size 2 --force",
    "generate": f"generate 'a <c>' -c c.safetensors {SAMPLING} -n 2 -o out --force",
    "generate --rank": f"generate 'a cat' {SAMPLING} -n 2 -o ranked --force --rank --clip clip",
    "generate --grid": f"generate 'a {{}}' --grid -c c.safetensors {SAMPLING} -n 2 -o grid --force",
    "edit": f"edit mug.png --prompt 'a dog' --source-prompt 'a cat' --ddim-invert {SAMPLING} -o edit.png --force",
    "edit --mask": f"edit mug.png --mask mask.png --prompt 'a dog' {SAMPLING} -o inside.png --force",
    "evaluate": f"evaluate c.safetensors --image mug.png --count 2 {SAMPLING} --clip clip",
    "tune": "tune c.safetensors mug.png --words 'a cat' --steps 1 --samples 1 --force",
    "batch": "batch mug.png --word red --steps 1 -o many",
    "selftest": "selftest --steps 2",
}


@contextmanager
def no_memory(place, once):
    """Let a place find no memory: at every call, or at the first one."""
    owner, name = PLACES[place]
    honest, calls = owner.__dict__[name], itertools.count()

    def ends(*arguments, **options):
        if next(calls) and once:
            return honest(*arguments, **options)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    setattr(owner, name, ends)
    try:
        yield calls
    finally:
        setattr(owner, name, honest)


def prepare(folder):
    """Make what the commands need in a folder."""
    picture().resize((16, 16)).save(folder / "mug.png")
    inside = Image.new("L", (16, 16))
    inside.paste(255, (4, 4, 10, 10))
    inside.save(folder / "mask.png")
    Concept(token="<c>", rows={"text_encoder": torch.arange(1.0, 33).reshape(2, 16) / 100}).save(
        folder / "c.safetensors"
    )
    judge = build_judge(build_tokenizer(folder / "tokenizer"))
    judge.model.save_pretrained(folder / "clip")
    judge.processor.save_pretrained(folder / "clip")
    pipeline_folder(folder / "model")


def ran(command):
    """Run a command in this folder: its exit code, and why it is wrong; "" if it is not."""
    shutil.rmtree("many", ignore_errors=True)  # a batch goes on where it was
    result = CliRunner().invoke(cli, shlex.split(COMMANDS[command]), env={"SENTINV_MODEL": "model"})
    last = (result.stderr.strip().splitlines() or [""])[-1]
    if "this is a bug" in result.output or "Traceback" in result.output:
        return result.exit_code, last
    if result.exit_code not in (0, 1):
        return result.exit_code, f"exit code {result.exit_code}: {last}"
    told = result.exit_code == 0 or (last.startswith("sentinv: error: ") and last.isprintable())
    return result.exit_code, "" if told else f"not a line: {last}"


def tried(command, place, once):
    """Run a command whose memory ends somewhere: the exit code, whether it came there, and why it is wrong."""
    with no_memory(place, once) as calls:
        code, wrong = ran(command)
    return code, next(calls) > 0, wrong


def main():
    """All commands, all places."""
    torch.set_num_threads(1)
    ends, wrong = Counter(), []
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"XDG_CONFIG_HOME": str(Path(name, "nobody")), "HF_HUB_OFFLINE": "1"}
        os.chdir(name)
        try:
            prepare(Path(name))
            for command in COMMANDS:
                code, fault = ran(command)
                wrong += [f"{command}, with memory: {fault or code}"] if code or fault else []
            for command, place, once in itertools.product(COMMANDS, PLACES, (False, True)):
                code, came, fault = tried(command, place, once)
                if came:
                    ends["goes on" if code == 0 else "one line"] += 1
                    wrong += [f"{command}, {place}, {'once' if once else 'always'}: {fault}"] if fault else []
        finally:
            os.chdir(before)
    report(
        "memory_ends",
        f"{ends.total()} runs whose memory ended at one place: {ends['goes on']} went on, {ends['one line']} ended in one "
        f"line, {len(wrong)} wrong",
        ends=dict(ends),
        wrong=wrong[:20],
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
