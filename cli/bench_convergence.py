"""`sentinv bench convergence`: how soon each start reaches vanilla's loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sentinv.cli.options import SEED, learning_rate_option, schedule_option
from sentinv.cli.studying import conduct, study_options
from sentinv.errors import SentinvError

STARTS = (
    *("vanilla@5000", "random", "word", "class", "caption", "caption-no-scene", "human"),
    *("stars", "random-words", "other-caption"),
    *("image-only", "prompt-only", "targets-only"),
)
SMALL = ("vanilla@500", "class", "caption", "stars")
_INIT = f"Repeatable.  [default: {STARTS[0]} and {len(STARTS) - 1} others]"


@click.command()
@click.option("--init", "starts", multiple=True, metavar="START[@STEPS]", help=_INIT)
@click.option("--seeds", type=click.IntRange(min=1), help="How many, from 0.  [default: 3; 1 with --small]")
@click.option("--seed", "own_seeds", multiple=True, type=SEED, help="This one, not --seeds; repeatable.")
@click.option(
    "--steps", type=click.IntRange(min=1), default=100, show_default=True, help="Budget, where START has none."
)
@learning_rate_option
@schedule_option
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

    small = given["small"]
    train = {"steps": given["steps"], "learning_rate": given["learning_rate"], "schedule": given["schedule"]}
    study = Study(
        title="Convergence",
        question="How many steps does each start need to reach the loss of plain textual inversion?",
        starts=given["starts"] or _fitting(SMALL if small else STARTS, given),
        concepts=_few(given) if small else (),
        seeds=_seeds(given),
        train=train,
        images_at=(0, 100, 500) if small else IMAGES_AT,
        count=given["count"] or (2 if small else 4),
        sampling_steps=given["sampling_steps"],
    )
    folder = given["output"] or Path("outputs") / ("convergence-small" if small else "convergence")
    conduct([(study, folder)], given, convergence=True)


def _seeds(given: dict[str, Any]) -> tuple[int, ...]:
    """Those that are named, or so many.

    Raises:
        SentinvError: If both are asked for.
    """
    if given["seeds"] and given["own_seeds"]:
        raise SentinvError("--seeds says how many, --seed which: give one of them")
    return tuple(dict.fromkeys(given["own_seeds"])) or tuple(range(given["seeds"] or (1 if given["small"] else 3)))


def _fitting(starts: tuple[str, ...], given: dict[str, Any]) -> tuple[str, ...]:
    """Those that need nothing that pictures of one's own, or a study without images, do not have."""
    lacking: set[str] = set()
    if given["images"]:
        lacking |= {"word", "human", "targets-only"}
    if len(given["images"]) == 1:
        lacking |= {"other-caption"}
    if given["no_images"]:
        lacking |= {"image-only", "prompt-only", "targets-only"}
    return tuple(start for start in starts if start not in lacking)


def _few(given: dict[str, Any]) -> tuple[str, ...]:
    """Every sixth concept, so that both kinds are among them; all pictures of --image."""
    from sentinv.cli.studying import all_concepts

    names = [concept.name for concept in all_concepts(given)]
    return tuple(names if given["images"] else names[1::6] or names)
