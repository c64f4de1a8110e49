"""``python -m sentinv`` is the command ``sentinv``."""

from sentinv.cli.main import cli

cli(prog_name="sentinv")
