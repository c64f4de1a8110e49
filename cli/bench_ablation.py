"""`sentinv bench ablation`: grids of settings that a user can edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sentinv.cli.studying import StudyOptions, conduct, study_options


@click.command()
@click.argument("studies", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="STUDY.toml…")
@study_options
def ablation(studies: tuple[Path, ...], **given: Any) -> None:
    """Run the grid that each STUDY.toml declares, and draw the reconstruction-editability plane.

    \b
      sentinv bench ablation benchmarks/ablations/*.toml
      sentinv bench ablation benchmarks/sweep.toml --no-images --part 1/2

    \b
    A study file:
      title = "Learning rate"
      starts = ["caption", "vanilla"]
      seeds = [0, 1, 2]
      [train]
      steps = 100
      [grid]
      learning_rate = [1e-3, 1e-2, 1e-1]

    \b
    Arms have names and hyper-parameters of their own; `tune` trains a LoRA
    around the word. A max_norm or min_snr of 0 is none; `convergence = true`
    adds curves:
      convergence = true
      [arms.published]
      start = "vanilla@5000"
      train = { min_snr = 0, max_norm = 0, learning_rate = 2e-3 }
      [arms.tuned]
      start = "caption"
      tune = { steps = 200 }
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.bench.study_file import read_study
    from sentinv.errors import SentinvError

    options = StudyOptions(**given)
    stems = [path.stem for path in studies]
    if len(set(stems)) < len(stems):
        raise SentinvError(f"expected study files with different names, got {', '.join(stems)}: run them one by one")
    base = options.output or Path("outputs") / "ablation"
    conduct([(read_study(path), base / path.stem) for path in studies], options)
