"""What the commands of `sentinv bench` that run a `Study` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import (
    Decorated,
    ModelOptions,
    OutputOptions,
    model_options,
    notice,
    output_options,
    print_json,
    tell_toybox,
)
from sentinv.errors import SentinvError
from sentinv.initializers import make

if TYPE_CHECKING:
    from sentinv.bench.concepts import StudyConcept
    from sentinv.bench.measuring import Measuring
    from sentinv.bench.runner import StudyOutcome
    from sentinv.bench.study import Study
    from sentinv.concepts.initialization import Initializer
    from sentinv.evaluation.judges import ClipJudge
    from sentinv.evaluation.recognition import Recogniser
    from sentinv.models.backbone import Backbone

CONCEPTS = Path("benchmarks/concepts/concepts.json")
GALLERY = "things.safetensors"
"""Beside a file of concepts: what else a picture could show."""
_PATH = click.Path(path_type=Path)


class Part(click.ParamType):
    """``k/n``: the k-th of n parts of a study."""

    name = "k/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Read it."""
        if isinstance(value, tuple):
            return value
        first, _, count = str(value).partition("/")
        if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
            self.fail(f"expected k/n with 1 ≤ k ≤ n, such as 1/2, got {value!r}", param, ctx)
        return int(first), int(count)


@dataclass(frozen=True, kw_only=True)
class StudyOptions(ModelOptions, OutputOptions):
    """What all studies can be told."""

    concepts: Path
    only: tuple[str, ...]
    images: tuple[Path, ...]
    output: Path | None
    part: tuple[int, int]
    threads: int | None
    no_images: bool
    records_only: bool
    clip: str | None
    captioner: str | None
    classifier: str | None

    def all_concepts(self) -> list[StudyConcept]:
        """The concepts of the file, or one for each --image.

        Raises:
            SentinvError: If the file can't be read, or two images have one name.
        """
        from sentinv.bench.concepts import StudyConcept, read_concepts
        from sentinv.evaluation.evaluate import EDITING_PROMPTS

        if not self.images:
            return read_concepts(self.concepts)
        names = [path.stem for path in self.images]
        if len(set(names)) < len(names):
            raise SentinvError(f"expected images with different names, got {', '.join(names)}: rename one")
        return [StudyConcept(name=path.stem, image=path, edits=EDITING_PROMPTS) for path in self.images]

    def describers(self) -> dict[str, Initializer]:
        """Initializers for the starts that need one. They load their models when they are first asked."""
        from sentinv.bench.starts import DESCRIBED

        return {name: _Late(name, self) for name in DESCRIBED}


def study_options(command: Decorated) -> Decorated:
    """Add what all studies can be told."""
    for option in reversed(
        [
            click.option("--concepts", type=_PATH, default=CONCEPTS, show_default=True, help="JSON list of concepts."),
            click.option("--concept", "only", multiple=True, help="Only this one; repeatable.  [default: all]"),
            click.option(
                "--image", "images", multiple=True, type=_PATH, help="A picture in place of --concepts; repeatable."
            ),
            click.option(
                "-o", "--output", type=_PATH, help="Folder of records and report.  [default: outputs/<study>]"
            ),
            click.option("--part", type=Part(), default="1/1", help="k/n: only the k-th of n parts, one process each."),
            click.option("--threads", type=click.IntRange(min=1), help="Of torch, on the CPU."),
            click.option("--no-images", is_flag=True, help="Loss only: generate and judge nothing."),
            click.option("--records-only", is_flag=True, help="Run nothing: report on the records that there are."),
            click.option("--clip", help="CLIP that judges: folder or hub id.  [default: the model's]"),
            click.option("--captioner", help="BLIP captioner: folder or hub id.  [default: the model's]"),
            click.option(
                "--classifier", help="Image classifier (ViT, ResNet, …): folder or hub id.  [default: the model's]"
            ),
        ]
    ):
        command = option(command)
    return model_options(output_options(command))


def conduct(studies: Sequence[tuple[Study, Path]], options: StudyOptions) -> None:
    """Run studies, write their reports, print their tables; exit code 1 if a run failed.

    Raises:
        SentinvError: If nothing can be run at all.
    """
    import torch

    from sentinv.bench.records import machine
    from sentinv.bench.runner import run_study
    from sentinv.bench.workbench import Workbench

    if options.threads:
        torch.set_num_threads(options.threads)
    concepts = options.all_concepts()
    tell_toybox(options.model, quiet=options.quiet)
    backbone = options.load()
    for declared, _ in studies if not options.no_images else ():
        _check_sampling(backbone, declared)
    failed = 0
    results = []
    for declared, folder in studies:
        study = replace(declared, concepts=options.only) if options.only else declared
        measuring, notes = judges(study, backbone, options)
        facts = {**machine(backbone), **notes}
        origin = {name: facts[name] for name in ("machine", "date")}
        workbench = Workbench(backbone, concepts, options.describers(), measuring, origin)
        outcome = run_study(
            study, workbench, folder, part=options.part, records_only=options.records_only, tell=options.notice
        )
        failed += len(outcome.failures)
        results.append(_conclude(study, outcome, folder, facts, options))
    if options.as_json:
        print_json({"studies": results})
    if failed:
        notice(f"error: {failed} runs failed, as told above; the same command tries them again")
        raise click.exceptions.Exit(1)


def _check_sampling(backbone: Backbone, study: Study) -> None:
    """Refuse before anything is trained what could not be measured then.

    Raises:
        SentinvError: If so.
    """
    from sentinv.diffusion.ddim import ddim_steps

    try:
        ddim_steps(backbone.schedule, study.sampling_steps)
    except ValueError as error:
        raise SentinvError(f"{study.title}: sampling {error}: take fewer") from error


def _conclude(
    study: Study,
    outcome: StudyOutcome,
    folder: Path,
    facts: dict[str, str],
    options: StudyOptions,
) -> dict[str, Any]:
    """Write the report and print its tables, once the study is whole; returns what --json says of it."""
    from sentinv.bench.study_report import write_report

    report = folder / "report.html" if outcome.records and (options.records_only or not outcome.missing) else None
    lines = [f"{study.title}: {name}: {why}" for name, why in outcome.failures]
    if report is not None:
        tables = write_report(study, outcome, folder, notes=facts)
        lines = [f"## {study.title}\n", *(table.markdown() for table in tables), *lines]
    else:
        lines.append(
            f"{study.title}: {outcome.missing} runs of other parts are missing: without --part, when all are done,"
        )
        lines.append("the same command writes the report")
    if not options.as_json:
        click.echo("\n".join(lines))
        if report is not None:
            options.notice(f"report: {report}")
    summary = {"report": report and str(report), "runs": len(outcome.records), "missing": outcome.missing}
    return {"title": study.title, **summary, "failures": outcome.failures}


class _Late:
    """An initializer that is made when it is first called, so that a study without it needs no model for it."""

    def __init__(self, name: str, options: StudyOptions) -> None:
        self.name, self.options = name, options
        self._made: Initializer | None = None

    def __call__(self, image: Any) -> Any:
        if self._made is None:
            kind, _, dropped = self.name.partition("-no-")
            self._made = make(
                kind,
                self.options.model,
                captioner=self.options.captioner,
                classifier=self.options.classifier,
                drop_stopwords=dropped == "stopwords",
                drop_scene=dropped == "scene",
                fallback=False,
            )
        return self._made(image)


def judges(study: Study, backbone: Backbone, options: StudyOptions) -> tuple[Measuring | None, dict[str, str]]:
    """The judges, and what the report says about them.

    Raises:
        ModelError: If CLIP cannot be loaded.
    """
    from sentinv.bench.measuring import Measuring
    from sentinv.evaluation.judges import AttributeJudge, ClipJudge, LpipsJudge, Unavailable
    from sentinv.generation.generate import GenerateConfig
    from sentinv.models.built_in import TOYBOX, built_in

    if options.no_images or not study.images_at:
        return None, {"judge": "none: no images were measured"}
    judge = ClipJudge.load(options.clip, base_model=options.model, device=backbone.device)
    try:
        lpips, says = LpipsJudge(), LpipsJudge.name
    except Unavailable as why:
        lpips, says = None, f"unavailable: {why}"
    scale = backbone.guidance_scale if study.guidance_scale is None else study.guidance_scale
    sampling = GenerateConfig(steps=study.sampling_steps, guidance_scale=scale, batch_size=max(1, min(16, study.count)))
    recogniser, told = _recogniser(judge, options)
    attributes = AttributeJudge.load(built_in("attributes")) if recogniser and options.model == TOYBOX else None
    measuring = Measuring(
        judge=judge,
        count=study.count,
        sampling=sampling,
        bfloat16=study.bfloat16_images,
        lpips=lpips,
        recogniser=recogniser,
        attributes=attributes,
    )
    return measuring, {"judge": judge.name, "LPIPS": says, **({"recognised": told} if told else {})}


def _recogniser(judge: ClipJudge, options: StudyOptions) -> tuple[Recogniser | None, str]:
    """What tells which concept a picture shows, from the gallery beside the concepts; and what a report says of it, if at all.

    Raises:
        SentinvError: If a gallery or picture can't be read.
    """
    from sentinv.bench.measuring import recogniser_of
    from sentinv.evaluation.recognition import Gallery

    path = options.concepts.with_name(GALLERY)
    if options.images or not path.is_file():
        return None, ""
    gallery = Gallery.read(path)
    if gallery.judge != judge.digest:
        return None, f"unavailable: {GALLERY} is of another judge"
    concepts = options.all_concepts()
    told = f"the nearest of {len(concepts)} concepts, by their held-out views, and {len(gallery.names)} things"
    return recogniser_of(judge, concepts, gallery), told
