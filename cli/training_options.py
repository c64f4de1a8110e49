"""Options of the training that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from sentinv.cli.options import (
    Decorated,
    ModelOptions,
    OutputOptions,
    crop_option,
    force_option,
    model_options,
    output_options,
    was_given,
)
from sentinv.training.config import Schedule, TrainConfig

if TYPE_CHECKING:
    from sentinv.files.cropping import Crop


@dataclass(frozen=True, kw_only=True)
class RunOptions(ModelOptions, OutputOptions):
    """What both `invert` and `tune` are told, most of it by `picture_options` and `run_options`."""

    images: tuple[Path, ...]
    output: Path | None
    masks: tuple[Path, ...]
    crop: Crop
    kind: str
    steps: int
    batch_size: int | None
    blended: int | None
    min_snr: float | None
    seed: int
    gradient_checkpointing: bool
    samples: int
    resume: bool
    plan_only: bool
    force: bool

    def values_for(self, config: type[TrainConfig]) -> dict[str, Any]:
        """What the options say of a config; that settings files ask for blended items is not meant for styles.

        Raises:
            click.UsageError: If two of them say one thing.
        """
        names = {field.name for field in fields(config)} & {field.name for field in fields(self)}
        absolute = "rows_learning_rate" if "rows_learning_rate" in names else "learning_rate"
        if was_given(absolute) and was_given("relative_learning_rate"):
            option = "--rows-lr" if absolute.startswith("rows") else "--lr"
            raise click.UsageError(f"{option} takes the place of --relative-lr: give one of them")
        values = {name: getattr(self, name) for name in names}
        if self.kind == "style" and not was_given("blended"):
            values["blended"] = None
        return values


def picture_options(config: type[TrainConfig]) -> Callable[[Decorated], Decorated]:
    """Add --mask, --crop, --steps and --kind, with the defaults of a config."""
    path = click.Path(path_type=Path)
    return _all(
        click.option("--mask", "masks", multiple=True, type=path, help="White where the thing is; one for each image."),
        crop_option,
        click.option("--steps", default=config.steps, show_default=True, help="Training steps."),
        click.option(
            "--kind", type=click.Choice(["object", "style"]), default=config.kind, show_default=True, help="What it is."
        ),
    )


def run_options(config: type[TrainConfig]) -> Callable[[Decorated], Decorated]:
    """Add --seed, --gradient-checkpointing, --samples, --resume and --plan, then what all commands with a model have."""
    return _all(
        click.option(
            "--seed", default=config.seed, show_default=True, help="Equal seeds give equal files; on a GPU nearly so."
        ),
        click.option("--gradient-checkpointing", is_flag=True, help="Less memory, slower."),
        click.option(
            "--samples", type=click.IntRange(0, 16), default=4, show_default=True, help="Images in the report."
        ),
        click.option("--resume", is_flag=True, help="Go on with an interrupted run."),
        click.option("--plan", "plan_only", is_flag=True, help="Show what would happen, and stop."),
        model_options,
        force_option,
        output_options,
    )


def _all(*options: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """One decorator in place of several, which help lists in this order."""

    def add(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def items_option(config: type[TrainConfig], name: str, text: str) -> Callable[[Decorated], Decorated]:
    """Add an option for a number of items per step, of which there are no more than fit the batch unless it is given."""
    return click.option(
        f"--{name}", type=int, help=f"{text}  [default: {config.usual_items[name]}, at most --batch-size]"
    )


def min_snr_option(config: type[TrainConfig]) -> Callable[[Decorated], Decorated]:
    """Add --min-snr, with the default of a config; 0 is None."""
    return _off_at_zero(
        "--min-snr",
        config.min_snr,
        "Gamma of the loss's weights, for 16 latents a side. Less: composition counts more, detail less. 0: all alike.",
    )


def _off_at_zero(name: str, usual: float | None, text: str) -> Callable[[Decorated], Decorated]:
    """An option for a number that is None at 0."""
    return click.option(
        name,
        type=click.FloatRange(0),
        default=usual,
        show_default=True,
        help=text,
        callback=lambda ctx, param, value: value or None,
    )


def learning_rate_option(command: Decorated) -> Decorated:
    """Add --relative-lr, --lr, --max-norm and --fixed-norms."""
    command = click.option(
        "--lr", "learning_rate", type=float, help="An absolute learning rate in its place, such as 0.005."
    )(command)
    command = click.option(
        "--fixed-norms", is_flag=True, help="Vectors keep the length that they start with: only directions are learned."
    )(command)
    command = _off_at_zero(
        "--max-norm",
        TrainConfig.max_norm,
        "The longest that vectors may get, in usual lengths of the vocabulary's rows. 0: no limit.",
    )(command)
    return click.option(
        "--relative-lr",
        "relative_learning_rate",
        type=float,
        help="How far a step goes, as a share of the usual length of the vocabulary's rows.  "
        "[default: the model's own: toybox 0.95, others 0.4, as it begins]",
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
