"""`sentinv bench convergence`: how soon each start reaches vanilla's loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from sentinv.cli.options import SEED
from sentinv.cli.studying import StudyOptions, conduct, study_options
from sentinv.cli.training_options import flip_option, learning_rate_option, schedule_option
from sentinv.errors import SentinvError

STARTS = (
    *("vanilla@5000", "random", "word", "class", "caption", "caption-no-scene", "human"),
    *("stars", "random-words", "other-caption"),
    *("image-only", "prompt-only", "targets-only"),
)
SMALL = ("vanilla@500", "class", "caption", "stars")
_INIT = f"Repeatable.  [default: {STARTS[0]} and {len(STARTS) - 1} others]"


@dataclass(frozen=True, kw_only=True)
class ConvergenceOptions(StudyOptions):
    """What `bench convergence` is told."""

    starts: tuple[str, ...]
    seeds: int | None
    own_seeds: tuple[int, ...]
    steps: int
    relative_learning_rate: float | None
    learning_rate: float | None
    max_norm: float | None
    fixed_norms: bool
    schedule: str
    flip: bool
    count: int | None
    sampling_steps: int
    small: bool


@click.command()
@click.option("--init", "starts", multiple=True, metavar="START[@STEPS]", help=_INIT)
@click.option("--seeds", type=click.IntRange(min=1), help="How many, from 0.  [default: 3; 1 with --small]")
@click.option("--seed", "own_seeds", multiple=True, type=SEED, help="This one, not --seeds; repeatable.")
@click.option(
    "--steps", type=click.IntRange(min=1), default=100, show_default=True, help="Budget, where START has none."
)
@learning_rate_option
@schedule_option
@flip_option
@click.option("--count", type=click.IntRange(min=1), help="Images per prompt.  [default: 4; 2 with --small]")
@click.option("--sampling-steps", type=click.IntRange(min=1), default=25, show_default=True, help="DDIM steps.")
@click.option("--small", is_flag=True, help="Two concepts, four starts, one seed: minutes, not a night.")
@study_options
def convergence(**given: Any) -> None:
    """Train from different starts and compare the loss on one fixed grid.

    \b
    A start is one of vanilla, random, word, class, caption, caption-no-stopwords,
    caption-no-scene, human, phrase:WORDS; a control: stars[:N], random-words[:N],
    other-caption; or a reference: image-only, prompt-only, targets-only.
    vanilla@5000 has a budget of its own.

    \b
      sentinv bench convergence --small
      sentinv bench convergence --part 1/2 --threads 1   # and 2/2 beside it
      sentinv bench convergence --image cat.jpg --init vanilla --init "phrase:cat"
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.bench.study import IMAGES_AT, Study

    options = ConvergenceOptions(**given)
    small = options.small
    names = ("steps", "relative_learning_rate", "learning_rate", "max_norm", "fixed_norms", "schedule", "flip")
    train = {name: getattr(options, name) for name in names}
    study = Study(
        title="Convergence",
        question="How many steps does each start need to reach the loss of plain textual inversion?",
        starts=options.starts or _fitting(SMALL if small else STARTS, options),
        concepts=_few(options) if small else (),
        seeds=_seeds(options),
        train=train,
        images_at=(0, 100, 500) if small else IMAGES_AT,
        count=options.count or (2 if small else 4),
        sampling_steps=options.sampling_steps,
        convergence=True,
    )
    folder = options.output or Path("outputs") / ("convergence-small" if small else "convergence")
    conduct([(study, folder)], options)


def _seeds(options: ConvergenceOptions) -> tuple[int, ...]:
    """Those that are named, or so many.

    Raises:
        SentinvError: If both are asked for.
    """
    if options.seeds and options.own_seeds:
        raise SentinvError("--seeds says how many, --seed which: give one of them")
    return tuple(dict.fromkeys(options.own_seeds)) or tuple(range(options.seeds or (1 if options.small else 3)))


def _fitting(starts: tuple[str, ...], options: ConvergenceOptions) -> tuple[str, ...]:
    """Those that need nothing that pictures of one's own, or a study without images, do not have."""
    lacking: set[str] = set()
    if options.images:
        lacking |= {"word", "human", "targets-only"}
    if len(options.images) == 1:
        lacking |= {"other-caption"}
    if options.no_images:
        lacking |= {"image-only", "prompt-only", "targets-only"}
    return tuple(start for start in starts if start not in lacking)


def _few(options: ConvergenceOptions) -> tuple[str, ...]:
    """Every twelfth concept: of the benchmarks, a thing that is known and one that isn't; all pictures of --image."""
    names = [concept.name for concept in options.all_concepts()]
    return tuple(names if options.images else names[1::12] or names)
