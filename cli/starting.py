"""Where a word starts: the options of `invert` and `describe`, and the initializer that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sentinv.cli.options import Decorated, quieten_transformers, was_given
from sentinv.initializers import make

_NEEDED = {"word": "word", "phrase": "phrase", "concept": "from_file"}
_FLAG = {"word": "--word", "phrase": "--phrase", "from_file": "--from"}


def starting_options(command: Decorated) -> Decorated:
    """Add what the initializers can be told."""
    for option in reversed(
        [
            click.option("--word", help="A word to start from."),
            click.option("--phrase", help="Words to start from; each token becomes a vector."),
            click.option("--from", "from_file", type=click.Path(path_type=Path), help="A concept file to continue."),
            click.option("--max-vectors", type=click.IntRange(min=1), help="The most vectors the word may have."),
            click.option("--drop-stopwords", is_flag=True, help='Leave "a", "of", "with" … out of captions.'),
            click.option("--drop-scene", is_flag=True, help='Leave "on the beach" … out of captions.'),
            click.option("--captioner", help="BLIP captioner: folder or hub id.  [default: the model's]"),
            click.option("--classifier", help="ViT classifier: folder or hub id.  [default: the model's]"),
        ]
    ):
        command = option(command)
    return command


def chosen(init: str | None, given: dict[str, Any]) -> str:
    """Name the initializer that is meant: that of --init, or the one that --word, --phrase or --from imply.

    Raises:
        click.UsageError: If the options contradict each other, or one that is needed is missing.
    """
    implied = [name for name, option in _NEEDED.items() if given[option] is not None]
    if len(implied) > 1 or (init is not None and implied and implied != [init]):
        flags = " and ".join(_FLAG[_NEEDED[name]] for name in implied)
        both = f"--init {init} and {flags}" if init is not None else flags
        raise click.UsageError(f"{both} exclude each other: give one start")
    if init in _NEEDED and not implied:
        raise click.UsageError(f"--init {init} needs {_FLAG[_NEEDED[init]]}")
    start = init or (implied[0] if implied else "caption")
    for option in ("drop_stopwords", "drop_scene"):
        if start != "caption" and was_given(option):
            raise click.UsageError(f"--{option.replace('_', '-')} has no effect with --init {start}: leave it out")
    return start


def initializer(name: str, given: dict[str, Any]) -> Any:
    """Make an initializer of the table from the options of a command."""
    quieten_transformers()
    return make(
        name,
        given["model"],
        captioner=given["captioner"],
        classifier=given["classifier"],
        word=given["word"] or "",
        phrase=given["phrase"] or "",
        concept=given["from_file"],
        drop_stopwords=given["drop_stopwords"],
        drop_scene=given["drop_scene"],
        seed=given["seed"],
        device=given.get("device"),
    )
