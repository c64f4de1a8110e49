"""Runs the trials of a study and keeps their records."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentinv.adapters.install import adapted
from sentinv.bench.concepts import StudyConcept, digest_of
from sentinv.bench.measuring import ConceptPictures, Measuring
from sentinv.bench.peers import learn_with_peer, peer_files
from sentinv.bench.records import Record, read_records
from sentinv.bench.starts import REFERENCES, Words
from sentinv.bench.study import Study, Trial, key_of, trials
from sentinv.bench.trials import (
    TOKEN,
    TrainingCurve,
    train_curve,
    training_pictures,
)
from sentinv.bench.tuning import TunedWord, tuned_word
from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization, Initializer, Start, starting_rows
from sentinv.errors import CheckpointError, Interrupted, SentinvError
from sentinv.files.atomic import make_folder
from sentinv.files.json_lines import JsonLines, finite
from sentinv.files.locks import lock
from sentinv.training.provenance import row_statistics

if TYPE_CHECKING:
    from torch import Tensor

    from sentinv.models.backbone import Backbone

Tell = Callable[[str], None]

_NOT_OF_LEARNING = {"judge", "lpips", "count", "sampling", "prompts", "recognised", "initialization"}
"""Settings that training does not depend on; what an arm is called, it does not either."""


@dataclass
class StudyOutcome:
    """What is there of a study.

    Attributes:
        records: in the order of the study.
        failures: (run, why it failed), of this sitting.
        missing: runs that have no record yet, because another part of the study does them.
    """

    records: list[Record] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    missing: int = 0


class Workbench:
    """A model, concepts and judges, on which the trials of a study are run.

    Args:
        backbone: the frozen model.
        concepts: that studies may name.
        describers: initializers, for the starts that need one.
        measuring: how images are measured; None to measure none.
        origin: what the timing of each record says besides: machine, date.
    """

    def __init__(
        self,
        backbone: Backbone,
        concepts: Sequence[StudyConcept],
        describers: Mapping[str, Initializer],
        measuring: Measuring | None,
        origin: Mapping[str, str] | None = None,
    ) -> None:
        self.backbone, self.concepts, self.measuring = backbone, list(concepts), measuring
        self.words = Words(concepts, describers, backbone.text_encoders[0].tokenizer)
        self.origin = dict(origin or {})
        self._pictures: ConceptPictures | None = None
        self._scores: dict[tuple[Any, ...], dict[str, Any]] = {}

    def settings(self, trial: Trial, study: Study) -> dict[str, Any]:
        """All that decides a trial's result.

        Raises:
            SentinvError: If its words or pictures are not to be had.
        """
        context: dict[str, Any] = {
            "model": self.backbone.fingerprint,
            "constants": self.backbone.constants,
            "dtype": str(self.backbone.dtype),
            "pictures": trial.concept.digest,
            "loss_at": [step for step in study.loss_at if step <= trial.config.steps],
            "images_at": [],
        }
        if self.measuring is not None:
            context["images_at"] = trial.looks(study.images_at)
            context["judge"] = self.measuring.judge.digest
            context["lpips"] = self.measuring.lpips is not None
            context["count"] = study.count
            context["sampling"] = [study.sampling_steps, self.measuring.sampling.guidance_scale]
            context["sampling"] += ["bfloat16"] * study.bfloat16_images
            context["prompts"] = list(trial.concept.edits)
            if self.measuring.recogniser is not None:
                attributes = self.measuring.attributes
                context["recognised"] = [self.measuring.recogniser.digest, attributes and attributes.digest]
        if trial.spec.name == "peer":
            context["script"] = digest_of(peer_files(trial.spec.argument))
        return trial.settings(self.words.of(trial.spec, trial.concept, trial.seed), context)

    def run(
        self, trial: Trial, settings: Mapping[str, Any], study: Study, folder: Path
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run one trial; returns its result and its timing.

        Args:
            trial: to run.
            settings: all that decides its result.
            study: that it is of.
            folder: of what was learned before.

        Raises:
            SentinvError: If a picture can't be read, training is not possible, or what was learned can't be written.
        """
        if trial.spec.name in REFERENCES:
            return {"vectors": 0, "losses": [], "objectives": [], "scores": [[0, self._reference(trial)]]}, self.origin
        if trial.spec.name == "peer":
            concept, result, took = learn_with_peer(self.backbone, trial)
            if self.measuring is not None:
                result["scores"] = [[trial.config.steps, self._measure(trial, concept.rows)]]
            return result, {"script": took, **self.origin}
        start = starting_rows(Initialization(settings["words"], trial.spec.label), self.backbone, trial.max_vectors)
        own = {name: value for name, value in settings.items() if name not in _NOT_OF_LEARNING}
        own |= {"start": trial.spec.label, "images_at": trial.looks(study.images_at)}
        curve = self._learn(trial, start, own, folder)
        tuned = None
        if trial.tuning is not None and trial.config.steps in curve.rows:
            tuned = tuned_word(self.backbone, trial, curve.rows[trial.config.steps], own, folder)
            tuned.join(curve, trial.steps)
        begun = time.perf_counter()
        scores = self._scores_of(trial, curve, tuned) if self.measuring is not None else []
        last = curve.rows[max(curve.rows)] if curve.rows else {}
        whole = {name: rows for name, rows in last.items() if len(rows) == start.count}
        moved = row_statistics(whole, start.rows) if len(whole) == len(start.rows) else {}
        result = {
            "vectors": start.count,
            "tokens": list(start.tokens),
            "losses": [list(pair) for pair in curve.losses],
            "objectives": [list(pair) for pair in curve.objectives],
            "scores": scores,
            "norms_and_cosines": {name: [list(pair) for pair in pairs] for name, pairs in moved.items()},
            "stop": curve.stop,
        }
        seconds = {"training": [list(pair) for pair in curve.seconds], "measuring": time.perf_counter() - begun}
        return result, {**seconds, **curve.origin}

    def _learn(self, trial: Trial, start: Start, settings: Mapping[str, Any], folder: Path) -> TrainingCurve:
        """Train, or take what was learned under the same settings before, whatever was measured or tuned then."""
        own = {name: value for name, value in settings.items() if name != "tune"}
        path = folder / f"{key_of(own)}.safetensors"
        try:
            return TrainingCurve.read(path)
        except CheckpointError:  # there is none, or it is damaged
            pass
        curve = train_curve(
            self.backbone,
            training_pictures(trial.concept, trial.images, masked=trial.mask),
            start,
            trial.config,
            loss_at=sorted({*own["loss_at"], trial.config.steps}),
            keep_at=own["images_at"],
            progressive=trial.progressive,
        )
        curve.origin = self.origin
        curve.save(path, own)
        return curve

    def _scores_of(self, trial: Trial, curve: TrainingCurve, tuned: TunedWord | None) -> list[list[Any]]:
        """(step, scores) of the word at the steps that were kept, and of it with the LoRA around it."""
        scores: list[list[Any]] = [[step, self._measure(trial, rows)] for step, rows in curve.rows.items()]
        if tuned is not None:
            word = Concept(token=TOKEN, rows=tuned.rows)
            with adapted(self.backbone, [tuned.lora]):
                own = self._of(trial.concept).scores(self.backbone, word, trained=trial.images)
            scores.append([trial.steps, own])
        return scores

    def _measure(self, trial: Trial, rows: Mapping[str, Tensor]) -> dict[str, Any]:
        """Measure rows; the same rows of the same concept, as where several runs start alike, only once."""
        pictures = self._of(trial.concept)
        key = (
            trial.images,
            *((name, tuple(own.shape), own.cpu().numpy().tobytes()) for name, own in sorted(rows.items())),
        )
        if key not in self._scores:
            self._scores[key] = pictures.scores(self.backbone, Concept(token=TOKEN, rows=rows), trained=trial.images)
        return self._scores[key]

    def _reference(self, trial: Trial) -> dict[str, Any]:
        if self.measuring is None:
            raise SentinvError(f"{trial.spec.label} measures images, and this study measures none: leave it out")
        pictures = self._of(trial.concept)
        match trial.spec.name:
            case "image-only":
                return pictures.scores_of_copying()
            case "targets-only":
                return pictures.scores_of_targets()
        return pictures.scores(self.backbone, None)

    def _of(self, concept: StudyConcept) -> ConceptPictures:
        if self._pictures is None or self._pictures.concept != concept:
            if self.measuring is None:
                raise ValueError("this workbench measures no images")
            side = self.backbone.resolution
            self._pictures = ConceptPictures(concept, self.measuring, (side, side))
            self._scores.clear()
        return self._pictures


def run_study(
    study: Study, bench: Workbench, folder: str | Path, *, part: tuple[int, int] = (1, 1), tell: Tell | None = None
) -> StudyOutcome:
    """Run what has no record yet; a trial that fails is told and left out.

    Args:
        study: what to run.
        bench: where.
        folder: of the records, made if need be; what was learned is kept in its folder ``learned``, so that it can be
            measured in another way without training again.
        part: (k, n): of the trials only the k-th of n shares, which cost about the same, so that n processes share a study.
            Each has a file of its own.
        tell: called with a line for each trial.

    Raises:
        SentinvError: If the records can't be read or written, or another process has this part.
        Interrupted: After Ctrl-C or SIGTERM. What was done is kept.
    """
    tell = tell or (lambda _: None)
    folder = make_folder(folder)
    learned = make_folder(folder / "learned")
    name = "records.jsonl" if part[1] == 1 else f"records-{part[0]}-of-{part[1]}.jsonl"
    outcome, done = StudyOutcome(), read_records(folder)
    todo = list(trials(study, bench.concepts))
    mine = shares([cost(trial, study) for trial in todo], part[1])
    with lock(folder / name), JsonLines(folder / name) as file:
        for index, trial in enumerate(todo):
            try:
                settings = bench.settings(trial, study)
                key = key_of(settings)
                if key not in done and mine[index] == part[0] - 1:
                    begun = time.perf_counter()
                    result, timing = bench.run(trial, settings, study, learned)
                    done[key] = _plain({"key": key, "settings": settings, "result": result, "timing": timing})
                    file.write(done[key])
                    tell(f"{index + 1}/{len(todo)} {trial}: {time.perf_counter() - begun:.0f} s")
            except (KeyboardInterrupt, Interrupted) as error:
                raise Interrupted(
                    f"the study stopped at {index + 1} of {len(todo)} runs: its records are kept, the same command goes on",
                    getattr(error, "signal_number", signal.SIGINT),
                ) from error
            except SentinvError as error:
                outcome.failures.append((str(trial), str(error)))
                tell(f"{index + 1}/{len(todo)} {trial}: FAILED: {error}")
            else:
                if key in done:
                    outcome.records.append(done[key])
                else:
                    outcome.missing += 1
    return outcome


def cost(trial: Trial, study: Study) -> int:
    """About how many UNet evaluations a trial takes; a backward pass counts as two."""
    configs = [config for config in (trial.config, trial.tuning) if config is not None]
    trained = 0 if trial.spec.name in REFERENCES else sum(3 * config.items * config.steps for config in configs)
    looks = len(trial.looks(study.images_at)) + len(configs) - 1 if trained else 1
    prompts = 1 + len(trial.concept.edits)
    return trained + 2 * looks * prompts * study.count * study.sampling_steps


def shares(costs: Sequence[int], count: int) -> list[int]:
    """Index of the share, in [0, count), of each item: the dearest first, each to the share that has least (Graham 1969)."""
    loads = [0] * count
    found = [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        found[index] = loads.index(min(loads))
        loads[found[index]] += costs[index]
    return found


def _plain(record: Record) -> Record:
    """As it will be read back."""
    return json.loads(json.dumps(finite(record)))
