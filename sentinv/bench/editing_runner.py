"""Runs the editing study concept by concept, and keeps records, words and contact sheets in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentinv.adapters.install import adapted, check_words
from sentinv.bench.editing_arms import ARMS, EditingStudy
from sentinv.bench.editing_study import Case, run_case
from sentinv.bench.leditspp import refuse_model
from sentinv.bench.records import Record, same_settings
from sentinv.concepts.concept import Concept
from sentinv.editing.edit import EditConfig
from sentinv.editing.inversion import InversionConfig
from sentinv.errors import SentinvError
from sentinv.files.atomic import atomic_write, shown
from sentinv.files.images import save_png
from sentinv.files.json_lines import finite
from sentinv.report.contact_sheet import arms_sheet
from sentinv.training.invert import invert

if TYPE_CHECKING:
    from sentinv.adapters.lora import Lora
    from sentinv.bench.concepts import StudyConcept
    from sentinv.evaluation.judges import AttributeJudge
    from sentinv.models.backbone import Backbone
    from sentinv.training.config import TrainConfig

FORMAT = 2
"""Counted up when records of older versions of this program are no longer comparable."""


@dataclass(frozen=True)
class EditingBench:
    """A model and a folder, in which the concepts of an editing study are run one by one.

    Attributes:
        backbone: the frozen model.
        study: what is compared.
        config: how each concept is learned.
        judge: of edit success; None to measure none.
        folder: of all that is written.
        loras: with their scales: each is on while the edits of its word are made.

    Raises:
        EditError: If an arm cannot run on the model.
    """

    backbone: Backbone
    study: EditingStudy
    config: TrainConfig
    judge: AttributeJudge | None
    folder: Path
    loras: Sequence[tuple[Lora, float]] = ()

    def __post_init__(self) -> None:
        if any(ARMS[name].method.startswith("leditspp") for name in self.study.arms):
            refuse_model(self.backbone)

    def records(self, source: StudyConcept) -> list[Record] | None:
        """Read the records of a concept; None if there are none yet.

        Raises:
            SentinvError: If they can't be read, or are of another study.
        """
        path = self._path(source)
        if not path.is_file():
            return None
        settings = self.settings(source)
        try:
            there, *records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            other = [name for name, own in settings.items() if not same_settings(there.get(name), own)]
        except (OSError, ValueError, AttributeError) as error:
            raise SentinvError(f"{shown(path)} is no file of records: name another folder, or remove it") from error
        if other:
            named = ", ".join(other)
            raise SentinvError(
                f"{shown(path)} is of a study with other settings ({named}): name another folder, or remove it"
            )
        return [_restored(record) for record in records]

    def run(self, source: StudyConcept) -> list[Record]:
        """Run one concept; write its records when all is done, and its sheets.

        Raises:
            SentinvError: If a picture can't be read, or something not written.
        """
        concept = self._learned(source)
        worn = self._loras_of(source)
        check_words([lora for lora, _ in worn], [concept])
        with adapted(self.backbone, worn) if worn else nullcontext():
            case = Case.read(self.backbone, source, concept)
            made = list(run_case(self.backbone, case, self.study, self.judge))
        records = [record for record, _ in made]
        text = "".join(json.dumps(finite(line)) + "\n" for line in (self.settings(source), *records))
        atomic_write(self._path(source), text.encode(), overwrite=True)
        for number, prompt in enumerate(source.edits, start=1):
            own = [(record, image) for record, image in made if record.get("prompt") == prompt and image is not None]
            path = self.folder / f"{source.name}-edit-{number}.png"
            sheet = arms_sheet(case.image, case.targets[number - 1] if case.targets else None, own)
            save_png(path, sheet, {"prompt": prompt}, overwrite=True)
        return records

    def settings(self, source: StudyConcept) -> dict[str, Any]:
        """All that decides a concept's records, as JSON has it."""
        settings = {
            "format": FORMAT,
            "study": asdict(self.study),
            "arms": {name: ARMS[name]._asdict() for name in self.study.arms},
            "defaults": [asdict(EditConfig()), asdict(InversionConfig())],
            "model": self.backbone.fingerprint,
            "constants": self.backbone.constants,
            "dtype": str(self.backbone.dtype),
            "train": asdict(self.config),
            "source": _digest(source),
            "judge": self.judge.digest if self.judge is not None else None,
            "loras": [[sha256(lora.to_bytes()).hexdigest()[:16], scale] for lora, scale in self._loras_of(source)]
            or None,
        }
        return json.loads(json.dumps(settings))

    def _loras_of(self, source: StudyConcept) -> list[tuple[Lora, float]]:
        """Those for the word of a concept, and those for no word in particular."""
        return [(lora, scale) for lora, scale in self.loras if lora.token in ("", token_for(source))]

    def _path(self, source: StudyConcept) -> Path:
        return self.folder / f"{source.name}.jsonl"

    def _learned(self, source: StudyConcept) -> Concept:
        model = (self.backbone.fingerprint, self.backbone.constants, self.backbone.dtype)
        key = sha256(repr((self.config, _digest(source), *model)).encode()).hexdigest()[:8]
        path = self.folder / f"{source.name}-{self.config.steps}-{key}.safetensors"
        if path.is_file():
            return Concept.load(path)
        words = source.caption or source.word
        concept = invert(self.backbone, source.image, words, self.config, token=token_for(source))
        concept.save(path)
        return concept


def token_for(source: StudyConcept) -> str:
    """What a concept's word is called."""
    return f"<{source.name}>"


def _restored(record: Record) -> Record:
    """JSON has no infinity: there, the PSNR of equal images is null."""
    return {key: float("inf") if value is None else value for key, value in record.items()}


def _digest(source: StudyConcept) -> str:
    """Of all that a concept's edits depend on: its pictures, prompts and words."""
    paths = [source.image, *([source.mask] if source.mask else []), *source.targets]
    digest = sha256(repr((source.caption, source.word, source.edits)).encode())
    for path in paths:
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:16]
