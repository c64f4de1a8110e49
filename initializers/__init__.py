"""Initializers: callables that look at an image and say in words where its placeholder should start.

    from sentinv.initializers import make

    make("caption", "toybox")(image)

Here is the table of those that have a name on the command line. Any other callable works as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentinv.concepts.initialization import Initializer


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the initializers of the table can be told.

    Attributes:
        base_model: the model that the word is for: it decides on captioner, classifier and vocabulary.
        captioner: folder or hub id of another captioner.
        classifier: folder or hub id of another classifier.
        word: for "word".
        phrase: for "phrase".
        concept: file, for "concept".
        drop_stopwords: for "caption".
        drop_scene: for "caption".
        seed: for "random".
        device: where captioner and classifier look at images; the best there is if None.
        fallback: where the captioner is not sure, ask the classifier, and where that is not sure either, start from the caption
            all the same; where only the classifier was asked, from ``*``.
    """

    base_model: str = "toybox"
    captioner: str | None = None
    classifier: str | None = None
    word: str = ""
    phrase: str = ""
    concept: Path | None = None
    drop_stopwords: bool = False
    drop_scene: bool = False
    seed: int = 0
    device: str | None = None
    fallback: bool = True


def _caption(options: Options) -> Initializer:
    from sentinv.initializers.caption import Caption
    from sentinv.models.names import eye

    model = options.captioner or eye("captioner", options.base_model)
    chosen = {"drop_stopwords": options.drop_stopwords, "drop_scene": options.drop_scene}
    otherwise = _class(replace(options, fallback=False)) if options.fallback else None
    return Caption(model, **chosen, device=options.device, otherwise=otherwise)


def _class(options: Options) -> Initializer:
    from sentinv.initializers.class_ import ClassLabel
    from sentinv.initializers.vanilla import Vanilla
    from sentinv.models.names import eye

    model = options.classifier or eye("classifier", options.base_model)
    return ClassLabel(model, device=options.device, otherwise=Vanilla() if options.fallback else None)


def _word(options: Options) -> Initializer:
    from sentinv.initializers.word import Word

    return Word(options.word)


def _phrase(options: Options) -> Initializer:
    from sentinv.initializers.phrase import Phrase

    return Phrase(options.phrase)


def _vanilla(options: Options) -> Initializer:
    from sentinv.initializers.vanilla import Vanilla

    return Vanilla()


def _random(options: Options) -> Initializer:
    from sentinv.concepts.initialization import whole_words
    from sentinv.initializers.random import RandomWord
    from sentinv.models.loading import load_tokenizers

    return RandomWord(lambda: whole_words(load_tokenizers(options.base_model)[0]), options.seed)


def _concept(options: Options) -> Initializer:
    from sentinv.initializers.concept import Continue

    if options.concept is None:
        raise ValueError("the initializer 'concept' needs the file of one")
    return Continue(options.concept)


INITIALIZERS: dict[str, Callable[[Options], Initializer]] = {
    "caption": _caption,
    "class": _class,
    "word": _word,
    "phrase": _phrase,
    "vanilla": _vanilla,
    "random": _random,
    "concept": _concept,
}
"""Name → how it is made. Nothing is loaded until the initializer is called."""


def make(name: str, base_model: str = "toybox", **options: Any) -> Initializer:
    """Make an initializer of the table.

    Args:
        name: a key of `INITIALIZERS`.
        base_model: the model that the word is for.
        **options: further fields of `Options`.

    Raises:
        ValueError: If there is no initializer of that name.
    """
    if name not in INITIALIZERS:
        raise ValueError(f"expected one of {', '.join(INITIALIZERS)}, got {name!r}")
    return INITIALIZERS[name](Options(base_model=base_model, **options))
