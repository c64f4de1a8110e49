"""`sentinv bench editing`: edits of real images, beside their true targets and four controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.edit_options import edit_guidance_option
from sentinv.cli.options import (
    load_backbone,
    model_options,
    notice,
    output_options,
    print_json,
    tell_toybox,
)
from sentinv.cli.studying import CONCEPTS, machine

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.backbone import Backbone
    from sentinv.concept import Concept
    from sentinv.config import TrainConfig
    from sentinv.editing_study import EditingStudy, Record
    from sentinv.judges import AttributeJudge
    from sentinv.starts import StudyConcept
    from sentinv.tables import Table

_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--concepts", type=_PATH, default=CONCEPTS, show_default=True, help="JSON list of concepts.")
@click.option("--concept", "only", multiple=True, help="Only this one; may be given again.  [default: all]")
@click.option("-o", "--output", type=_PATH, default=Path("outputs/editing"), show_default=True, help="Folder.")
@click.option("--train-steps", type=click.IntRange(0), default=100, show_default=True, help="To learn each concept.")
@click.option("--steps", type=click.IntRange(2, 1000), default=50, show_default=True, help="DDIM steps.")
@edit_guidance_option
@click.option("--arm", "arms", multiple=True, help="Only this one; may be given again.  [default: all]")
@click.option("--judge", type=_PATH, help="Attribute classifier: folder.  [default: the built-in model's]")
@click.option("--threads", type=click.IntRange(min=1), help="Of torch, on the CPU.")
@model_options
@output_options
def editing(**given: Any) -> None:
    """Edit the concepts' pictures by every method, and compare with their true targets.

    Words are learned from the concept's caption by a person, or its word. Writes tables.md, curves, and for each concept its
    records (NAME.jsonl) and contact sheets. A study that was stopped goes on after the last concept that was finished; one
    with other settings needs a folder of its own.

    \b
      sentinv bench editing
      sentinv bench editing --concept robot --arm pec-npi --arm ddim-none -o outputs/robot
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    import torch

    from sentinv.editing_study import ARMS, EditingStudy
    from sentinv.files import make_folder
    from sentinv.locks import lock
    from sentinv.studies import read_concepts

    if given["threads"]:
        torch.set_num_threads(given["threads"])
    try:
        study = EditingStudy(
            steps=given["steps"], arms=tuple(given["arms"]) or tuple(ARMS), guidance_scale=given["guidance"]
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    sources = _chosen(read_concepts(given["concepts"]), given["only"])
    folder = make_folder(given["output"])
    tell_toybox(given["model"], quiet=given["quiet"])
    backbone = load_backbone(given["model"], given["device"], given["dtype"])
    judge = _judge(given)
    records: list[Record] = []
    with lock(folder / "tables.md"):
        there = [_there(backbone, source, study, judge, folder, given) for source in sources]
        for source, own in zip(sources, there, strict=True):
            notice(source.name, quiet=given["quiet"])
            records += _run(backbone, source, study, judge, folder, given) if own is None else own
        tables = _report(backbone, study, records, folder, given)
    if given["as_json"]:
        print_json({"folder": str(folder), "records": len(records), "concepts": len(sources)})
    else:
        click.echo("\n".join(table.markdown() for table in tables))


def _report(
    backbone: Backbone, study: EditingStudy, records: Sequence[Record], folder: Path, given: dict[str, Any]
) -> list[Table]:
    from sentinv.editing_report import write_editing_report

    guidance = "each arm's own" if study.guidance_scale is None else f"{study.guidance_scale:g}"
    settings = f"steps {study.steps}, guidance {guidance}, training steps {given['train_steps']}"
    notes = {**machine(backbone), "settings": settings}
    return write_editing_report(records, folder, notes)


def _chosen(sources: Sequence[StudyConcept], only: Sequence[str]) -> list[StudyConcept]:
    unknown = [name for name in only if name not in {source.name for source in sources}]
    if unknown:
        raise click.UsageError(f"there is no concept {unknown[0]!r}: {', '.join(source.name for source in sources)}")
    return [source for source in sources if not only or source.name in only]


def _judge(given: dict[str, Any]) -> AttributeJudge | None:
    from sentinv.judges import AttributeJudge
    from sentinv.parts import TOYBOX, built_in

    if given["judge"] or given["model"] == TOYBOX:
        return AttributeJudge.load(given["judge"] or built_in("attributes"))
    notice("no attribute classifier: edit success is not measured; name one with --judge", quiet=given["quiet"])
    return None


def _there(
    backbone: Backbone,
    source: StudyConcept,
    study: EditingStudy,
    judge: AttributeJudge | None,
    folder: Path,
    given: dict[str, Any],
) -> list[Record] | None:
    """Read the records of a concept, if there are any.

    Raises:
        SentinvError: If they can't be read, or are of another study.
    """
    import json

    from sentinv.config import TrainConfig
    from sentinv.errors import SentinvError
    from sentinv.files import shown

    path = folder / f"{source.name}.jsonl"
    if not path.is_file():
        return None
    config = TrainConfig(steps=given["train_steps"])
    settings = json.loads(json.dumps(_settings(backbone, source, study, judge, config)))
    try:
        there, *records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        other = [name for name in settings if there.get(name) != settings[name]]
    except (OSError, ValueError, AttributeError) as error:
        raise SentinvError(f"{shown(path)} is no file of records: name another --output, or remove it") from error
    if other:
        raise SentinvError(
            f"{shown(path)} is of a study with other settings ({', '.join(other)}): name another --output, or remove it"
        )
    return [_restored(record) for record in records]


def _run(
    backbone: Backbone,
    source: StudyConcept,
    study: EditingStudy,
    judge: AttributeJudge | None,
    folder: Path,
    given: dict[str, Any],
) -> list[Record]:
    """Run one concept, and write its records and sheets."""
    import json

    from sentinv.config import TrainConfig
    from sentinv.editing_study import Case, run_case
    from sentinv.files import atomic_write, finite

    config = TrainConfig(steps=given["train_steps"])
    settings = _settings(backbone, source, study, judge, config)
    path = folder / f"{source.name}.jsonl"
    case = Case.read(backbone, source, _learned(backbone, source, folder, config))
    made = list(run_case(backbone, case, study, judge))
    records = [record for record, _ in made]
    text = "".join(json.dumps(finite(line)) + "\n" for line in (settings, *records))
    atomic_write(path, text.encode(), overwrite=True)
    _sheets(case.image, case.targets, source, made, folder)
    return records


def _settings(
    backbone: Backbone, source: StudyConcept, study: EditingStudy, judge: AttributeJudge | None, config: TrainConfig
) -> dict[str, Any]:
    """All that decides a concept's records."""
    from dataclasses import asdict

    from sentinv.editing import EditConfig
    from sentinv.editing_study import ARMS
    from sentinv.noising import InversionConfig

    return {
        "format": 2,  # counted up when records of older versions of this program are no longer comparable
        "study": asdict(study),
        "arms": {name: ARMS[name]._asdict() for name in study.arms},
        "defaults": [asdict(EditConfig()), asdict(InversionConfig())],
        "model": backbone.fingerprint,
        "constants": backbone.constants,
        "dtype": str(backbone.dtype),
        "train": asdict(config),
        "source": _digest(source),
        "judge": judge.digest if judge is not None else None,
    }


def _restored(record: Record) -> Record:
    """JSON has no infinity: there, the PSNR of equal images is null."""
    return {key: float("inf") if value is None else value for key, value in record.items()}


def _digest(source: StudyConcept) -> str:
    """Of all that a concept's edits depend on: its pictures, prompts and words."""
    from hashlib import sha256

    paths = [source.image, *([source.mask] if source.mask else []), *source.targets]
    digest = sha256(repr((source.caption, source.word, source.edits)).encode())
    for path in paths:
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:16]


def _learned(backbone: Backbone, source: StudyConcept, folder: Path, config: TrainConfig) -> Concept:
    from hashlib import sha256

    from sentinv.concept import Concept
    from sentinv.inversion import invert

    key = sha256(
        repr((config, _digest(source), backbone.fingerprint, backbone.constants, backbone.dtype)).encode()
    ).hexdigest()[:8]
    path = folder / f"{source.name}-{config.steps}-{key}.safetensors"
    if path.is_file():
        return Concept.load(path)
    concept = invert(backbone, source.image, source.caption or source.word, config, token=f"<{source.name}>")
    concept.save(path)
    return concept


def _sheets(
    image: Image.Image,
    targets: Sequence[Image.Image],
    source: StudyConcept,
    made: Sequence[tuple[Record, Image.Image | None]],
    folder: Path,
) -> None:
    """One contact sheet for each edit: a row for each arm, a column for each skip."""
    from PIL import Image as Pillow

    from sentinv.images import grid, save_png

    for number, prompt in enumerate(source.edits, start=1):
        own = [(record, one) for record, one in made if record.get("prompt") == prompt and one is not None]
        cells = [("source", image)]
        cells += [("true target", targets[number - 1])] if targets else []
        arms: dict[str, list[tuple[str, Image.Image]]] = {}
        for record, one in own:
            arms.setdefault(record["arm"], []).append((f"{record['arm']} {record['skip']:g}", one))
        singles = [cell for group in arms.values() if len(group) == 1 for cell in group]
        rows = [cells + singles, *(group for group in arms.values() if len(group) > 1)]
        columns = max(len(row) for row in rows)
        blank = Pillow.new("RGB", image.size, "white")
        flat = [cell for row in rows for cell in (*row, *[("", blank)] * (columns - len(row)))]
        scale = math.ceil(112 / image.width)  # a caption must fit below each
        larger = [one.resize((one.width * scale, one.height * scale), 0) for _, one in flat]
        sheet = grid(larger, columns=columns, captions=[caption for caption, _ in flat])
        save_png(folder / f"{source.name}-edit-{number}.png", sheet, {"prompt": prompt}, overwrite=True)
