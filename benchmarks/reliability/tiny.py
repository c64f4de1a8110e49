"""A tiny pipeline of the real classes with random weights, and what runs of it share: forks, children, results."""

import io
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from conftest import build_pipeline, build_tokenizer

from sentinv.cli.main import cli
from sentinv.cli.options import quieten_transformers
from sentinv.models.backbone import Backbone


def pipeline_folder(folder: Path) -> Path:
    """Save the pipeline as --model takes it."""
    with tempfile.TemporaryDirectory() as name:
        build_pipeline(build_tokenizer(name), 16, "epsilon").save_pretrained(folder)
    return folder


def backbone() -> Backbone:
    """The pipeline as a backbone."""
    with tempfile.TemporaryDirectory() as name:
        return Backbone.from_pipeline(build_pipeline(build_tokenizer(name), 16, "epsilon"), "tiny")


def picture() -> Image.Image:
    """24 x 20 pixels with something in them."""
    noise = torch.rand(5, 6, 3, generator=torch.Generator().manual_seed(3))
    return Image.fromarray((noise * 255).to(torch.uint8).numpy()).resize((24, 20), Image.Resampling.BICUBIC)


def command(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run sentinv in a folder, in this process: exit code, and what it said on stderr."""
    quieten_transformers()
    said, before = io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            cli.main(args=list(arguments), prog_name="sentinv")
    except SystemExit as end:
        return int(end.code or 0), said.getvalue()
    finally:
        os.chdir(before)
    return 0, said.getvalue()


def forked(action: Callable[[], int | None]) -> int:
    """Process id of a child that does it and ends with what it returns."""
    child = os.fork()
    if not child:
        code = 70
        try:
            code = action() or 0
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Wait for a child: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
