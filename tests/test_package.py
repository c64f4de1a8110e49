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


def test_import_is_light():
    code = "import sys, sentinv, sentinv.cli.main; print({'torch', 'diffusers', 'PIL', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "set()"


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
