"""Where a word starts: the options of `invert` and `describe`, and the initializer that they name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sentinv.cli.options import Decorated, quieten_transformers, was_given
from sentinv.initializers import make

if TYPE_CHECKING:
    from sentinv.concepts.initialization import Initializer

_FLAG = {"word": "--word", "phrase": "--phrase", "concept": "--from"}


@dataclass(frozen=True, kw_only=True)
class StartingOptions:
    """What the initializers can be told; the options of `starting_options`, which see."""

    word: str | None
    phrase: str | None
    from_file: Path | None
    max_vectors: int | None
    drop_stopwords: bool
    drop_scene: bool
    captioner: str | None
    classifier: str | None
    seed: int

    @property
    def implied(self) -> list[str]:
        """Initializers that the options imply."""
        asked = {"word": self.word, "phrase": self.phrase, "concept": self.from_file}
        return [name for name, value in asked.items() if value is not None]

    def initializer(self, name: str, model: str, device: str | None, *, fallback: bool = True) -> Initializer:
        """Make the initializer of that name for a base model; what it looks with goes to the device."""
        quieten_transformers()
        return make(
            name,
            model,
            captioner=self.captioner,
            classifier=self.classifier,
            word=self.word or "",
            phrase=self.phrase or "",
            concept=self.from_file,
            drop_stopwords=self.drop_stopwords,
            drop_scene=self.drop_scene,
            seed=self.seed,
            device=device,
            fallback=fallback,
        )


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
            click.option(
                "--classifier", help="Image classifier (ViT, ResNet, …): folder or hub id.  [default: the model's]"
            ),
        ]
    ):
        command = option(command)
    return command


def chosen(init: str | None, options: StartingOptions) -> str:
    """Name the initializer that is meant: that of --init, or the one that --word, --phrase or --from imply.

    Raises:
        click.UsageError: If the options contradict each other, or one that is needed is missing.
    """
    implied = options.implied
    if len(implied) > 1 or (init is not None and implied and implied != [init]):
        flags = " and ".join(_FLAG[name] for name in implied)
        both = f"--init {init} and {flags}" if init is not None else flags
        raise click.UsageError(f"{both} exclude each other: give one start")
    if init in _FLAG and not implied:
        raise click.UsageError(f"--init {init} needs {_FLAG[init]}")
    start = init or (implied[0] if implied else "caption")
    of = {"drop_stopwords": "caption", "drop_scene": "caption", "captioner": "caption", "classifier": "class"}
    for option, of_start in of.items():
        if start != of_start and was_given(option):
            raise click.UsageError(f"--{option.replace('_', '-')} has no effect with --init {start}: leave it out")
    return start
