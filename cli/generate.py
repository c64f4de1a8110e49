"""`sentinv generate`: images from a prompt with learned words in it."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.adapting import LoraOptions, lora_option
from sentinv.cli.options import (
    SEED,
    ModelOptions,
    check_prompts,
    force_option,
    guidance_option,
    model_options,
    output_options,
    print_json,
    quieten_transformers,
    tell_toybox,
    tell_unused,
    was_given,
    weight_option,
)
from sentinv.cli.progress import progress
from sentinv.cli.saving import Made, names_of, path_of, save, save_sheet
from sentinv.cli.targets import check_target, is_file, made_folder, slug
from sentinv.errors import Interrupted, SentinvError
from sentinv.files.atomic import shown

if TYPE_CHECKING:
    from sentinv.adapters.lora import Lora
    from sentinv.concepts.concept import Concept
    from sentinv.evaluation.judges import ClipJudge
    from sentinv.generation.generate import GenerateConfig
    from sentinv.models.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(LoraOptions, ModelOptions):
    """What `generate` is told."""

    prompt: str
    files: tuple[Path, ...]
    weights: tuple[tuple[str, float], ...]
    negative: str
    count: int
    seed: int
    steps: int
    guidance: float | None
    width: int | None
    height: int | None
    batch_size: int
    rank: bool
    clip: str | None
    output: Path | None
    allow_pickle: bool
    force: bool

    def config(self, backbone: Backbone) -> GenerateConfig:
        """How to sample.

        Raises:
            SentinvError: If a side does not fit the model.
        """
        from sentinv.generation.generate import GenerateConfig

        for side, pixels in (("width", self.width), ("height", self.height)):
            if (pixels or 0) % backbone.vae_scale:
                raise SentinvError(f"--{side}: expected a multiple of {backbone.vae_scale}, got {pixels}")
        return GenerateConfig(
            steps=self.steps,
            guidance_scale=backbone.guidance_scale if self.guidance is None else self.guidance,
            negative_prompt=self.negative,
            weights=dict(self.weights),
            batch_size=self.batch_size,
            width=self.width,
            height=self.height,
        )


@click.command()
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT")
@click.option(
    "-c", "--concept", "files", multiple=True, type=click.Path(path_type=Path), help="A learned word; repeatable."
)
@weight_option
@lora_option
@click.option("--negative", default="", help="What to lead away from.")
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=4, show_default=True, help="How many images.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the first image.")
@click.option("--steps", type=click.IntRange(1, 1000), default=25, show_default=True, help="DDIM steps.")
@guidance_option
@click.option("--width", type=click.IntRange(8, 4096), help="In pixels.  [default: the model's]")
@click.option("--height", type=click.IntRange(8, 4096), help="In pixels.  [default: the model's]")
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Images at a time.")
@click.option("--grid", is_flag=True, help="Every prompt, with {} for the word, and every word of --concept: a table.")
@click.option("--rank", is_flag=True, help="Order by CLIP: how well image and prompt agree.")
@click.option("--clip", help="CLIP for --rank: folder or hub id.  [default: the model's]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder, or with one image a .png.  [default: made of the prompt]",
)
@click.option("--allow-pickle", is_flag=True, help="Read .pt and .bin concepts too.")
@model_options
@force_option
@output_options
def generate(prompts: tuple[str, ...], grid: bool, **given: Any) -> None:
    """Make images from a prompt with learned words in it.

    Writes a folder with one PNG for each image, as soon as it is made (with --rank, at the end), prompt and settings in its
    metadata, and all of them as grid.png.

    \b
      sentinv generate "a photo of <cat> on the moon" -c cat-concept.safetensors
      sentinv generate "a watercolor of <cat>" -c cat-concept.safetensors --rank
      sentinv generate "<a> in a <mug>" -c a.safetensors -c mug.safetensors
      sentinv generate "a photo of {}" "{} on the moon" --grid -c words/
      sentinv generate "<cat>" -c cat-concept.safetensors \\
        --lora cat-lora.safetensors:0.8
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.cli.grid import make_grid

    options = GenerateOptions(prompt=prompts[0], **given)
    if grid:
        make_grid(prompts, options)
        return
    if len(prompts) > 1:
        raise click.UsageError(f"expected one prompt, got {len(prompts)}: put it in quotes; --grid takes several")
    target = options.output or Path(slug(options.prompt))
    if is_file(target):
        options = for_one_file(options)
    check_usage(options)
    concepts, loras = _read(options)
    folder = check_target(target, force=options.force)
    tell_toybox(options.model, quiet=options.quiet)
    judge = _judge(options) if options.rank else None
    with made_folder(folder):
        made = _kept(target, _make(concepts, loras, options), options)
        if judge is not None:
            made = _ranked(judge, made, concepts, options)
        paths = [target] if is_file(target) else [folder / name for name in names_of(made)]
        if judge is not None:
            for path, one in zip(paths, made, strict=True):
                save(path, one, force=options.force)
        sheet = save_sheet(folder / "grid.png", made, force=options.force) if len(made) > 1 else None
    if options.as_json:
        images = [
            {"path": str(path), "seed": one.seed, "clip": one.score} for path, one in zip(paths, made, strict=True)
        ]
        facts = {"prompt": options.prompt, "model": options.model}
        print_json({**facts, "images": images, "grid": sheet and str(sheet)})
    else:
        click.echo("\n".join(str(path) for path in (*paths, sheet) if path))


def _read(options: GenerateOptions) -> tuple[list[Concept], list[tuple[Lora, float]]]:
    """Read the words and LoRAs, and hold them against the prompt before a model is loaded."""
    from sentinv.concepts.reading import load_concepts
    from sentinv.generation.weights import check_weights

    concepts = load_concepts(options.files, allow_pickle=options.allow_pickle)
    loras = options.meant(options.loras(), options.prompt + options.negative)
    check_weights(dict(options.weights), options.prompt)
    check_prompts([options.prompt, options.negative], concepts, options.model)
    tell_unused(concepts, options.prompt + options.negative, options)
    return concepts, loras


def check_usage(options: GenerateOptions) -> None:
    """Refuse options that would have no effect.

    Raises:
        click.UsageError: If there is one.
    """
    if was_given("clip") and not options.rank:
        raise click.UsageError("--clip has no effect without --rank: leave it out")
    if was_given("negative") and options.guidance == 1:
        raise click.UsageError("--negative has no effect with --guidance 1: leave one of them out")


def for_one_file(options: GenerateOptions) -> GenerateOptions:
    """The options with one image, where a file was named for it.

    Raises:
        click.UsageError: If more were asked for, or the file is none that is written.
    """
    assert options.output is not None  # noqa: S101 - always so here
    if options.output.suffix.lower() != ".png":
        raise click.UsageError(
            f"--output {shown(options.output)}: images are written as PNG: end it in .png, or name a folder"
        )
    if was_given("count") and options.count > 1:
        raise click.UsageError(
            f"--output {shown(options.output)} is one file for {options.count} images: name a folder"
        )
    return replace(options, count=1)


def _make(concepts: list[Concept], loras: list[tuple[Lora, float]], options: GenerateOptions) -> Iterator[Made]:
    """Make the images, as they come."""
    from sentinv.generation.generate import generate_images

    backbone = options.load()
    config = options.config(backbone)
    if options.negative and config.guidance_scale == 1:
        options.notice("--negative has no effect at a guidance of 1, which is this model's own: give --guidance")
    settings = settings_of(backbone, options, config, concepts)
    if loras:
        settings["loras"] = [[lora.name, scale] for lora, scale in loras]
    total = config.steps * -(-options.count // config.batch_size)
    with options.worn(backbone, loras, concepts), progress("sampling", total, quiet=options.quiet) as bar:
        for one in generate_images(
            backbone,
            options.prompt,
            concepts,
            count=options.count,
            seed=options.seed,
            config=config,
            on_step=lambda done, _: bar.at(done),
        ):
            yield Made(one.image, one.seed, settings | {"seed": one.seed})


def settings_of(
    backbone: Backbone, options: GenerateOptions, config: GenerateConfig, concepts: Sequence[Concept]
) -> dict[str, Any]:
    """What an image's text says of how it was made."""
    return {
        "prompt": options.prompt,
        "negative": config.negative_prompt,
        "weights": dict(options.weights),
        "concepts": {concept.token: concept.metadata.get("sentinv.initial_text", "") for concept in concepts},
        "model": options.model,
        "model_hash": backbone.fingerprint,
        "sampler": "DDIM",
        "steps": config.steps,
        "guidance_scale": config.guidance_scale,
    }


def _judge(options: GenerateOptions) -> ClipJudge:
    from sentinv.evaluation.judges import ClipJudge

    quieten_transformers()
    return ClipJudge.load(options.clip, base_model=options.model)


def _ranked(judge: ClipJudge, made: list[Made], concepts: Sequence[Concept], options: GenerateOptions) -> list[Made]:
    """Order images by CLIP, best first; as they are where memory ends, since they are made by now."""
    from sentinv.evaluation.ranking import prompt_scores, ranking
    from sentinv.models.eyes import looking
    from sentinv.models.memory import is_out_of_memory

    try:
        with looking(judge.model, options.device):
            scores = prompt_scores(judge, [one.image for one in made], options.prompt, concepts)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        options.notice("the images are not ranked: out of memory, even for one image at a time")
        return made
    return [replace(made[index], score=scores[index]) for index in ranking(scores)]


def _kept(target: Path, images: Iterator[Made], options: GenerateOptions) -> list[Made]:
    """Save images as they are made; those to be ranked only where their making is stopped.

    Raises:
        Interrupted: After Ctrl-C or SIGTERM, if there are any.
    """
    made: list[Made] = []
    try:
        for one in images:
            made.append(one)
            if not options.rank:
                save(path_of(target, one), one, force=options.force)
    except KeyboardInterrupt as error:
        if not made:
            raise
        for one in made if options.rank else ():
            save(path_of(target, one), one, force=options.force)
        raise Interrupted(
            f"stopped: {len(made)} of {options.count} images are in {shown(target)}",
            getattr(error, "signal_number", signal.SIGINT),
        ) from error
    return made
