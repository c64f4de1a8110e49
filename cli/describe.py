"""`sentinv describe`: where each initializer would start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import OutputOptions, crop_option, model_option, output_options, print_json
from sentinv.cli.starting import StartingOptions, starting_options
from sentinv.errors import Interrupted, SentinvError

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.files.cropping import Crop


@dataclass(frozen=True, kw_only=True)
class DescribeOptions(StartingOptions, OutputOptions):
    """What `describe` is told."""

    model: str
    crop: Crop


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@starting_options
@crop_option
@click.option("--seed", default=0, show_default=True, help="For the random word.")
@model_option
@output_options
def describe(image: Path, **given: Any) -> None:
    """Show what each initializer would start from: words, tokens, count.

    Of the model only the tokenizer is loaded.
    """
    from sentinv.files.cropping import square
    from sentinv.files.images import read_image
    from sentinv.models.loading import load_tokenizers

    options = DescribeOptions(**given)
    picture = square(read_image(image), options.crop)
    for text in picture.notices:
        options.notice(text)
    tokenizer = load_tokenizers(options.model)[0]
    starts, failures = [], []
    for name in ("caption", "class", *options.implied, "random", "vanilla"):
        try:
            starts.append(_start(name, picture.image, tokenizer, options))
        except Interrupted:
            raise
        except SentinvError as error:
            failures.append(f"{name}: {error}")
    if options.as_json:
        print_json({"image": str(image), "model": options.model, "starts": starts, "failures": failures})
    else:
        _print_table(starts)
    if failures:
        raise SentinvError("; ".join(failures))


def _start(name: str, image: Image.Image, tokenizer: Any, options: DescribeOptions) -> dict[str, Any]:
    from sentinv.concepts.initialization import plan

    said = options.initializer(name, options.model, None, fallback=False)(image)
    if said.concept is not None:
        tokens, text, dropped = said.concept.vector_names, said.text, ""
    else:
        found = plan(said.text, tokenizer, options.max_vectors)
        tokens, text, dropped = list(found.tokens), found.text, found.dropped
    return {
        "initializer": name,
        "text": text,
        "dropped": dropped,
        "score": said.score,
        "tokens": tokens,
        "vectors": len(tokens),
    }


def _print_table(starts: list[dict[str, Any]]) -> None:
    click.echo(click.style(f"{'init':<9}{'vectors':>7}{'score':>7}  words", bold=True))
    for start in starts:
        cut = f"  (cut: {start['dropped']})" if start["dropped"] else ""
        score = "" if start["score"] is None else f"{start['score']:.2f}"
        click.echo(f"{start['initializer']:<9}{start['vectors']:>7}{score:>7}  {start['text']}{cut}")
        if start["tokens"] != start["text"].split():
            click.echo(f"{'':<25}{click.style(' · '.join(start['tokens']), dim=True)}")
