"""The words of initialisations that studies compare."""

from dataclasses import fields

import pytest
from judging import DESCRIBERS

from sentinv.bench.starts import StartSpec, Words
from sentinv.cli.studying import StudyOptions
from sentinv.concepts.initialization import Initialization
from sentinv.errors import SentinvError
from sentinv.initializers import INITIALIZERS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vanilla", "*"),
        ("word", "mug"),
        ("human", "a red mug"),
        ("class", "dog"),
        ("caption", "a blue striped dog"),
        ("phrase:a rainbow tail@50", "a rainbow tail"),
        ("stars", "* * * *"),
        ("stars:2", "* *"),
        ("other-caption", "a blue striped dog"),
        ("image-only", ""),
        ("targets-only", ""),
    ],
)
def test_words_of_starts(text, words, concepts, tokenizer):
    spec = StartSpec.parse(text)
    assert Words(concepts, DESCRIBERS, tokenizer).of(spec, concepts[0], seed=0) == words
    assert spec.steps == (50 if "@" in text else None)


def test_random_words_are_whole_words_as_many_as_the_caption_has_tokens(concepts, tokenizer):
    words = Words(concepts, DESCRIBERS, tokenizer)
    for text, count in (("random", 1), ("random-words", 4), ("random-words:3", 3)):
        spec = StartSpec.parse(text)
        drawn = words.of(spec, concepts[0], seed=1)
        assert len(tokenizer(drawn, add_special_tokens=False).input_ids) == count
        assert drawn == words.of(spec, concepts[0], seed=1)
        assert drawn != words.of(spec, concepts[1], seed=1)
    drawn = {words.of(StartSpec.parse("random-words"), concepts[0], seed) for seed in range(5)}
    assert len(drawn) > 1


def test_a_picture_is_described_once(concepts, tokenizer):
    calls = []
    describers = {"caption": lambda image: calls.append(1) or Initialization("a dog")}
    words = Words(concepts, describers, tokenizer)
    for name in ("caption", "stars", "random-words"):
        words.of(StartSpec.parse(name), concepts[0], 0)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "text", ["nonsense", "phrase", "phrase:", "stars:0", "stars:x", "vanilla:1", "caption@", "@5", ""]
)
def test_unknown_starts_are_one_line(text):
    with pytest.raises(SentinvError, match="initialisation") as error:
        StartSpec.parse(text)
    assert "\n" not in str(error.value)


def test_dropped_words_are_dropped_by_the_captioner(monkeypatch):
    asked = []
    monkeypatch.setitem(INITIALIZERS, "caption", lambda options: asked.append(options) or (lambda image: "a dog"))
    options = StudyOptions(**{**dict.fromkeys(field.name for field in fields(StudyOptions)), "model": "toybox"})
    for name in ("caption", "caption-no-stopwords", "caption-no-scene"):
        assert options.describers()[name](None) == "a dog"
    assert [(options.drop_stopwords, options.drop_scene) for options in asked] == [
        (False, False),
        (True, False),
        (False, True),
    ]
