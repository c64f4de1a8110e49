"""`sentinv bench peers`: another trainer's script and ours, measured alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from sentinv.cli.options import SEED
from sentinv.cli.studying import StudyOptions, conduct, study_options


@dataclass(frozen=True, kw_only=True)
class PeersOptions(StudyOptions):
    """What `bench peers` is told."""

    scripts: tuple[str, ...]
    starts: tuple[str, ...]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    count: int
    sampling_steps: int


@click.command()
@click.argument("scripts", nargs=-1, required=True, metavar="SCRIPT…")
@click.option("--init", "starts", multiple=True, metavar="START[@STEPS]", help="Ours.  [default: vanilla and caption]")
@click.option(
    "--steps", "budgets", multiple=True, type=click.IntRange(min=1), help="Of each; repeatable.  [default: 100]"
)
@click.option("--seed", "seeds", multiple=True, type=SEED, help="Repeatable.  [default: 0]")
@click.option("--count", type=click.IntRange(min=1), default=4, show_default=True, help="Images per prompt.")
@click.option("--sampling-steps", type=click.IntRange(min=1), default=25, show_default=True, help="DDIM steps.")
@study_options
def peers(**given: Any) -> None:
    """Let other trainers' scripts learn the concepts' words, and measure them as ours are measured.

    A bare path is given the options of diffusers' examples/textual_inversion/textual_inversion.py, and one vector from *. For
    another script or other options write them behind the path, with {model}, {folder}, {resolution}, {batch_size}, {steps},
    {seed} and {output} where they belong. What it leaves as learned_embeds.safetensors is measured. Scripts run as they are,
    with your rights.

    \b
      sentinv bench peers PATH/TO/textual_inversion.py --steps 100 --steps 500
      sentinv bench peers PATH/TO/textual_inversion.py --init caption@100
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.bench.study import Study

    options = PeersOptions(**given)
    budgets = options.budgets or (100,)
    starts = [start for name in options.starts or ("vanilla", "caption") for start in _each(name, budgets)]
    study = Study(
        title="Peers",
        question="How near does another trainer's script come with the same model, picture and number of steps?",
        starts=(*(f"peer:{script}@{steps}" for script in options.scripts for steps in budgets), *starts),
        seeds=options.seeds or (0,),
        train={"steps": max(budgets)},
        loss_at=budgets,
        images_at=budgets,
        count=options.count,
        sampling_steps=options.sampling_steps,
    )
    conduct([(study, options.output or Path("outputs") / "peers")], options)


def _each(start: str, budgets: tuple[int, ...]) -> tuple[str, ...]:
    """A start at every budget, unless it has its own."""
    return (start,) if "@" in start else tuple(f"{start}@{steps}" for steps in budgets)
