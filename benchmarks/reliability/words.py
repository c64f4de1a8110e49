"""R14: properties of placeholders, captions and prompts that name several concepts, on whatever text there is.

python benchmarks/reliability/words.py [--examples 10000]
"""

import argparse
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from kit import report
from tiny import backbone

from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization, plan, starting_rows
from sentinv.concepts.names import check_free, check_token
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.concepts.prompts import OBJECT_TEMPLATES, STYLE_TEMPLATES, fill
from sentinv.concepts.tokens import padded_ids, token_ids
from sentinv.errors import ConceptError, PromptError
from sentinv.models.backbone import Backbone
from sentinv.models.text_encoder import TextEncoder

NAMES = st.from_regex(r"<[a-z0-9][a-z0-9_.-]{0,12}>", fullmatch=True)
ANYTHING = st.text(st.characters(), max_size=80)
NO_TEXT = st.text(st.sampled_from("a c\udcff\ud800"), max_size=9)  # as the shell hands over bytes that are not UTF-8
NEAR = st.text(st.sampled_from("<>|abcABC019_.- \t\n'é猫\0{}/"), max_size=20)
WORDS = st.lists(
    st.sampled_from(["a", "photo", "red", "Cat", "striped", "日本", "🙂", "it's", "<|endoftext|>"]), max_size=60
)
CAPTIONS = ANYTHING | NO_TEXT | NEAR | WORDS.map(" ".join)


@cache
def model() -> Backbone:
    """Made once."""
    return backbone()


def encoder() -> TextEncoder:
    """Its text encoder."""
    return model().text_encoders[0]


def rows(count: int) -> dict[str, torch.Tensor]:
    """Rows of a concept."""
    return {"text_encoder": torch.full((count, encoder().dim), 0.1)}


def told(error: Exception) -> None:
    """Hold an error to one line that can be shown."""
    assert str(error).isprintable() and len(str(error)) > 20, repr(str(error))


@given(NAMES | ANYTHING | NO_TEXT | NEAR)
def names(name: str) -> None:
    """Whatever is asked for as a placeholder is refused in one line, or stands for exactly its vectors in every template."""
    try:
        check_token(name)
    except PromptError as error:
        told(error)
        check_token(str(error).split("use '")[-1].removesuffix("'"))
        return
    vocabulary = {name: [-1, -2, -3]}
    for template in (*OBJECT_TEMPLATES, *STYLE_TEMPLATES):
        before, after = template.split("{}")
        ids = token_ids(fill(template, name), encoder(), vocabulary)
        assert ids == [*encoder().text_ids(before), -1, -2, -3, *encoder().text_ids(after)]


@given(st.integers(0, 10**6), st.sampled_from(["", "<", ">", "<>"]))
def taken(number: int, brackets: str) -> None:
    """No entry of a vocabulary is accepted as a new placeholder, nor is the entry that a name's second vector would be."""
    entries = sorted(encoder().vocabulary)
    entry = entries[number % len(entries)]
    name = f"<{entry}>" if brackets == "<>" else brackets + entry
    for vocabulary in ({**encoder().vocabulary, name: 1}, {f"{name}_1": 1}, {f"{name}</w>": 1}):
        try:
            check_free(name, vocabulary)
        except PromptError as error:
            told(error)
        else:
            raise AssertionError(f"{name} was accepted")


@given(CAPTIONS, st.integers(1, 60))
def captions(text: str, most: int) -> None:
    """A caption gives as many vectors as it has tokens, cut at a word; what is cut is named; none is lost in between."""
    tokenizer = encoder().tokenizer
    try:
        found = plan(text, tokenizer, most)
    except PromptError as error:
        told(error)
        return
    assert 0 < len(found.ids) == len(found.tokens) <= min(most, encoder().max_length - 2)
    assert f"{found.text} {found.dropped}".split() == text.split()
    start = starting_rows(Initialization(found.text), model(), most)
    assert start.count == len(found.ids) and bool(start.rows["text_encoder"].isfinite().all())


@given(CAPTIONS, CAPTIONS, st.integers(1, 40))
def prompts(before: str, after: str, count: int) -> None:
    """In a prompt of any text and length a placeholder is whole, once, in order; or the prompt is refused in one line.

    With a number behind it (``<c>_1``) it is that vector alone.
    """
    assume("<c>" not in before + after and "<c>" not in before[-3:] + "<c>"[:-1])
    ids = [-1 - index for index in range(count)]
    try:
        (got,) = padded_ids([f"{before}<c>{after}"], encoder(), {"<c>": ids}).tolist()
    except PromptError as error:
        told(error)
        return
    single = re.match(r"_(\d+)", after)
    assert [index for index in got if index < 0] == (ids if single is None else [ids[int(single[1])]])
    assert got[0] == encoder().bos_id and len(got) == encoder().max_length


@given(st.lists(st.tuples(NAMES, st.integers(1, 4)), min_size=1, max_size=6), st.randoms())
def composed(parts: list[tuple[str, int]], chance: Any) -> None:
    """Concepts in one prompt keep their own vectors, in any order; two of one name are refused."""
    concepts = [Concept(token=name, rows=rows(count)) for name, count in parts]
    try:
        joined = PlaceholderRows.of_concepts(concepts)
    except ConceptError as error:
        told(error)
        assert len(dict(parts)) < len(parts)
        return
    assert len(dict(parts)) == len(parts)
    vocabulary = joined.vocabulary
    assert sorted(index for ids in vocabulary.values() for index in ids) == list(range(-sum(dict(parts).values()), 0))
    chance.shuffle(parts)
    ids = token_ids(" ".join(name for name, _ in parts), encoder(), vocabulary)
    assert ids == [index for name, _ in parts for index in vocabulary[name]]


PROPERTIES: dict[str, Callable[[], None]] = {
    "names": names,
    "taken": taken,
    "captions": captions,
    "prompts": prompts,
    "composed": composed,
}


def hold(name: str, examples: int) -> None:
    """Try a property on so many examples.

    Raises:
        AssertionError: Or whatever else a counterexample raises.
    """
    quiet = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet(PROPERTIES[name])()


def main() -> None:
    """All of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000)
    examples = parser.parse_args().examples
    torch.set_num_threads(1)
    failures = {}
    for name in PROPERTIES:
        try:
            hold(name, examples)
        except Exception:
            failures[name] = traceback.format_exc()[-2000:]
            print(failures[name], file=sys.stderr)
    line = f"{len(PROPERTIES)} properties, {examples} examples each: {len(failures)} failures"
    report("words", line, properties=list(PROPERTIES), failures=failures)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
