"""`sentinv bench speed`: what a training step costs, here and elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from sentinv.cli.options import DTYPES, OutputOptions, model_option, output_options, print_json, tell_toybox, was_given
from sentinv.cli.studying import CONCEPTS

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class SpeedOptions(OutputOptions):
    """What `bench speed` is told."""

    peers: tuple[str, ...]
    images: tuple[Path, ...]
    full_size: bool
    batch_size: int
    steps: int
    warmup: int
    repeats: int
    threads: int
    device: str
    dtype: str
    output: Path | None
    model: str


@click.command()
@click.option("--peer", "peers", multiple=True, metavar="SCRIPT", help="Another trainer's script; repeatable.")
@click.option(
    "--image", "images", multiple=True, type=_PATH, help="To train on; repeatable.  [default: the first concept's]"
)
@click.option("--full-size", is_flag=True, help="Stable Diffusion 1.5's shape with random weights, 512 pixels.")
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Of each step.")
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Timed steps per run.")
@click.option("--warmup", type=click.IntRange(min=1), default=2, show_default=True, help="Steps before them.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each trainer.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of torch, on the CPU.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Of the frozen model.")
@click.option("-o", "--output", type=_PATH, help="Folder of the results.  [default: outputs/speed]")
@model_option
@output_options
def speed(**given: Any) -> None:
    """Measure seconds, memory and FLOPs per training step, beside other trainers' scripts.

    A bare path is given the options of diffusers' examples/textual_inversion/textual_inversion.py. For another script write
    its options behind the path, with {model}, {folder}, {resolution}, {batch_size}, {steps} and {output} where they belong.
    Scripts run as they are, with your rights.

    \b
      sentinv bench speed --peer PATH/TO/textual_inversion.py
      sentinv bench speed --full-size --batch-size 1 --steps 2 --repeats 1
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from dataclasses import asdict

    from sentinv.bench.concepts import read_concepts
    from sentinv.bench.speed import SpeedConfig, measure_speed, speed_table
    from sentinv.errors import SentinvError
    from sentinv.files.atomic import atomic_write, make_folder
    from sentinv.files.images import read_image

    options = SpeedOptions(**given)
    if options.full_size and was_given("model"):
        raise click.UsageError("--model has no effect with --full-size: leave it out")
    images = options.images or (read_concepts(CONCEPTS)[0].image,)
    for path in images:
        read_image(path)  # so that one which can't be read is told at once
    folder = make_folder(options.output or Path("outputs") / "speed")
    model, resolution = _model(options, folder)
    names = ("batch_size", "steps", "warmup", "repeats", "dtype", "device", "threads")
    numbers = {name: getattr(options, name) for name in names}
    config = SpeedConfig(model=model, images=tuple(images), resolution=resolution, **numbers)
    trainers = measure_speed(config, options.peers, options.notice)
    if trainers[0].failure:
        raise SentinvError(f"our own trainer failed: {trainers[0].failure}")
    table = speed_table(trainers, config)
    settings = {**asdict(config), "model": str(model), "images": [str(path) for path in images]}
    result = {"config": settings, "trainers": [asdict(trainer) for trainer in trainers]}
    atomic_write(folder / "speed.json", (json.dumps(result, indent=1) + "\n").encode(), overwrite=True)
    atomic_write(folder / "speed.md", table.markdown().encode(), overwrite=True)
    if options.as_json:
        print_json(result)
    else:
        click.echo(table.markdown())
    if any(trainer.failure for trainer in trainers):
        raise click.exceptions.Exit(1)


def _model(options: SpeedOptions, folder: Path) -> tuple[Path, int]:
    """A folder with the model, and its side in pixels; the full-size one is written once and kept.

    Raises:
        SentinvError: If the model is none that peers can read.
    """
    from sentinv.bench.peers import peer_folder

    if options.full_size:
        import torch

        from sentinv.bench import sd15

        path = folder / f"sd15-shaped-{options.dtype}"
        if not path.is_dir():
            options.notice(f"writing random weights to {path}")
            sd15.save_pipeline(path, getattr(torch, options.dtype))
        return path, sd15.VAE["sample_size"]
    tell_toybox(options.model, quiet=options.quiet)
    path = peer_folder(options.model)
    return path, _side(path)


def _side(path: Path) -> int:
    """Pixels that a model in a folder was made for."""
    from sentinv.models.folders import parts_of

    parts = ("unet", parts_of(str(path), str(path))[0])
    unet, vae = (json.loads((path / part / "config.json").read_text(encoding="utf-8")) for part in parts)
    return unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
