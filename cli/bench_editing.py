"""`sentinv bench editing`: edits of real images, beside their true targets and four controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.adapting import LoraOptions, lora_option
from sentinv.cli.edit_options import edit_guidance_option
from sentinv.cli.options import (
    ModelOptions,
    model_options,
    notice,
    output_options,
    print_json,
    tell_toybox,
)
from sentinv.cli.studying import CONCEPTS, Part
from sentinv.cli.training_options import flip_option, learning_rate_option
from sentinv.errors import SentinvError

if TYPE_CHECKING:
    from sentinv.bench.concepts import StudyConcept
    from sentinv.bench.editing_runner import EditingBench
    from sentinv.bench.records import Record
    from sentinv.evaluation.judges import AttributeJudge
    from sentinv.report.tables import Table

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class EditingOptions(LoraOptions, ModelOptions):
    """What `bench editing` is told."""

    concepts: Path
    only: tuple[str, ...]
    output: Path
    train_steps: int
    relative_learning_rate: float | None
    learning_rate: float | None
    max_norm: float | None
    fixed_norms: bool
    flip: bool
    steps: int
    guidance: float | None
    arms: tuple[str, ...]
    part: tuple[int, int]
    judge: Path | None
    threads: int | None


@click.command()
@click.option("--concepts", type=_PATH, default=CONCEPTS, show_default=True, help="JSON list of concepts.")
@click.option("--concept", "only", multiple=True, help="Only this one; repeatable.  [default: all]")
@click.option("-o", "--output", type=_PATH, default=Path("outputs/editing"), show_default=True, help="Folder.")
@click.option("--train-steps", type=click.IntRange(0), default=100, show_default=True, help="To learn each concept.")
@learning_rate_option
@flip_option
@click.option("--steps", type=click.IntRange(2, 1000), default=50, show_default=True, help="DDIM steps.")
@edit_guidance_option
@click.option("--arm", "arms", multiple=True, help="Only this one; repeatable.  [default: all but peers']")
@lora_option
@click.option("--part", type=Part(), default="1/1", help="k/n: only each n-th concept from the k-th, one process each.")
@click.option("--judge", type=_PATH, help="Attribute classifier: folder.  [default: the built-in model's]")
@click.option("--threads", type=click.IntRange(min=1), help="Of torch, on the CPU.")
@model_options
@output_options
def editing(**given: Any) -> None:
    """Edit the concepts' pictures by every method, and compare with their true targets.

    Words are learned from the concept's caption by a person, or its word. Writes tables.md, curves, and for each concept its
    records (NAME.jsonl) and contact sheets. A study that was stopped goes on after the last concept that was finished; one
    with other settings needs a folder of its own. A concept that fails is told and left out, and the exit code is 1.

    A LoRA is on while the edits of the word that it belongs to are made: tune it around the word that this study has
    learned, which is in the folder, and run it into another one.

    \b
      sentinv bench editing
      sentinv bench editing --concept robot --arm pec-npi --arm ddim-none
      sentinv bench editing --arm pec-npi --arm direct-edit-half --arm leditspp
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    import torch

    from sentinv.bench.concepts import read_concepts
    from sentinv.files.locks import lock

    options = EditingOptions(**given)
    if options.threads:
        torch.set_num_threads(options.threads)
    sources = _chosen(read_concepts(options.concepts), options.only)
    bench = _bench(options)
    part, parts = options.part
    with lock(bench.folder / ("tables.md" if parts == 1 else f"part-{part}-of-{parts}")):
        there = [bench.records(source) for source in sources]  # of other settings: refused before anything is run
        todo = [index for index in range(part - 1, len(sources), parts) if there[index] is None]
        failures = _run(bench, [sources[index] for index in todo], quiet=options.quiet)
        there = [bench.records(source) for source in sources]
        missing = there.count(None) - len(failures)
        records = [record for own in there for record in own or ()]
        tables = _report(bench, records) if records and not missing else []
    if options.as_json:
        counts = {"records": len(records), "concepts": len(sources), "missing": missing, "failures": failures}
        print_json({"folder": str(bench.folder), **counts})
    elif tables:
        click.echo("\n".join(table.markdown() for table in tables))
    if missing:
        notice(
            f"{missing} of {len(sources)} concepts are other parts': without --part, when all are done, the same command"
        )
        notice("writes the tables")
    if failures:
        notice(
            f"error: {len(failures)} of {len(sources)} concepts failed, as told above; the same command tries them again"
        )
        raise click.exceptions.Exit(1)


def _bench(options: EditingOptions) -> EditingBench:
    """The model, what is compared, and where the records go.

    Raises:
        click.UsageError: If there is no arm of a name.
    """
    from sentinv.bench.editing_arms import DEFAULT_ARMS, EditingStudy
    from sentinv.bench.editing_runner import EditingBench
    from sentinv.files.atomic import make_folder
    from sentinv.training.config import TrainConfig

    try:
        study = EditingStudy(steps=options.steps, arms=options.arms or DEFAULT_ARMS, guidance_scale=options.guidance)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    loras = options.loras()
    folder = make_folder(options.output)
    tell_toybox(options.model, quiet=options.quiet)
    names = ("relative_learning_rate", "learning_rate", "max_norm", "fixed_norms", "flip")
    train = TrainConfig(steps=options.train_steps, **{name: getattr(options, name) for name in names})
    return EditingBench(options.load(), study, train, _judge(options), folder, loras)


def _run(bench: EditingBench, sources: Sequence[StudyConcept], *, quiet: bool) -> list[list[str]]:
    """Run concepts, one after the other; returns (name, why) of those that failed."""
    failures = []
    for source in sources:
        notice(source.name, quiet=quiet)
        try:
            bench.run(source)
        except SentinvError as error:
            failures.append([source.name, str(error)])
            notice(f"{source.name}: FAILED: {error}")
    return failures


def _report(bench: EditingBench, records: Sequence[Record]) -> list[Table]:
    from sentinv.bench.editing_report import write_editing_report
    from sentinv.bench.records import machine

    study = bench.study
    guidance = "each arm's own" if study.guidance_scale is None else f"{study.guidance_scale:g}"
    settings = f"steps {study.steps}, guidance {guidance}, training steps {bench.config.steps}"
    return write_editing_report(records, bench.folder, {**machine(bench.backbone), "settings": settings})


def _chosen(sources: Sequence[StudyConcept], only: Sequence[str]) -> list[StudyConcept]:
    unknown = [name for name in only if name not in {source.name for source in sources}]
    if unknown:
        raise click.UsageError(f"there is no concept {unknown[0]!r}: {', '.join(source.name for source in sources)}")
    return [source for source in sources if not only or source.name in only]


def _judge(options: EditingOptions) -> AttributeJudge | None:
    from sentinv.evaluation.judges import AttributeJudge
    from sentinv.models.built_in import TOYBOX, built_in

    if options.judge or options.model == TOYBOX:
        return AttributeJudge.load(options.judge or built_in("attributes"))
    options.notice("no attribute classifier: edit success is not measured; name one with --judge")
    return None
