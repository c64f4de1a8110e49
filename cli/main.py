"""The group of all commands, and the one place where errors become a line and an exit code."""

import click

from sentinv import __version__
from sentinv.errors import Interrupted, SentinvError


class _Group(click.Group):
    """A group that tells every `SentinvError` in one line on stderr."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except Interrupted as error:
            click.echo(f"sentinv: {error}", err=True)
            ctx.exit(128 + error.signal_number)
        except SentinvError as error:
            click.echo(f"sentinv: error: {error}", err=True)
            ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sentinv")
def cli() -> None:
    """Learn a word for the thing in one image, and use it in sentences."""
