"""`sentinv export`: learned words and LoRAs in the files that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import force_option, notice, output_options, print_json

if TYPE_CHECKING:
    from sentinv.adapters.lora import Lora
    from sentinv.concepts.concept import Concept
    from sentinv.concepts.export import Export

PROGRAMS = ("diffusers", "a1111", "comfyui", "invokeai", "kohya", "onetrainer")


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--to", "program", required=True, help=f"For which program: {', '.join(PROGRAMS)}.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path(), help="Folder.  [default: the current one]"
)
@click.option(
    "--bundle", is_flag=True, help="A LoRA and its word as one file, for a1111 and comfyui; diffusers refuses it."
)
@click.option("--allow-pickle", is_flag=True, help="Read .pt and .bin files too, in a process of their own.")
@force_option
@output_options
def export(files: tuple[Path, ...], program: str, **given: Any) -> None:
    """Write learned words and LoRAs as the files that another program reads, and say what to write in its prompt.

    The files are named after word and base model. A word in two files, for SDXL, is given by both.

    \b
      sentinv export cat.safetensors --to comfyui -o ComfyUI/models/embeddings
      sentinv export cat.safetensors mug.safetensors --to a1111
      sentinv export cat.safetensors cat-lora.safetensors --to invokeai
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.concepts.export import write_exports
    from sentinv.errors import SentinvError

    if program not in PROGRAMS:
        raise SentinvError(f"--to: expected one of {', '.join(PROGRAMS)}, got {program!a}")
    exports = _exports(files, program, bundle=given["bundle"], allow_pickle=given["allow_pickle"], quiet=given["quiet"])
    paths = write_exports(exports, given["output"], overwrite=given["force"], sources=files)
    if given["as_json"]:
        print_json({"to": program, "exports": [_as_json(one, given["output"]) for one in exports]})
        return
    click.echo("\n".join(str(path) for path in paths))
    for one in exports:
        notice(one.line, quiet=given["quiet"])
    words = {one.token for one in exports if one.kind != "lora"}
    for one in exports:
        if one.kind == "lora" and one.token and one.token not in words:
            notice(f"its word, {one.token}, is a file of its own: export that too", quiet=given["quiet"])


def _exports(files: tuple[Path, ...], program: str, *, bundle: bool, allow_pickle: bool, quiet: bool) -> list[Export]:
    """What the files come to, not written yet: words first.

    Raises:
        SentinvError: If one cannot be read, or the program has no file for it.
    """
    from sentinv.adapters.export import export_bundle, export_lora
    from sentinv.adapters.lora import load_lora
    from sentinv.cli.inspect import holds_lora
    from sentinv.concepts.export import export_word
    from sentinv.concepts.reading import load_concepts

    adapters = [file for file in files if holds_lora(file)]
    concepts = load_concepts([file for file in files if file not in adapters], allow_pickle=allow_pickle)
    loras = [load_lora(file) for file in adapters]
    concepts += [
        word for file, lora in zip(adapters, loras, strict=True) if lora.bundled for word in load_concepts([file])
    ]
    if bundle:
        return [export_bundle(lora, _word_of(lora, concepts), program) for lora in loras or _no_lora()]
    for lora in loras:
        if any(lora.is_around_another(one) for one in concepts):
            notice(f"{lora.of_another}: export the word it came with", quiet=quiet)
    return [*(export_word(one, program) for one in concepts), *(export_lora(one, program) for one in loras)]


def _word_of(lora: Lora, concepts: list[Concept]) -> Concept:
    """The word that a LoRA belongs to; of a LoRA that belongs to none the only one.

    Raises:
        SentinvError: If it is not there.
    """
    from sentinv.errors import SentinvError

    own = [one for one in concepts if not lora.token or one.token == lora.token]
    if len(own) != 1:
        raise SentinvError(
            f"--bundle: expected the word of {lora.title}{f', {lora.token},' if lora.token else ''} among the files, got "
            f"{', '.join(one.token for one in concepts) or 'none'}: name both files"
        )
    return own[0]


def _no_lora() -> list[Lora]:
    from sentinv.errors import SentinvError

    raise SentinvError("--bundle: expected a LoRA and its word, got no LoRA: name both files, or leave --bundle out")


def _as_json(one: Export, folder: Path) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "token": one.token,
        "base": one.base,
        "files": [str(folder / name) for name in one.files],
        "prompt": one.prompt,
        "place": one.place,
    }
