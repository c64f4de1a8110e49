import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import sentinv
from sentinv.cli.main import cli
from sentinv.errors import Interrupted, SentinvError

ROOT = Path(__file__).parent.parent


HEAVY = """
import sys, click, sentinv
from click.testing import CliRunner
from sentinv.cli.main import cli

def calls(command, path):
    yield [*path, "--help"]
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                yield from calls(command.get_command(context, name), [*path, name])

heavy = {"torch", "diffusers", "transformers", "PIL", "numpy", "huggingface_hub", "gradio", "matplotlib", "ray"}
for arguments in [["--version"], *calls(cli, [])]:
    result = CliRunner().invoke(cli, arguments)
    print(*arguments, result.exit_code, *sorted(heavy & set(sys.modules)))
"""


def test_no_help_and_no_version_imports_what_is_heavy():
    """In one process, a line for each call: its exit code, and what it or one before it imported."""
    lines = subprocess.check_output([sys.executable, "-c", HEAVY], cwd=ROOT, text=True).splitlines()
    assert {"--version 0", "--help 0", "generate --help 0", "bench speed --help 0"} <= {*lines}
    assert [line for line in lines if not line.endswith(("--help 0", "--version 0"))] == []


def test_every_public_name_is_there():
    for name in sentinv.__all__:
        assert getattr(sentinv, name) is not None
    with pytest.raises(AttributeError):
        _ = sentinv.nonsense


@pytest.mark.parametrize(("error", "code"), [(SentinvError("no such thing"), 1), (Interrupted("stopped", 15), 143)])
def test_errors_are_one_line_and_an_exit_code(error, code):
    @click.command("fail")
    def fail():
        raise error

    cli.add_command(fail)
    try:
        result = CliRunner().invoke(cli, ["fail"])
    finally:
        del cli.commands["fail"]
    assert result.exit_code == code
    assert result.stderr.count("\n") == 1 and str(error) in result.stderr and not result.stdout
