"""`sentinv edit`: other words for the very image, or for a part of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.edit_options import EditOptions, check_usage, edit_options
from sentinv.cli.options import (
    check_prompts,
    force_option,
    model_options,
    output_options,
    print_json,
    tell_toybox,
    tell_unused,
)
from sentinv.cli.progress import progress
from sentinv.errors import EditError, SentinvError
from sentinv.files.atomic import check_writable, is_one_of

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.concepts.concept import Concept
    from sentinv.editing.archive import Archive
    from sentinv.editing.edit import Edited
    from sentinv.editing.reconstruction import Budget
    from sentinv.models.backbone import Backbone


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@edit_options
@model_options
@force_option
@output_options
def edit(**given: Any) -> None:
    """Change a picture by other words, all of it (--ddim-invert) or inside a mask (--mask).

    \b
      sentinv edit cat.png --ddim-invert -c cat-concept.safetensors \\
        --prompt "a watercolor of <cat>"
      sentinv edit cat.png --ddim-invert -c cat-concept.safetensors --reconstruct
      sentinv edit cat.png --mask sky.png --prompt "a photo of the moon"
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.concepts.reading import load_concepts
    from sentinv.editing.masked import region_in
    from sentinv.files.images import read_mask
    from sentinv.generation.weights import check_weights

    options = EditOptions(**given)
    check_usage(options)
    _check_outputs(options)
    concepts = load_concepts(options.files, allow_pickle=options.allow_pickle)
    said = options.source_prompt or " ".join(concept.token for concept in concepts)  # which it may be described by
    loras = options.meant(options.loras(), f"{options.prompt or ''} {said}")
    options = replace(options, lora_files=tuple((Path(lora.name), scale) for lora, scale in loras))
    check_weights(dict(options.weights), options.prompt or "")
    check_prompts([options.prompt, options.source_prompt], concepts, options.model)
    if options.prompt is not None:
        tell_unused(concepts, options.prompt, options)
    picture = _read(options)
    mask = read_mask(options.mask_file) if options.mask_file else None
    tell_toybox(options.model, quiet=options.quiet)
    backbone = options.load()
    if mask is not None:
        region_in(backbone, picture, mask, options.mask_config)  # what is wrong with it is told before the inversion
    with options.worn(backbone, loras, concepts):
        archive = _archive_of(backbone, picture, concepts, options)
        if options.reconstruct and archive is not None:
            _reconstruct(backbone, archive, concepts, options)
        elif mask is not None:
            _edit_masked(backbone, (picture, mask), concepts, archive, options)
        elif archive is not None:
            _edit(backbone, archive, concepts, options)


def _check_outputs(options: EditOptions) -> None:
    """Refuse what is in the way, before any work.

    Raises:
        SentinvError: If a file would be overwritten, is read, has another ending than its kind, or its folder does not exist.
    """
    read = [options.image, options.mask_file, options.archive_file, *options.files]
    for path, ending in ((options.target, ".png"), (options.save_archive, ".safetensors")):
        if path is None:
            continue
        if path.suffix.lower() != ending:
            raise SentinvError(f"cannot write {path}: expected a name that ends in {ending}; choose one")
        if is_one_of(path, filter(None, read)):
            raise SentinvError(f"{path} is read for this edit: choose another name for what it gives")
        if path.exists() and not options.force:
            raise SentinvError(f"{path} exists: give --force to replace it, or choose another name")
        if not path.parent.is_dir():
            raise SentinvError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
        check_writable(path)


def _archive_of(
    backbone: Backbone, picture: Image.Image, concepts: Sequence[Concept], options: EditOptions
) -> Archive | None:
    """Read the archive, or invert the image; None if neither was asked for."""
    from sentinv.editing.archive import Archive
    from sentinv.editing.edit import ddim_invert, prepared
    from sentinv.files.images import to_pil

    if options.archive_file:
        archive = Archive.load(options.archive_file)
        archive.check(backbone, concepts)
        archive.check_image(to_pil(prepared(backbone, picture))[0])
        if options.source_prompt not in (None, archive.source_prompt):
            raise EditError(
                f"the archive was made for {archive.source_prompt!r}: leave --source-prompt out, or invert again"
            )
        return archive
    if not options.ddim_invert:
        return None
    source = options.source_prompt or _describe(picture, concepts, options.model)
    options.notice(f"source prompt: {source!r}")
    with progress("inverting", options.steps, quiet=options.quiet) as bar:
        config = options.inversion_config
        archive = ddim_invert(backbone, picture, source, concepts, config, on_step=lambda step, _: bar.at(step))
    if any(value >= 1 for value in archive.trajectory.contractions):
        options.notice("warning: the inversion does not converge at every step: more --steps")
    if options.save_archive:
        archive.save(options.save_archive, overwrite=options.force)
    return archive


def _describe(picture: Image.Image, concepts: Sequence[Concept], model: str) -> str:
    if concepts:
        return f"a photo of {concepts[0].token}"
    from sentinv.initializers import make

    return f"a photo of {make('caption', model)(picture).text}"


def _edit(backbone: Backbone, archive: Archive, concepts: Sequence[Concept], options: EditOptions) -> None:
    """Edit the whole image, once or for every skip of a sweep; write and print."""
    from sentinv.editing.edit import first_step, sweep
    from sentinv.report.contact_sheet import edits_sheet

    config, steps = options.edit_config, archive.config.steps
    skips = options.sweep or [config.skip]
    total = sum(steps - first_step(skip, steps) for skip in skips)
    with progress("editing", total, quiet=options.quiet) as bar:
        count = iter(range(1, total + 2 * steps))
        results = sweep(
            backbone,
            archive,
            options.prompt or "",
            concepts,
            config,
            skips,
            on_step=lambda *_: bar.at(next(count)),
        )
    own = {"source": config.source, "skip": config.skip}
    settings = _settings(options, config.guidance(backbone), own, archive)
    _finish(options, settings, results, archive, edits_sheet(archive, results) if options.sweep else results[0].image)


def _edit_masked(
    backbone: Backbone,
    inputs: tuple[Image.Image, Image.Image],
    concepts: Sequence[Concept],
    archive: Archive | None,
    options: EditOptions,
) -> None:
    """Edit a picture inside its mask; write and print."""
    from sentinv.editing.masked import edit_masked

    assert options.prompt is not None  # noqa: S101 - always so here
    (picture, mask), config = inputs, options.mask_config
    with progress("editing", options.steps, quiet=options.quiet) as bar:
        result = edit_masked(
            backbone, picture, mask, options.prompt, concepts, config, archive, on_step=lambda step, _: bar.at(step)
        )
    guidance = backbone.guidance_scale if options.guidance is None else options.guidance
    own = {"skip": config.skip, "dilate": config.dilate, "feather": config.feather, "keep": config.keep}
    _finish(options, _settings(options, guidance, own, archive), [result], archive, result.image)


def _reconstruct(backbone: Backbone, archive: Archive, concepts: Sequence[Concept], options: EditOptions) -> None:
    """Try the way back; print what each stage loses.

    Raises:
        EditError: If the latent error is above --fail-above.
    """
    from sentinv.editing.reconstruction import reconstruct
    from sentinv.files.images import save_png

    budget = reconstruct(backbone, archive, concepts, options.edit_config)
    if options.target is not None:
        save_png(options.target, budget.image, overwrite=options.force)
    if options.as_json:
        print_json(_facts(budget, archive))
    else:
        click.echo("\n".join(budget.lines()))
    limit = options.fail_above
    if limit is not None and not budget.guidance_error <= limit:
        advice = "try more steps or --method fixed-point" if budget.fault == "none" else budget.lines()[-1]
        raise EditError(
            f"the image does not come back: latent error {budget.guidance_error:.2g} is above {limit:g}; {advice}"
        )


def _settings(options: EditOptions, guidance: float, own: dict[str, Any], archive: Archive | None) -> dict[str, Any]:
    """What is said of an edit in its metadata."""
    shared = {name: getattr(options, name) for name in ("prompt", "steps", "model", "seed")}
    settings = {"prompt": options.prompt, "guidance": guidance, **shared, **own}
    if options.weights:
        settings["weights"] = dict(options.weights)
    if options.lora_files:
        settings["loras"] = [[path.name, scale] for path, scale in options.lora_files]
    if archive is not None:
        settings |= {"method": archive.config.method, "steps": archive.config.steps}
        settings["source_prompt"] = archive.source_prompt
    return settings


def _finish(
    options: EditOptions,
    settings: dict[str, Any],
    results: Sequence[Edited],
    archive: Archive | None,
    image: Image.Image,
) -> None:
    from sentinv.files.images import save_png

    assert options.target is not None  # noqa: S101 - always so without --reconstruct
    save_png(options.target, image, {"sentinv": json.dumps(settings)}, overwrite=options.force)
    if not options.as_json:
        click.echo(str(options.target))
        return
    edits = [_edit_facts(result, archive) for result in results]
    cost = archive.evaluations if archive is not None and not options.archive_file else 0
    print_json({"output": str(options.target), **settings, "inversion_evaluations": cost, "edits": edits})


def _edit_facts(result: Edited, archive: Archive | None) -> dict[str, Any]:
    from sentinv.evaluation.metrics import pixel_psnr

    facts: dict[str, Any] = {"skip": result.skip, "evaluations": result.evaluations}
    if archive is not None:
        facts["psnr_to_image"] = pixel_psnr(result.image, archive.image)
    return facts


def _facts(budget: Budget, archive: Archive) -> dict[str, Any]:
    from dataclasses import fields

    facts = {field.name: getattr(budget, field.name) for field in fields(budget) if field.name != "image"}
    return facts | {"source_prompt": archive.source_prompt, "inversion_evaluations": archive.evaluations}


def _read(options: EditOptions) -> Image.Image:
    from sentinv.files.images import read_image

    picture = read_image(options.image)
    for text in picture.notices:
        options.notice(text)
    return picture.image
