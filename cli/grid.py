"""`sentinv generate --grid`: every prompt with every learned word, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sentinv.cli.options import check_prompts, print_json, tell_toybox, was_given
from sentinv.cli.progress import progress
from sentinv.cli.saving import Made, save
from sentinv.cli.targets import check_target, is_file, made_folder, slug

if TYPE_CHECKING:
    from sentinv.cli.generate import GenerateOptions
    from sentinv.concepts.concept import Concept
    from sentinv.generation.grid import Wish


def make_grid(prompts: Sequence[str], options: GenerateOptions) -> None:
    """Make the images of `generate --grid`.

    Raises:
        click.UsageError: If a prompt has no place for the words, or an option has no effect here.
        SentinvError: As `generate`.
    """
    from sentinv.report.contact_sheet import contact_sheet

    target = options.output or Path("grid")
    _check_usage(prompts, target, options)
    concepts = _concepts(options)
    check_prompts(
        [*(fill_in(prompt, concepts[0].token) for prompt in prompts), options.negative], concepts, options.model
    )
    check_target(target, force=options.force)
    tell_toybox(options.model, quiet=options.quiet)
    names, wishes = _wishes(prompts, concepts, options)
    with made_folder(target):
        made = _make(wishes, [target / name for name in names], options)
        columns = len(prompts) * options.count
        captions = [f"{wish.concepts[0].token} seed {wish.seed}" for wish in wishes]
        sheet = contact_sheet([one.image for one in made], columns=columns, captions=captions)
        from sentinv.files.images import save_png

        path = save_png(target / "grid.png", sheet, {"parameters": "\n".join(prompts)}, overwrite=options.force)
    if options.as_json:
        images = [
            {"path": str(target / name), "prompt": wish.prompt, "token": wish.concepts[0].token, "seed": wish.seed}
            for name, wish in zip(names, wishes, strict=True)
        ]
        print_json({"model": options.model, "images": images, "grid": str(path)})
    else:
        click.echo("\n".join(str(one) for one in (*(target / name for name in names), path)))


def fill_in(prompt: str, token: str) -> str:
    """Put a word into every ``{}`` of a prompt."""
    return prompt.replace("{}", token)


def _check_usage(prompts: Sequence[str], target: Path, options: GenerateOptions) -> None:
    without = next((prompt for prompt in prompts if "{}" not in prompt), None)
    if without is not None:
        raise click.UsageError(f"--grid: expected {{}} where the words go in the prompt, got {without!r}")
    if not options.files:
        raise click.UsageError("--grid needs learned words: give their files, or a folder of them, with --concept")
    for name in ("rank", "weights", "lora_files"):
        if was_given(name):
            flag = {"weights": "weight", "lora_files": "lora"}.get(name, name)
            raise click.UsageError(f"--{flag} has no effect with --grid: leave one of them out")
    if is_file(target):
        raise click.UsageError("--output is one file for many images: name a folder")


def _concepts(options: GenerateOptions) -> list[Concept]:
    """The words; of a folder all that are in it, such as those of a batch."""
    from sentinv.concepts.reading import load_concepts

    files: list[Path] = []
    for path in options.files:
        several = sorted(path.glob("*-concept.safetensors")) if path.is_dir() else []
        files += several or [path]
    found = [load_concepts([file], allow_pickle=options.allow_pickle) for file in files]
    return [concept for part in found for concept in part]


def _wishes(
    prompts: Sequence[str], concepts: Sequence[Concept], options: GenerateOptions
) -> tuple[list[str], list[Wish]]:
    """Names of files, and images: a row for each word, in it the prompts, each with its seeds."""
    from sentinv.generation.grid import Wish

    names, wishes, tokens = [], [], list[str]()
    for concept in concepts:
        again = tokens.count(concept.token)
        tokens.append(concept.token)
        called = slug(concept.token) + (f"-{again + 1}" if again else "")
        for number, prompt in enumerate(prompts, start=1):
            for seed in range(options.seed, options.seed + options.count):
                names.append(f"{called}-{number:02d}-seed-{seed}.png")
                wishes.append(Wish(prompt=fill_in(prompt, concept.token), concepts=[concept], seed=seed))
    return names, wishes


def _make(wishes: Sequence[Wish], paths: Sequence[Path], options: GenerateOptions) -> list[Made]:
    """Make the images, and save each as soon as its batch is done."""
    from sentinv.cli.generate import settings_of
    from sentinv.generation.grid import generate_grid

    backbone = options.load()
    config = options.config(backbone)
    made = []
    total = config.steps * -(-len(wishes) // config.batch_size)
    with progress("sampling", total, quiet=options.quiet) as bar:
        images = generate_grid(backbone, wishes, config, lambda done, _: bar.at(done))
        for wish, path, one in zip(wishes, paths, images, strict=True):
            settings = settings_of(backbone, replace(options, prompt=wish.prompt), config, wish.concepts)
            made.append(Made(one.image, one.seed, settings | {"seed": one.seed}))
            save(path, made[-1], force=options.force)
    return made
