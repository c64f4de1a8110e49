"""What studies compare: initialisations, arms with hyper-parameters of their own, and the words each gives for a concept."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from random import Random
from typing import Any

from sentinv.bench.concepts import StudyConcept
from sentinv.concepts.initialization import Initializer, plan, whole_words
from sentinv.errors import SentinvError
from sentinv.files.images import read_image

STARTS = {
    "vanilla": "one vector from *, which says nothing of the thing",
    "random": "one random word of the vocabulary, another for each concept and seed",
    "word": "the concept's word",
    "class": "the classifier's label",
    "caption": "the captioner's sentence",
    "caption-no-stopwords": "the captioner's sentence without words that name nothing",
    "caption-no-scene": "the captioner's sentence without where the thing is",
    "human": "the concept's caption by a person",
    "stars": "control: as many vectors as the caption has, all from *; stars:3 for three",
    "random-words": "control: as many random words as the caption has tokens; random-words:3 for three",
    "other-caption": "control: the caption of the next concept",
    "phrase": "words of one's own: phrase:a red mug",
    "peer": "another trainer's script: peer:PATH, or peer:PATH with options, as `sentinv.bench.peers` has them",
    "image-only": "reference: the concept's own picture in the place of generated ones",
    "prompt-only": "reference: pictures of the prompts without the placeholder",
    "targets-only": "reference: other pictures of the thing, and true ones of the edits, in the place of generated ones",
}
"""Name → what it is."""

DESCRIBED = ("class", "caption", "caption-no-stopwords", "caption-no-scene")
"""Those that an initializer has to say."""

REFERENCES = ("image-only", "prompt-only", "targets-only")
"""Those that train nothing."""

WORDLESS = ("vanilla", "stars", "peer")
"""Those that do not say what the thing is, which a LoRA has to be told."""


@dataclass(frozen=True)
class StartSpec:
    """An initialisation as written: ``name[:argument][@steps]``, such as ``caption``, ``stars:3``, ``vanilla@5000``.

    Attributes:
        label: as written, less the steps.
        name: key of `STARTS`.
        argument: what follows the colon; "" if nothing.
        steps: this initialisation's own number of steps; None for the study's.
    """

    label: str
    name: str
    argument: str
    steps: int | None

    @classmethod
    def parse(cls, text: str) -> StartSpec:
        """Read a specification.

        Raises:
            SentinvError: If the name is unknown, or the argument does not fit it.
        """
        match = re.fullmatch(r"(?P<label>(?P<name>[a-z-]+)(?::(?P<argument>.*?))?)(?:@(?P<steps>\d+))?", text.strip())
        name = match["name"] if match else ""
        if match is None or name not in STARTS:
            raise SentinvError(
                f"unknown initialisation {text!r}: expected one of {', '.join(STARTS)}, such as caption@100"
            )
        argument = (match["argument"] or "").strip()
        counted = name in ("stars", "random-words")
        free = name in ("phrase", "peer")
        wrong = free != bool(argument) if not counted else not re.fullmatch(r"|[1-9]\d*", argument)
        if wrong:
            raise SentinvError(
                f"cannot read the initialisation {text!r}: write phrase:WORDS, peer:SCRIPT, stars:3 or a plain name"
            )
        label = f"peer:{_without_folder(argument)}" if name == "peer" else match["label"]
        return cls(label, name, argument, int(match["steps"]) if match["steps"] else None)


def _without_folder(command: str) -> str:
    """A script and its options as they are called in tables and records: where files lie is nobody's business."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SentinvError(f"cannot read the script {command!r}: {error}; close the quotes") from error
    return " ".join(_without_place(word, always=index == 0) for index, word in enumerate(words))


def _without_place(word: str, *, always: bool) -> str:
    """A word of a command without the folders of a path: of ``--vae=/home/me/kl.pt`` the rest is ``--vae=kl.pt``."""
    option, equals, value = word.rpartition("=")
    path = PureWindowsPath(value)  # takes both slashes
    placed = always or path.root or value.startswith(("~", ".."))
    return f"{option}{equals}{path.name}" if placed else word


@dataclass(frozen=True)
class ArmSpec:
    """What a study runs and compares: an initialisation, and what is done from there if that is not what the study does.

    Attributes:
        name: what tables and legends call it.
        start: where its words come from.
        train: hyper-parameters over those of the study, by their names in `TrainConfig`.
        tune: of the LoRA that is trained around the word then, by their names in `TuneConfig`; None for no LoRA.
        seeds: of its training, where they are not all of the study's; None for those.
    """

    name: str
    start: StartSpec
    train: Mapping[str, Any] = field(default_factory=dict)
    tune: Mapping[str, Any] | None = None
    seeds: tuple[int, ...] | None = None

    @classmethod
    def plain(cls, text: str) -> ArmSpec:
        """An initialisation as written, trained as the study says."""
        start = StartSpec.parse(text)
        return cls(start.label, start)

    @classmethod
    def parse(cls, name: str, table: Any) -> ArmSpec:
        """Read a table ``[arms.NAME]``: ``start``, and ``train``, ``tune`` and ``seeds`` if need be.

        Raises:
            SentinvError: If it has other keys, or its start cannot be what it is to be.
        """
        kinds = {"start": str, "train": Mapping, "tune": Mapping, "seeds": list}
        if (
            not isinstance(table, Mapping)
            or "start" not in table
            or not table.keys() <= kinds.keys()
            or not all(isinstance(one, kinds[key]) for key, one in table.items())
        ):
            raise SentinvError(
                f"[arms.{name}] must have a start, such as 'caption', and may have tables train and tune and a list of "
                f"seeds, got {table!r}"
            )
        seeds = table.get("seeds")
        if seeds is not None and (not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds)):
            raise SentinvError(f"[arms.{name}]: seeds must be whole numbers of at least 0, got {seeds!r}")
        start = StartSpec.parse(table["start"])
        if start.name in REFERENCES or name in REFERENCES:
            raise SentinvError(f"[arms.{name}]: {', '.join(REFERENCES)} train nothing: list them in starts")
        if "tune" in table and start.name in WORDLESS:
            raise SentinvError(
                f"[arms.{name}]: a LoRA needs words for the thing, and {start.name} has none: start from word or caption"
            )
        return cls(name, start, table.get("train", {}), table.get("tune"), None if seeds is None else tuple(seeds))


class Words:
    """What each initialisation says about each concept; pictures are described once.

    Args:
        concepts: all concepts of the study, in order.
        describers: initializers for `DESCRIBED`.
        tokenizer: of the model's first text encoder: it decides how many vectors words come to.
    """

    def __init__(self, concepts: Sequence[StudyConcept], describers: Mapping[str, Initializer], tokenizer: Any) -> None:
        self.concepts, self.describers, self.tokenizer = list(concepts), describers, tokenizer
        self._said: dict[tuple[str, str], str] = {}

    def of(self, spec: StartSpec, concept: StudyConcept, seed: int) -> str:
        """The words to start from; "" for a reference.

        Raises:
            SentinvError: If the picture can't be read, the initializer fails, or the concept lacks what is asked for.
        """
        match spec.name:
            case "vanilla":
                return "*"
            case "peer":
                return ""
            case "random":
                return self._random(1, concept, seed)
            case "phrase":
                return spec.argument
            case "word":
                return self._given(concept, "word", concept.word)
            case "human":
                return self._given(concept, "caption", concept.caption)
            case "stars":
                return " ".join("*" * self._count(spec, concept))
            case "random-words":
                return self._random(self._count(spec, concept), concept, seed)
            case "other-caption":
                return self._said_of("caption", self._next(concept))
            case name if name in REFERENCES:
                return ""
        return self._said_of(spec.name, concept)

    def _said_of(self, name: str, concept: StudyConcept) -> str:
        key = (name, concept.name)
        if key not in self._said:
            if name not in self.describers:
                raise SentinvError(f"the initialisation {name} needs an initializer, got none for it")
            self._said[key] = self.describers[name](read_image(concept.image).image).text
        return self._said[key]

    def _count(self, spec: StartSpec, concept: StudyConcept) -> int:
        return int(spec.argument) if spec.argument else len(plan(self._said_of("caption", concept), self.tokenizer).ids)

    def _random(self, count: int, concept: StudyConcept, seed: int) -> str:
        draws = Random(f"{concept.name} {seed}")  # noqa: S311 - nothing to guess
        return " ".join(draws.choices(whole_words(self.tokenizer), k=count))

    def _next(self, concept: StudyConcept) -> StudyConcept:
        if len(self.concepts) < 2:
            raise SentinvError("other-caption needs a second concept: give more images")
        return self.concepts[(self.concepts.index(concept) + 1) % len(self.concepts)]

    @staticmethod
    def _given(concept: StudyConcept, what: str, value: str) -> str:
        if not value:
            raise SentinvError(f"{concept.name} has no {what}: add one to the concepts file, or leave that start out")
        return value
