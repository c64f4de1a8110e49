"""The group of all commands, and the one place where errors become a line and an exit code.

A command is imported when it is used: `sentinv --help` needs only the table below.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any, TextIO

import click

from sentinv import __version__
from sentinv.cli.options import notice
from sentinv.cli.streams import colours, make_safe
from sentinv.errors import Interrupted, SentinvError, Terminated

COMMANDS = {
    "invert": "Learn a word from one image, or from several of one thing.",
    "batch": "Learn a word from each picture of a folder or a list, on one machine or many.",
    "describe": "Show what each initializer would start from.",
    "tune": "Train a LoRA around a learned word.",
    "generate": "Make images from a prompt with learned words in it.",
    "edit": "Change a picture by other words, all of it or inside a mask.",
    "ui": "Open a page in the browser: learn, draw and edit there.",
    "inspect": "Show what is in a concept file.",
    "export": "Write a word as the file that another program reads.",
    "evaluate": "Measure how well a word shows its thing, and how well it can be edited.",
    "bench": "Repeat the studies: convergence, editing, ablation, speed.",
    "selftest": "Check this installation.",
}
"""Name → what it does, in one line. `sentinv.cli.<name>` has the command under its name."""


class LazyGroup(click.Group):
    """A group whose commands are modules, and which tells every error in one line on stderr."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands that are there, in the order of the table."""
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name in COMMANDS:
            from sentinv.cli.settings import read_environment

            command = getattr(import_module(f"sentinv.cli.{cmd_name}"), cmd_name)
            read_environment(f"SENTINV_{cmd_name.upper()}", command)
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS.get(name, "")) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and give it the settings of the configuration files."""
        from sentinv.cli.settings import defaults_of

        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and command is not None:
            ctx.default_map = {name: defaults_of(name, command)}
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what goes wrong is one line and an exit code: 1, 2 (usage), 128 + signal."""
        _quieten()
        make_safe()
        ctx.color = colours()
        try:
            with warnings.catch_warnings(), _fewer_collections(), _orderly_end() as received:
                _show_own_warnings()
                return self._told(ctx, received)
        except (KeyboardInterrupt, Interrupted) as error:  # a second signal, while the first was being told
            ctx.exit(128 + getattr(error, "signal_number", signal.SIGINT))

    def _told(self, ctx: click.Context, received: list[int]) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException, BrokenPipeError):
            raise  # click ends quietly where nobody reads any more
        except Interrupted as error:
            _tell(str(error))
            ctx.exit(128 + error.signal_number)
        except KeyboardInterrupt as error:
            _tell("stopped")
            ctx.exit(128 + getattr(error, "signal_number", signal.SIGINT))
        except Exception as error:
            if received:  # a library took the signal for an error of its own
                _tell("stopped", ctx)
                ctx.exit(128 + received[-1])
            _tell(f"error: {error if isinstance(error, SentinvError) else self._explain(error, ctx)}", ctx)
            ctx.exit(1)

    def _explain(self, error: Exception, ctx: click.Context) -> str:
        """Say what happened where nobody foresaw it."""
        if _is_out_of_memory(error):
            return f"out of memory: {self._ways_to_less_memory(ctx)}"
        if isinstance(error, OSError) and error.errno in _OUTPUT_GONE:
            return f"cannot write all of the output: {error.strerror}; what was made before is in its files"
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text or 'no message'}; this is a bug: --debug shows where it happened"

    def _ways_to_less_memory(self, ctx: click.Context) -> str:
        """What the command has against it."""
        from sentinv.cli.settings import parameters

        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        there = parameters(command) if command else {}
        return ", ".join([*(way for name, way in _LESS_MEMORY.items() if name in there), "end other programs"])


_LESS_MEMORY = {
    "dtype": "--dtype bfloat16 or float16 where it is float32",
    "gradient-checkpointing": "--gradient-checkpointing",
    "batch-size": "a smaller --batch-size",
    "width": "a smaller --width and --height",
    "device": "--device cpu",
    "model": "a smaller --model",
}
"""Option → what it can do where memory ends."""

_OUTPUT_GONE = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EBADF)
"""What printing can end in; files are written elsewhere, and say so themselves."""


def _is_out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from sentinv.models.memory import is_out_of_memory

    return is_out_of_memory(error)


def _tell(line: str, ctx: click.Context | None = None) -> None:
    if ctx is not None and ctx.meta.get("sentinv.debug"):
        traceback.print_exc()
    notice(line)


def _quieten() -> None:
    """Keep what the libraries say to developers off the user's terminal."""
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Look for garbage less often: libraries make a million objects that stay, and a tenth of their import is that search."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _orderly_end() -> Iterator[list[int]]:
    """Let SIGTERM end a command as Ctrl-C does, as an exception: locks are released, temporary files removed.

    Yields:
        The signals that came, because native code can make an error of its own out of the exception.
    """
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    caught = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background it may be ignored
        caught.append(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.signal(number, end) for number in caught}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _show_own_warnings() -> None:
    """Show the warnings of this package as one line each, once, and no others."""
    told = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = " ".join(str(message).split())
        if text not in told:
            told.add(text)
            notice(f"warning: {text}")

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"sentinv(\.|$)")
    warnings.showwarning = show


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SENTINV", "max_content_width": 100},
)
@click.version_option(__version__, prog_name="sentinv")
@click.option("--debug", is_flag=True, help="Show where an error happened.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Learn a word for the thing in one image, and use it in sentences.

    \b
      sentinv invert cat.png                             → cat-concept.safetensors
      sentinv generate "a photo of <cat> on the moon" -c cat-concept.safetensors
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    ctx.meta["sentinv.debug"] = debug
