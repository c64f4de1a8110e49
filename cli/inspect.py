"""`sentinv inspect`: what is in a concept file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import output_options, print_json

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--allow-pickle", is_flag=True, help="Read .pt and .bin files too, in a process of their own.")
@output_options
def inspect(file: Path, allow_pickle: bool, quiet: bool, as_json: bool) -> None:
    """Show what is in a concept file: where it came from, and each of its vectors."""
    from sentinv.concepts.concept import Concept

    concept = Concept.load(file, allow_pickle=allow_pickle)
    rows = _rows(concept)
    if as_json:
        header = {key: value for key, value in concept.metadata.items() if key != "modelspec.thumbnail"}
        print_json(
            {
                "file": str(file),
                "token": concept.token,
                "vectors": concept.count,
                "base_model": concept.base_model,
                "header": header,
                "rows": rows,
            }
        )
        return
    for label, value in _facts(concept).items():
        if value:
            click.echo(f"{label:<12}{value}")
    click.echo()
    width = max(len("vector"), *(len(row["vector"]) for row in rows)) + 2
    word = max(len("started as"), *(len(row["word"]) for row in rows)) + 2
    click.echo(click.style(f"{'vector':<{width}}{'started as':<{word}}{'width':>6}{'norm':>9}{'cosine':>9}", bold=True))
    for row in rows:
        cosine = "" if row["cosine"] is None else f"{row['cosine']:.3f}"
        click.echo(f"{row['vector']:<{width}}{row['word']:<{word}}{row['width']:>6}{row['norm']:>9.3f}{cosine:>9}")


def _facts(concept: Concept) -> dict[str, str]:
    found = concept.metadata.get
    start, best = found("sentinv.start_loss"), found("sentinv.best_loss")
    model_hash = concept.fingerprint[:12]
    text, source = found("sentinv.initial_text", ""), found("sentinv.initializer", "")
    return {
        "token": concept.token,
        "vectors": str(concept.count),
        "model": concept.base_model + (f" ({model_hash})" if model_hash else ""),
        "family": found("modelspec.architecture", ""),
        "started as": f"{text!r} ({source})" if text else "",
        "training": f"best at step {found('sentinv.steps')}, learning rate {found('sentinv.learning_rate')}, "
        f"seed {found('sentinv.seed')}"
        if found("sentinv.steps")
        else "",
        "loss": f"{float(start):.4f} → {float(best):.4f}" if start and best else "",
        "made by": f"sentinv {found('sentinv.version')}" if found("sentinv.version") else "",
    }


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
