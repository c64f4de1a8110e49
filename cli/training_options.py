"""Options of the training that several commands have."""

from __future__ import annotations

from typing import get_args

import click

from sentinv.cli.options import Decorated
from sentinv.training.config import Schedule, TrainConfig


def learning_rate_option(command: Decorated) -> Decorated:
    """Add --relative-lr, --lr and --max-norm."""
    command = click.option(
        "--lr", "learning_rate", type=float, help="An absolute learning rate in its place, such as 0.005."
    )(command)
    command = click.option(
        "--max-norm",
        type=click.FloatRange(0),
        default=TrainConfig.max_norm,
        show_default=True,
        help="The longest that vectors may get, in usual lengths of the vocabulary's rows. 0: no limit.",
        callback=lambda ctx, param, value: value or None,
    )(command)
    return click.option(
        "--relative-lr",
        "relative_learning_rate",
        type=float,
        help="How far a step goes, as a share of the usual length of the vocabulary's rows.  "
        "[default: the model's own: toybox 0.95, others 0.25]",
    )(command)


def flip_option(command: Decorated) -> Decorated:
    """Add --flip and --no-flip."""
    return click.option(
        "--flip/--no-flip", default=TrainConfig.flip, show_default=True, help="Learn from the mirrored image too."
    )(command)


def schedule_option(command: Decorated) -> Decorated:
    """Add --schedule."""
    kinds = click.Choice(get_args(Schedule))
    return click.option(
        "--schedule", type=kinds, default=TrainConfig.schedule, show_default=True, help="Of the learning rate."
    )(command)
