"""`sentinv inspect`: what is in a file of a word or a LoRA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import output_options, print_json, printable

if TYPE_CHECKING:
    from sentinv.adapters.lora import Lora
    from sentinv.concepts.concept import Concept


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--allow-pickle", is_flag=True, help="Read .pt and .bin files too, in a process of their own.")
@output_options
def inspect(files: tuple[Path, ...], allow_pickle: bool, quiet: bool, as_json: bool) -> None:
    """Show what is in a concept file: where it came from, and each of its vectors.

    A word in two files, for SDXL, is given by both, or by the folder they are in. Of a LoRA its layers are counted.
    """
    from sentinv.concepts.reading import load_concept
    from sentinv.errors import SentinvError
    from sentinv.files.atomic import shown

    if len(files) == 1 and holds_lora(files[0]):
        _show_lora(files[0], as_json=as_json)
        return
    lora = next((file for file in files if holds_lora(file)), None)
    if lora is not None:
        raise SentinvError(f"{shown(lora)} is a LoRA: look into it by itself")
    concept = load_concept(files, allow_pickle=allow_pickle)
    rows = _rows(concept)
    if as_json:
        header = {key: value for key, value in concept.metadata.items() if key != "modelspec.thumbnail"}
        print_json(
            {
                "file": str(files[0]),
                "token": concept.token,
                "vectors": concept.count,
                "base_model": concept.base_model,
                "header": header,
                "rows": rows,
            }
        )
        return
    _show(_facts(concept))
    click.echo()
    width = max(len("vector"), *(len(row["vector"]) for row in rows)) + 2
    word = max(len("started as"), *(len(row["word"]) for row in rows)) + 2
    click.echo(click.style(f"{'vector':<{width}}{'started as':<{word}}{'width':>6}{'norm':>9}{'cosine':>9}", bold=True))
    for row in rows:
        cosine = "" if row["cosine"] is None else f"{row['cosine']:.3f}"
        click.echo(
            f"{row['vector']:<{width}}{printable(row['word']):<{word}}{row['width']:>6}{row['norm']:>9.3f}{cosine:>9}"
        )


def _show(facts: dict[str, str]) -> None:
    for label, value in facts.items():
        if value:
            click.echo(f"{label:<12}{printable(value)}")


def _facts(concept: Concept) -> dict[str, str]:
    found = concept.metadata.get
    start, best = found("sentinv.start_loss"), found("sentinv.best_loss")
    model_hash = concept.fingerprint[:12]
    text, source = found("sentinv.initial_text", ""), found("sentinv.initializer", "")
    return {
        "token": concept.token,
        "vectors": str(concept.count),
        "model": concept.base_model + (f" ({model_hash})" if model_hash else ""),
        "family": found("modelspec.architecture", "") or _family(concept),
        "started as": f"{text!r} ({source})" if text else "",
        "training": f"best at step {found('sentinv.steps')}, learning rate {found('sentinv.learning_rate')}, "
        f"seed {found('sentinv.seed')}"
        if found("sentinv.steps")
        else "",
        "loss": f"{float(start):.4f} → {float(best):.4f}" if start and best else "",
        "made by": f"sentinv {found('sentinv.version')}" if found("sentinv.version") else "",
    }


def _family(concept: Concept) -> str:
    """The family of models that rows of such widths are for, where the file does not say."""
    from sentinv.concepts.export import ARCHITECTURES
    from sentinv.concepts.layouts import base_of

    base = base_of(concept.rows)
    return f"{ARCHITECTURES[base]}, by the width of its vectors" if base else ""


def _rows(concept: Concept) -> list[dict[str, Any]]:
    """One record for each vector and text encoder; cosine to the start where the header has it."""
    told = json.loads(concept.metadata.get("sentinv.norms_and_cosines", "{}"))
    rows = []
    for encoder, values in concept.rows.items():
        for index, norm in enumerate(values.norm(dim=1).tolist()):
            rows.append(
                {
                    "vector": concept.vector_names[index],
                    "text_encoder": encoder,
                    "word": concept.tokens[index] if index < len(concept.tokens) else "",
                    "width": values.shape[1],
                    "norm": norm,
                    "cosine": told[encoder][index][1] if encoder in told else None,
                }
            )
    return rows


def holds_lora(file: Path) -> bool:
    """Whether a file is a LoRA; what cannot be read is left to the reader of words, which tells why."""
    from sentinv.adapters.lora import MAX_BYTES
    from sentinv.concepts.kinds import is_lora
    from sentinv.errors import SentinvError
    from sentinv.files.tensors import read_tensors

    try:
        return is_lora(read_tensors(file, max_bytes=MAX_BYTES)[0])
    except SentinvError:
        return False


def _show_lora(path: Path, *, as_json: bool) -> None:
    from sentinv.adapters.lora import load_lora

    lora = load_lora(path)
    header = {key: value for key, value in lora.metadata.items() if key != "modelspec.thumbnail"}
    if as_json:
        print_json(
            {
                "file": str(path),
                "kind": "lora",
                "token": lora.token,
                "base_model": lora.base_model,
                "ranks": _ranks(lora),
                "layers": len(lora.layers),
                "left_out": dict(lora.left_out),
                "header": header,
            }
        )
        return
    _show(
        {
            "kind": "LoRA",
            "token": lora.token,
            "model": lora.base_model,
            "layers": f"{len(lora.layers)} of a UNet",
            "rank, alpha": "; ".join(_ranks(lora)),
            "family": header.get("modelspec.architecture", ""),
            "left out": ", ".join(f"{count} {what}" for what, count in lora.left_out.items()),
        }
    )


def _ranks(lora: Lora) -> list[str]:
    """The few pairs of rank and alpha that there are, as "8, 8"; the commonest first."""
    pairs = [f"{layer.rank}, {layer.alpha:g}" for layer in lora.layers.values()]
    return sorted(set(pairs), key=pairs.count, reverse=True)[:5]
