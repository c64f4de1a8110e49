"""Studies: a declared grid of runs, one JSON record each, resumable.

A study is a table of concepts × initialisations × seeds × whatever else it varies. Every run has a key, a digest of all that
decides its result; what has a record already is not run again. Two runs of a study write the same records, but for their
``timing``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sentinv.bench.concepts import StudyConcept
from sentinv.bench.starts import StartSpec
from sentinv.errors import SentinvError
from sentinv.files.atomic import shown
from sentinv.training.config import TrainConfig

FORMAT = 2
"""Counted up when records of older versions of this program are no longer comparable."""

LOSS_AT = (
    *(0, 1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600, 800),
    *(1000, 1250, 1500, 2000, 2500, 3000, 4000, 5000),
)
IMAGES_AT = (0, 25, 50, 100, 250, 500, 1000, 5000)

OWN_AXES = {"images": int, "mask": bool, "progressive": bool, "max_vectors": int}
"""What a grid may vary besides the hyper-parameters of `TrainConfig`, and its type."""

_TRAIN = {field.name for field in fields(TrainConfig)} - {
    "seed",
    "evaluate_every",
    "checkpoint_every",
    "stop",
    "patience",
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is to be run.

    Attributes:
        title: of the report.
        question: what it is to answer, in a sentence.
        starts: initialisations, as `StartSpec` reads them.
        concepts: names; empty for all.
        seeds: of training.
        train: hyper-parameters shared by all runs, by their names in `TrainConfig`.
        grid: name of a hyper-parameter, or of `OWN_AXES` → values; the product of all is run.
        loss_at: steps at which the loss on the fixed grid is taken; each run's last step is added.
        images_at: steps at which images are generated and measured; empty for none.
        count: images per prompt.
        sampling_steps: DDIM steps.
        guidance_scale: of sampling; the model's own if None.

    Raises:
        SentinvError: If something is unknown or cannot be.
    """

    title: str
    question: str = ""
    starts: tuple[str, ...] = ("caption",)
    concepts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    train: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    loss_at: tuple[int, ...] = LOSS_AT
    images_at: tuple[int, ...] = IMAGES_AT
    count: int = 8
    sampling_steps: int = 25
    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        for name in (*self.train, *self.grid):
            if name not in _TRAIN | set(OWN_AXES):
                raise SentinvError(
                    f"{self.title}: there is no hyper-parameter {name!r}; there are {', '.join(sorted(_TRAIN | set(OWN_AXES)))}"
                )
        for name, values in self.grid.items():
            if not values:
                raise SentinvError(
                    f"{self.title}: the grid lists no values for {name!r}: give at least one, or leave it out"
                )
        self._check_types()
        if not self.starts or not self.seeds or self.count < 1 or self.sampling_steps < 1:
            raise SentinvError(f"{self.title}: expected at least one start, one seed, one image and one sampling step")
        for point in self.points():
            for start in self.starts:
                self.config(StartSpec.parse(start), 0, point)

    def _check_types(self) -> None:
        for names, kind, what in (
            (("title", "question"), str, "text"),
            (("count", "sampling_steps"), int, "a whole number"),
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

    def config(self, spec: StartSpec, seed: int, point: Mapping[str, Any]) -> TrainConfig:
        """Hyper-parameters of one run.

        Raises:
            SentinvError: If a value is out of its range or of the wrong type.
        """
        values: dict[str, Any] = {"evaluation_timesteps": 16, "evaluation_noises": 2}
        values |= {name: value for name, value in {**self.train, **point}.items() if name in _TRAIN}
        if spec.steps is not None:
            values["steps"] = spec.steps
        if values.get("max_norm") == 0:  # TOML has no null
            values["max_norm"] = None
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        try:
            for name, kind in OWN_AXES.items():
                value = point.get(name, self.train.get(name))
                if value is not None and (type(value) is not kind or (type(value) is int and value < 1)):
                    raise ValueError(
                        f"{name} must be {'true or false' if kind is bool else 'at least 1'}, got {value!r}"
                    )
            return TrainConfig(**values, seed=seed)
        except (ValueError, TypeError) as error:
            raise SentinvError(f"{self.title}: {error}") from error


@dataclass(frozen=True)
class Trial:
    """One run of a study, before its words are known.

    Attributes:
        concept: what is learned.
        spec: from which start.
        seed: of training.
        point: where it is in the grid.
        config: its hyper-parameters.
        images: pictures it learns from.
        mask: whether the loss is weighted by the mask.
        progressive: whether vectors are added one after another.
        max_vectors: the most vectors there may be; None for no limit.
    """

    concept: StudyConcept
    spec: StartSpec
    seed: int
    point: Mapping[str, Any]
    config: TrainConfig
    images: int
    mask: bool
    progressive: bool
    max_vectors: int | None

    def settings(self, words: str, context: Mapping[str, Any]) -> dict[str, Any]:
        """All that decides the result, as JSON can say it."""
        settings = {
            "format": FORMAT,
            "concept": self.concept.name,
            "start": self.spec.label,
            "words": words,
            "seed": self.seed,
            "point": dict(self.point),
            "images": self.images,
            "mask": self.mask,
            "progressive": self.progressive,
            "max_vectors": self.max_vectors,
            "train": asdict(self.config),
            **context,
        }
        return json.loads(json.dumps(settings))

    def __str__(self) -> str:
        extra = "".join(f", {name} {value}" for name, value in self.point.items())
        return f"{self.concept.name}, {self.spec.label}, {self.config.steps} steps, seed {self.seed}{extra}"


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
    specs = [StartSpec.parse(start) for start in study.starts]
    for name in study.concepts or by_name:
        for spec in specs:
            reference = spec.name.endswith("-only")
            for point in [{}] if reference else study.points():
                for seed in (0,) if reference else study.seeds:
                    own = {**study.train, **point}
                    yield Trial(
                        by_name[name],
                        spec,
                        seed,
                        point,
                        study.config(spec, seed, point),
                        own.get("images", 1),
                        own.get("mask", False),
                        own.get("progressive", False),
                        own.get("max_vectors"),
                    )


def read_study(path: str | Path) -> Study:
    """Read a study from a TOML file: the fields of `Study`, with tables ``[train]`` and ``[grid]``.

    Raises:
        SentinvError: In one line, if it can't be read or has an unknown key or value.
    """
    table = _toml(path)
    known = {field.name: field.type for field in fields(Study)}
    unknown = [key for key in table if key not in known]
    if unknown:
        raise SentinvError(f"{shown(path)}: there is no key {unknown[0]!r}; keys are {', '.join(known)}")
    values: dict[str, Any] = {"title": Path(path).stem, **table}
    for key, value in values.items():
        wanted = dict if key in ("train", "grid") else list if "tuple" in str(known[key]) else None
        if wanted is not None and not isinstance(value, wanted):
            kind = "a table" if wanted is dict else "a list"
            raise SentinvError(f"{shown(path)}: {key} must be {kind}, got {value!r}")
        if wanted is list:
            values[key] = tuple(value)
    for name, options in values.get("grid", {}).items():
        if not isinstance(options, list):
            raise SentinvError(f"{shown(path)}: {name} in [grid] must be a list of values, got {options!r}")
    try:
        return Study(**values)
    except TypeError as error:
        raise SentinvError(f"{shown(path)}: {error}") from error


def _toml(path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SentinvError(f"cannot read the study {shown(path)}: {error.strerror}; check the name") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SentinvError(f"{shown(path)} is not valid TOML: {error}; correct it") from error
