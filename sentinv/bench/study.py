"""Studies: a declared grid of runs, one JSON record each, resumable.

A study is a table of concepts × arms × seeds × whatever else it varies. Every run has a key, a digest of all that
decides its result; what has a record already is not run again. Two runs of a study write the same records, but for their
``timing``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from sentinv.bench.concepts import StudyConcept
from sentinv.bench.starts import REFERENCES, ArmSpec, StartSpec
from sentinv.errors import SentinvError
from sentinv.training.config import TrainConfig, TuneConfig

FORMAT = 2
"""Counted up when records of older versions of this program are no longer comparable."""

LOSS_AT = (
    *(0, 1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600, 800),
    *(1000, 1250, 1500, 2000, 2500, 3000, 4000, 5000),
)
IMAGES_AT = (0, 25, 50, 100, 250, 500, 1000, 5000)

OWN_AXES = {"images": int, "mask": bool, "progressive": bool, "max_vectors": int}
"""What a grid may vary besides the hyper-parameters of `TrainConfig`, and its type."""

OFF_AT_ZERO = ("max_norm", "min_snr")
"""Hyper-parameters that are None where a study says 0: TOML has no null."""

_NOT_DECLARED = {"seed", "checkpoint_every", "stop", "patience"}
_TRAIN = {field.name for field in fields(TrainConfig)} - _NOT_DECLARED - {"evaluate_every"}
_TUNE = {field.name for field in fields(TuneConfig)} - _NOT_DECLARED

_Config = TypeVar("_Config", TrainConfig, TuneConfig)


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is to be run.

    Attributes:
        title: of the report.
        question: what it is to answer, in a sentence.
        starts: initialisations, as `StartSpec` reads them; the caption if there are neither these nor arms.
        arms: name → ``start``, an initialisation; ``train``, hyper-parameters over those below; ``tune``, those of a LoRA
            that is trained around the last rows of the word, by their names in `TuneConfig`; and ``seeds``, where they are
            not those below (means are over concepts, of each one's mean over seeds). They come before the starts. One
            that has its start's name, and no LoRA, has the records of that start with the same hyper-parameters.
        concepts: names; empty for all.
        seeds: of training.
        train: hyper-parameters shared by all runs, by their names in `TrainConfig` or `OWN_AXES`; 0 is None for `OFF_AT_ZERO`.
        grid: name of such a hyper-parameter → values; the product of all is run, of every start and arm.
        loss_at: steps at which the loss on the fixed grid is taken; each run's last step is added.
        images_at: steps at which images are generated and measured; empty for none.
        count: images per prompt.
        sampling_steps: DDIM steps.
        guidance_scale: of sampling; the model's own if None.
        bfloat16_images: sample under autocast to bfloat16, faster on a CPU that has it; training is as it was.
        convergence: whether the report has curves over the steps, and how many steps each arm takes to vanilla's loss.

    Raises:
        SentinvError: If something is unknown or cannot be.
    """

    title: str
    question: str = ""
    starts: tuple[str, ...] = ()
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    concepts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    train: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    loss_at: tuple[int, ...] = LOSS_AT
    images_at: tuple[int, ...] = IMAGES_AT
    count: int = 8
    sampling_steps: int = 25
    guidance_scale: float | None = None
    bfloat16_images: bool = False
    convergence: bool = False

    def __post_init__(self) -> None:
        self._check_names((*self.train, *self.grid), _TRAIN | OWN_AXES.keys())
        for name, values in self.grid.items():
            if not values:
                raise SentinvError(
                    f"{self.title}: the grid lists no values for {name!r}: give at least one, or leave it out"
                )
        self._check_types()
        if not self.seeds or self.count < 1 or self.sampling_steps < 1:
            raise SentinvError(f"{self.title}: expected at least one seed, one image and one sampling step")
        for arm in self.compared():
            self._check_arm(arm)
            for point in self.points():
                self.config(arm, 0, point)

    def _check_names(self, names: Iterable[str], known: Set[str]) -> None:
        for name in names:
            if name not in known:
                raise SentinvError(
                    f"{self.title}: there is no hyper-parameter {name!r}; there are {', '.join(sorted(known))}"
                )

    def _check_arm(self, arm: ArmSpec) -> None:
        self._check_names(arm.train, _TRAIN | OWN_AXES.keys())
        self._check_names(arm.tune or (), _TUNE)
        self.tuning(arm, 0)
        for name in arm.train.keys() & self.grid.keys():
            raise SentinvError(f"{self.title}: [arms.{arm.name}] and the grid both say {name}: leave one out")
        if arm.name in self.arms and arm.name in [StartSpec.parse(start).label for start in self.starts]:
            raise SentinvError(f"{self.title}: there are an arm and a start {arm.name}: give the arm another name")

    def _check_types(self) -> None:
        for names, kind, what in (
            (("title", "question"), str, "text"),
            (("count", "sampling_steps"), int, "a whole number"),
            (("convergence", "bfloat16_images"), bool, "true or false"),
        ):
            for name in names:
                if type(getattr(self, name)) is not kind:
                    raise SentinvError(f"{self.title}: {name} must be {what}, got {getattr(self, name)!r}")
        for name in ("seeds", "loss_at", "images_at"):
            if not all(type(value) is int and value >= 0 for value in getattr(self, name)):
                raise SentinvError(
                    f"{self.title}: {name} must be whole numbers of at least 0, got {list(getattr(self, name))}"
                )
        for name in ("starts", "concepts"):
            if not all(type(value) is str for value in getattr(self, name)):
                raise SentinvError(f"{self.title}: {name} must be texts, got {list(getattr(self, name))}")
        scale = self.guidance_scale
        if scale is not None and (type(scale) not in (int, float) or not 0 <= scale < math.inf):
            raise SentinvError(f"{self.title}: guidance_scale must be a number of at least 0, got {scale!r}")

    def points(self) -> list[dict[str, Any]]:
        """All points of the grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def compared(self) -> list[ArmSpec]:
        """All arms, and then the starts.

        Raises:
            SentinvError: If one cannot be read.
        """
        starts = self.starts or (() if self.arms else ("caption",))
        arms = [ArmSpec.parse(name, table) for name, table in self.arms.items()]
        return [*arms, *(ArmSpec.plain(start) for start in starts)]

    def own(self, arm: ArmSpec, point: Mapping[str, Any]) -> dict[str, Any]:
        """All hyper-parameters that are declared for an arm at a point of the grid."""
        steps = {} if arm.start.steps is None else {"steps": arm.start.steps}
        return {**self.train, **arm.train, **point, **steps}

    def config(self, arm: ArmSpec, seed: int, point: Mapping[str, Any]) -> TrainConfig:
        """Hyper-parameters of one run.

        Raises:
            SentinvError: If a value is out of its range or of the wrong type.
        """
        own = self.own(arm, point)
        for name, kind in OWN_AXES.items():
            value = own.get(name)
            if value is not None and (type(value) is not kind or (type(value) is int and value < 1)):
                wanted = "true or false" if kind is bool else "at least 1"
                raise SentinvError(f"{self.title}: {name} must be {wanted}, got {value!r}")
        values = {"evaluation_timesteps": 16, "evaluation_noises": 2} | own
        return self._made(TrainConfig, {name: value for name, value in values.items() if name in _TRAIN}, seed)

    def tuning(self, arm: ArmSpec, seed: int) -> TuneConfig | None:
        """Hyper-parameters of the LoRA around the word of a run; None for no LoRA.

        Raises:
            SentinvError: As `config`.
        """
        return None if arm.tune is None else self._made(TuneConfig, arm.tune, seed)

    def _made(self, kind: type[_Config], values: Mapping[str, Any], seed: int) -> _Config:
        own: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in values.items()}
        own |= {name: None for name in OFF_AT_ZERO if own.get(name) == 0}
        try:
            return kind(**own, seed=seed)
        except (ValueError, TypeError) as error:
            raise SentinvError(f"{self.title}: {error}") from error


@dataclass(frozen=True)
class Trial:
    """One run of a study, before its words are known.

    Attributes:
        concept: what is learned.
        arm: from which start, and how if not as the study says.
        seed: of training.
        point: where it is in the grid.
        config: its hyper-parameters.
        tuning: those of the LoRA that is trained around the word then; None for no LoRA.
        images: pictures it learns from.
        mask: whether the loss is weighted by the mask.
        progressive: whether vectors are added one after another.
        max_vectors: the most vectors there may be; None for no limit.
    """

    concept: StudyConcept
    arm: ArmSpec
    seed: int
    point: Mapping[str, Any]
    config: TrainConfig
    tuning: TuneConfig | None
    images: int
    mask: bool
    progressive: bool
    max_vectors: int | None

    @property
    def spec(self) -> StartSpec:
        """Where its words come from."""
        return self.arm.start

    @property
    def steps(self) -> int:
        """Of the word, and of the LoRA around it."""
        return self.config.steps + (self.tuning.steps if self.tuning is not None else 0)

    def looks(self, steps: Sequence[int]) -> list[int]:
        """Those of some steps at which its word is looked at; where a LoRA goes on from there, at its last one, too."""
        own = [step for step in steps if step <= self.config.steps]
        return own if self.tuning is None or self.config.steps in own else [*own, self.config.steps]

    def settings(self, words: str, context: Mapping[str, Any]) -> dict[str, Any]:
        """All that decides the result, as JSON can say it."""
        settings = {
            "format": FORMAT,
            "concept": self.concept.name,
            "start": self.arm.name,
            "words": words,
            "seed": self.seed,
            "point": dict(self.point),
            "images": self.images,
            "mask": self.mask,
            "progressive": self.progressive,
            "max_vectors": self.max_vectors,
            "train": asdict(self.config),
            **({"initialization": self.spec.label} if self.arm.name != self.spec.label else {}),
            **({"tune": asdict(self.tuning)} if self.tuning is not None else {}),
            **context,
        }
        return json.loads(json.dumps(settings))

    def __str__(self) -> str:
        extra = "".join(f", {name} {value}" for name, value in self.point.items())
        return f"{self.concept.name}, {self.arm.name}, {self.steps} steps, seed {self.seed}{extra}"


def key_of(settings: Mapping[str, Any]) -> str:
    """Sixteen hex digits that stand for settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def trials(study: Study, concepts: Sequence[StudyConcept]) -> Iterator[Trial]:
    """Expand a study, concept by concept. References, which train nothing, come once per concept.

    Raises:
        SentinvError: If the study names a concept that is not there.
    """
    by_name = {concept.name: concept for concept in concepts}
    unknown = [name for name in study.concepts if name not in by_name]
    if unknown:
        raise SentinvError(f"{study.title}: there is no concept {unknown[0]!r}; there are {', '.join(by_name)}")
    for name in study.concepts or by_name:
        for arm in study.compared():
            reference = arm.start.name in REFERENCES
            for point in [{}] if reference else study.points():
                for seed in (0,) if reference else arm.seeds or study.seeds:
                    own = study.own(arm, point)
                    yield Trial(
                        by_name[name],
                        arm,
                        seed,
                        point,
                        study.config(arm, seed, point),
                        study.tuning(arm, seed),
                        own.get("images", 1),
                        own.get("mask", False),
                        own.get("progressive", False),
                        own.get("max_vectors"),
                    )
