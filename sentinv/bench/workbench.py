"""Runs one trial of a study: what it learns, draws and measures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sentinv.adapters.install import adapted
from sentinv.bench.concepts import StudyConcept, digest_of
from sentinv.bench.measuring import ConceptPictures, Measuring
from sentinv.bench.peers import learn_with_peer, peer_files
from sentinv.bench.starts import REFERENCES, Words
from sentinv.bench.study import Study, Trial, key_of
from sentinv.bench.trials import TOKEN, TrainingCurve, train_curve, training_pictures
from sentinv.bench.tuning import TunedWord, tuned_word
from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization, Initializer, Start, starting_rows
from sentinv.errors import CheckpointError, SentinvError
from sentinv.files.atomic import make_folder
from sentinv.files.images import save_png
from sentinv.report.contact_sheet import contact_sheet
from sentinv.training.provenance import row_statistics

if TYPE_CHECKING:
    from torch import Tensor

    from sentinv.models.backbone import Backbone

Measured = tuple[dict[str, Any], Image.Image]
"""Scores, and the first image of each prompt beside each other."""

_NOT_OF_LEARNING = {"judge", "lpips", "count", "sampling", "prompts", "recognised", "initialization"}
"""Settings that training does not depend on; what an arm is called, it does not either."""


def of_learning(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a trial's settings that decide what it learns."""
    own = {name: value for name, value in settings.items() if name not in _NOT_OF_LEARNING}
    return own | {"start": settings.get("initialization", settings["start"])}


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
        self._measured: dict[tuple[Any, ...], Measured] = {}

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
            folder: of the study: what was learned before is in its ``learned``; strips of what is drawn go to its ``images``.

        Raises:
            SentinvError: If a picture can't be read, training is not possible, or what was learned or drawn can't be written.
        """
        if trial.spec.name in REFERENCES:
            return {"vectors": 0, "losses": [], "objectives": [], "scores": [[0, self._reference(trial)]]}, self.origin
        if trial.spec.name == "peer":
            concept, result, took = learn_with_peer(self.backbone, trial)
            if self.measuring is not None:
                result["scores"] = self._kept(
                    {trial.config.steps: self._measure(trial, concept.rows)}, settings, folder
                )
            return result, {"script": took, **self.origin}
        start = starting_rows(Initialization(settings["words"], trial.spec.label), self.backbone, trial.max_vectors)
        own = {**of_learning(settings), "images_at": trial.looks(study.images_at)}
        learned = make_folder(folder / "learned")
        curve = self._learn(trial, start, own, learned)
        tuned = None
        if trial.tuning is not None and trial.config.steps in curve.rows:
            tuned = tuned_word(self.backbone, trial, curve.rows[trial.config.steps], own, learned)
            tuned.join(curve, trial.steps)
        begun = time.perf_counter()
        scores = []
        if self.measuring is not None:
            scores = self._kept(self._measured_of(trial, curve, tuned), settings, folder)
        seconds = {"training": [list(pair) for pair in curve.seconds], "measuring": time.perf_counter() - begun}
        return {**_told(start, curve), "scores": scores}, {**seconds, **curve.origin}

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

    def _measured_of(self, trial: Trial, curve: TrainingCurve, tuned: TunedWord | None) -> dict[int, Measured]:
        """Step → what the word gives, at the steps that were kept, and what it gives with the LoRA around it."""
        found = {step: self._measure(trial, rows) for step, rows in curve.rows.items()}
        if tuned is not None:
            with adapted(self.backbone, [tuned.lora]):
                found[trial.steps] = self._drawn(trial, tuned.rows)
        return found

    def _measure(self, trial: Trial, rows: Mapping[str, Tensor]) -> Measured:
        """Measure rows; the same rows of the same concept, as where several runs start alike, only once."""
        self._of(trial.concept)
        key = (
            trial.images,
            *((name, tuple(own.shape), own.cpu().numpy().tobytes()) for name, own in sorted(rows.items())),
        )
        if key not in self._measured:
            self._measured[key] = self._drawn(trial, rows)
        return self._measured[key]

    def _drawn(self, trial: Trial, rows: Mapping[str, Tensor]) -> Measured:
        pictures = self._of(trial.concept)
        made, *edited = pictures.draw(self.backbone, Concept(token=TOKEN, rows=rows))
        first = [images[0] for images in (made, *edited)]
        return pictures.measure(made, edited, trial.images), contact_sheet(first, columns=len(first), gap=0)

    def _kept(
        self, measured: Mapping[int, Measured], settings: Mapping[str, Any], folder: Path
    ) -> list[tuple[int, dict[str, Any]]]:
        """(step, scores) of each; their strips are written."""
        images, key = make_folder(folder / "images"), key_of(settings)
        for step, (_, strip) in measured.items():
            save_png(images / f"{key}-{step}.png", strip, overwrite=True)
        return [(step, scores) for step, (scores, _) in measured.items()]

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
            self._measured.clear()
        return self._pictures


def _told(start: Start, curve: TrainingCurve) -> dict[str, Any]:
    """What a record says of a training, but for its scores."""
    last = curve.rows[max(curve.rows)] if curve.rows else {}
    whole = {name: rows for name, rows in last.items() if len(rows) == start.count}
    moved = row_statistics(whole, start.rows) if len(whole) == len(start.rows) else {}
    return {
        "vectors": start.count,
        "tokens": list(start.tokens),
        "losses": [list(pair) for pair in curve.losses],
        "objectives": [list(pair) for pair in curve.objectives],
        "norms_and_cosines": {name: [list(pair) for pair in pairs] for name, pairs in moved.items()},
        "stop": curve.stop,
    }
