"""`sentinv edit`: other words for the very image, or for a part of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.edit_options import check_usage, edit_options
from sentinv.cli.options import (
    force_option,
    guidance_of,
    load_backbone,
    model_options,
    notice,
    output_options,
    print_json,
    tell_toybox,
)
from sentinv.cli.progress import progress
from sentinv.errors import EditError, SentinvError
from sentinv.report.contact_sheet import contact_sheet

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.concepts.concept import Concept
    from sentinv.editing.archive import Archive
    from sentinv.editing.edit import EditConfig, Edited
    from sentinv.editing.inversion import InversionConfig
    from sentinv.editing.masked import MaskConfig
    from sentinv.editing.reconstruction import Budget
    from sentinv.models.backbone import Backbone

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("image", type=_PATH)
@edit_options
@model_options
@force_option
@output_options
def edit(image: Path, **given: Any) -> None:
    """Change a picture by other words, all of it (--ddim-invert) or inside a mask (--mask).

    \b
      sentinv edit cat.png --ddim-invert -c cat.safetensors \\
        --prompt "a watercolor of <cat>"
      sentinv edit cat.png --ddim-invert -c cat.safetensors --reconstruct
      sentinv edit cat.png --mask sky.png --prompt "a photo of the moon"
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.concepts.reading import load_concepts

    check_usage(given)
    job = Job(image, given)
    job.check_outputs()
    concepts = load_concepts(given["files"], allow_pickle=given["allow_pickle"])
    for concept in concepts:
        if given["prompt"] is not None and concept.token not in given["prompt"]:
            notice(f"warning: {concept.token} does not occur in the prompt", quiet=given["quiet"])
    picture = _read(image, given["quiet"])
    tell_toybox(given["model"], quiet=given["quiet"])
    backbone = load_backbone(given["model"], given["device"], given["dtype"])
    given["guidance"] = guidance_of(backbone, given) if given["mask_file"] else job.edit_config.guidance(backbone)
    archive = job.archive_of(backbone, picture, concepts)
    if given["reconstruct"] and archive is not None:
        job.reconstruct(backbone, archive, concepts)
    elif given["mask_file"]:
        job.edit_masked(backbone, picture, concepts, archive)
    elif archive is not None:
        job.edit(backbone, archive, concepts)


@dataclass(frozen=True)
class Job:
    """What `edit` was asked to do.

    Attributes:
        image: the file.
        given: the options.
    """

    image: Path
    given: dict[str, Any]

    @property
    def output(self) -> Path | None:
        """The PNG to write; None if only numbers were asked for."""
        if self.given["output"] or self.given["reconstruct"]:
            return self.given["output"]
        return Path(f"{self.image.stem}-{'sweep' if self.given['sweep'] else 'edit'}.png")

    def check_outputs(self) -> None:
        """Refuse what is in the way, before any work.

        Raises:
            SentinvError: If a file would be overwritten, has another ending than its kind, or its folder does not exist.
        """
        for path, ending in ((self.output, ".png"), (self.given["save_archive"], ".safetensors")):
            if path is None:
                continue
            if path.suffix.lower() != ending:
                raise SentinvError(f"cannot write {path}: expected a name that ends in {ending}; choose one")
            if path.exists() and not self.given["force"]:
                raise SentinvError(f"{path} exists: give --force to replace it, or choose another name")
            if not path.parent.is_dir():
                raise SentinvError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")

    def archive_of(self, backbone: Backbone, picture: Image.Image, concepts: Sequence[Concept]) -> Archive | None:
        """Read the archive, or invert the image; None if neither was asked for."""
        from sentinv.editing.archive import Archive
        from sentinv.editing.edit import ddim_invert, prepared
        from sentinv.files.images import to_pil

        given = self.given
        if given["archive_file"]:
            archive = Archive.load(given["archive_file"])
            archive.check(backbone, concepts)
            archive.check_image(to_pil(prepared(backbone, picture))[0])
            if given["source_prompt"] not in (None, archive.source_prompt):
                raise EditError(
                    f"the archive was made for {archive.source_prompt!r}: leave --source-prompt out, or invert again"
                )
            return archive
        if not given["ddim_invert"]:
            return None
        source = given["source_prompt"] or self._describe(picture, concepts)
        notice(f"source prompt: {source!r}", quiet=given["quiet"])
        with progress("inverting", given["steps"], quiet=given["quiet"]) as bar:
            archive = ddim_invert(
                backbone, picture, source, concepts, self.inversion_config, on_step=lambda step, _: bar.at(step)
            )
        if any(value >= 1 for value in archive.trajectory.contractions):
            notice("warning: the inversion does not converge at every step: more --steps", quiet=given["quiet"])
        if given["save_archive"]:
            archive.save(given["save_archive"], overwrite=given["force"])
        return archive

    def _describe(self, picture: Image.Image, concepts: Sequence[Concept]) -> str:
        if concepts:
            return f"a photo of {concepts[0].token}"
        from sentinv.initializers import INITIALIZERS, Options

        return f"a photo of {INITIALIZERS['caption'](Options(base_model=self.given['model']))(picture).text}"

    @property
    def inversion_config(self) -> InversionConfig:
        """How to invert."""
        from sentinv.editing.inversion import InversionConfig

        return InversionConfig(method=self.given["method"], steps=self.given["steps"], seed=self.given["seed"])

    @property
    def edit_config(self) -> EditConfig:
        """How to edit."""
        from sentinv.editing.edit import EditConfig

        given = self.given
        return EditConfig(
            guidance_scale=given["guidance"],
            source=given["source"],
            skip=given["skip"],
            source_guidance=given["source_guidance"],
        )

    @property
    def mask_config(self) -> MaskConfig:
        """How to edit inside a mask."""
        from sentinv.editing.masked import MaskConfig

        names = ("steps", "start", "dilate", "feather", "keep", "seed")
        return MaskConfig(guidance_scale=self.given["guidance"], **{name: self.given[name] for name in names})

    def edit(self, backbone: Backbone, archive: Archive, concepts: Sequence[Concept]) -> None:
        """Edit the whole image, once or for every skip of a sweep; write and print."""
        from sentinv.editing.edit import first_step, sweep

        skips = self.given["sweep"] or [self.given["skip"]]
        steps = archive.config.steps
        total = sum(steps - first_step(skip, steps) for skip in skips)
        with progress("editing", total, quiet=self.given["quiet"]) as bar:
            count = iter(range(1, total + 2 * steps))
            results = sweep(
                backbone,
                archive,
                self.given["prompt"],
                concepts,
                self.edit_config,
                skips,
                on_step=lambda *_: bar.at(next(count)),
            )
        self._finish(results, archive, self._sheet(archive, results) if self.given["sweep"] else results[0].image)

    def edit_masked(
        self, backbone: Backbone, picture: Image.Image, concepts: Sequence[Concept], archive: Archive | None
    ) -> None:
        """Edit inside the mask; write and print."""
        from sentinv.editing.masked import edit_masked
        from sentinv.files.images import read_image

        mask = read_image(self.given["mask_file"], background=(0, 0, 0)).image.convert("L")
        with progress("editing", self.given["steps"], quiet=self.given["quiet"]) as bar:
            result = edit_masked(
                backbone,
                picture,
                mask,
                self.given["prompt"],
                concepts,
                self.mask_config,
                archive,
                on_step=lambda step, _: bar.at(step),
            )
        self._finish([result], archive, result.image)

    def reconstruct(self, backbone: Backbone, archive: Archive, concepts: Sequence[Concept]) -> None:
        """Try the way back; print what each stage loses.

        Raises:
            EditError: If the latent error is above --fail-above.
        """
        from sentinv.editing.reconstruction import reconstruct
        from sentinv.files.images import save_png

        given = self.given
        budget = reconstruct(backbone, archive, concepts, self.edit_config)
        if self.output is not None:
            save_png(self.output, budget.image, overwrite=given["force"])
        if given["as_json"]:
            print_json(_facts(budget, archive))
        else:
            click.echo("\n".join(budget.lines()))
        limit = given["fail_above"]
        if limit is not None and not budget.guidance_error <= limit:
            advice = "try more steps or --method fixed-point" if budget.fault == "none" else budget.lines()[-1]
            raise EditError(
                f"the image does not come back: latent error {budget.guidance_error:.2g} is above {limit:g}; {advice}"
            )

    def _finish(self, results: Sequence[Edited], archive: Archive | None, image: Image.Image) -> None:
        from sentinv.files.images import save_png

        given = self.given
        own = ("start", "dilate", "feather", "keep") if given["mask_file"] else ("source", "skip")
        settings = {name: given[name] for name in ("prompt", "guidance", "steps", "model", "seed", *own)}
        if archive is not None:
            settings |= {"method": archive.config.method, "steps": archive.config.steps}
            settings["source_prompt"] = archive.source_prompt
        assert self.output is not None  # noqa: S101 - always so without --reconstruct
        save_png(self.output, image, {"sentinv": json.dumps(settings)}, overwrite=given["force"])
        if not given["as_json"]:
            click.echo(str(self.output))
            return
        edits = [_edit_facts(result, archive) for result in results]
        cost = archive.evaluations if archive is not None and not given["archive_file"] else 0
        print_json({"output": str(self.output), **settings, "inversion_evaluations": cost, "edits": edits})

    @staticmethod
    def _sheet(archive: Archive, results: Sequence[Edited]) -> Image.Image:

        images = [archive.image, archive.reconstruction, *(result.image for result in results)]
        captions = ["image", "autoencoder", *(f"skip {result.skip:g}" for result in results)]
        scale = max(1, 160 // images[0].width)
        return contact_sheet(
            [one.resize((one.width * scale, one.height * scale), 0) for one in images], captions=captions
        )


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


def _read(path: Path, quiet: bool) -> Image.Image:
    from sentinv.files.images import read_image

    picture = read_image(path)
    for text in picture.notices:
        notice(text, quiet=quiet)
    return picture.image
