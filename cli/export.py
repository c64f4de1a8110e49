"""`sentinv export`: learned words in the files that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import force_option, notice, output_options, print_json

if TYPE_CHECKING:
    from sentinv.concepts.export import Export

PROGRAMS = ("diffusers", "a1111", "comfyui", "invokeai", "kohya", "onetrainer")


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--to", "program", required=True, help=f"For which program: {', '.join(PROGRAMS)}.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path(), help="Folder.  [default: the current one]"
)
@click.option("--allow-pickle", is_flag=True, help="Read .pt and .bin files too, in a process of their own.")
@force_option
@output_options
def export(files: tuple[Path, ...], program: str, **given: Any) -> None:
    """Write learned words as the files that another program reads, and say what to write in its prompt.

    The files are named after word and base model. A word in two files, for SDXL, is given by both.

    \b
      sentinv export cat.safetensors --to comfyui -o ComfyUI/models/embeddings
      sentinv export cat.safetensors mug.safetensors --to a1111
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.concepts.export import export_word, write_exports
    from sentinv.concepts.reading import load_concepts
    from sentinv.errors import SentinvError

    if program not in PROGRAMS:
        raise SentinvError(f"--to: expected one of {', '.join(PROGRAMS)}, got {program!a}")
    concepts = load_concepts(files, allow_pickle=given["allow_pickle"])
    exports = [export_word(concept, program) for concept in concepts]
    paths = write_exports(exports, given["output"], overwrite=given["force"], sources=files)
    if given["as_json"]:
        print_json({"to": program, "exports": [_as_json(one, given["output"]) for one in exports]})
        return
    click.echo("\n".join(str(path) for path in paths))
    for one in exports:
        notice(one.line, quiet=given["quiet"])


def _as_json(one: Export, folder: Path) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "token": one.token,
        "base": one.base,
        "files": [str(folder / name) for name in one.files],
        "prompt": one.prompt,
        "place": one.place,
    }
