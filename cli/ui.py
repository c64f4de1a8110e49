"""`sentinv ui`: the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from sentinv.cli.options import ModelOptions, OutputOptions, model_options, output_options, print_json


@dataclass(frozen=True, kw_only=True)
class UiOptions(ModelOptions, OutputOptions):
    """What `ui` is told."""

    folder: Path
    host: str
    port: int


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path(),
    show_default="this one",
    help="Where words and pictures go; nothing else is read or served.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 is the whole network."
)
@click.option("--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="0: any that is free.")
@model_options
@output_options
def ui(**given: Any) -> None:
    """Open a page: drop a picture, see the word appear, draw with it.

    It is for this computer alone unless --host says otherwise, and it has no password: whoever reaches it may use it.

    \b
      sentinv ui
      sentinv ui --folder words --model sd15
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.ui.server import Serving, serve

    options = UiOptions(**given)
    serving = Serving(
        folder=options.folder,
        host=options.host,
        port=options.port,
        place=options.place,
    )

    def ready(address: str) -> None:
        if options.as_json:
            print_json({"address": address, "folder": str(options.folder)})
        else:
            click.echo(f"{address}\n")
            options.notice("open this address in a browser; Ctrl-C ends it, and saves what is being learned")

    serve(serving, ready)
