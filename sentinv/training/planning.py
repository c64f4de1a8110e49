"""What a run would do, told without loading the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sentinv.concepts.initialization import Initialization, check_fit, plan
from sentinv.concepts.names import check_free
from sentinv.concepts.prompts import TEMPLATES, fill
from sentinv.models.loading import load_tokenizers, text_widths
from sentinv.training.memory import training_memory

if TYPE_CHECKING:
    from sentinv.files.decoding import Picture
    from sentinv.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run that has not begun.

    Attributes:
        model: its name.
        images: how many.
        mask: whether one of them has a mask.
        initializer: who said the words.
        score: how sure it was; None if it does not say.
        text: the words that would be used.
        dropped: the words that would be cut off for want of room.
        tokens: what each vector would start from.
        vectors: how many.
        token: the placeholder.
        templates: prompts of the training.
        steps: of the training.
        batch_size: of each step.
        learning_rate: at its highest.
        memory: bytes of "weights", "activations" and "total"; None where it cannot be told.
    """

    model: str
    images: int
    mask: bool
    initializer: str
    score: float | None
    text: str
    dropped: str
    tokens: list[str]
    vectors: int
    token: str
    templates: list[str]
    steps: int
    batch_size: int
    learning_rate: float
    memory: dict[str, int] | None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which model, and where it would run.

    Attributes:
        model: as `sentinv.load` takes it.
        device: the best there is if None.
        dtype: "float32", "float16" or "bfloat16"; the device's if None.
    """

    model: str
    device: str | None = None
    dtype: str | None = None


def plan_run(
    place: Place,
    pictures: Sequence[Picture],
    said: Initialization,
    config: TrainConfig,
    *,
    token: str,
    max_vectors: int | None = None,
) -> RunPlan:
    """Plan a run; what the run would refuse is refused.

    Args:
        place: the model.
        pictures: to learn from.
        said: words, or a concept to continue.
        config: of the training.
        token: the placeholder.
        max_vectors: the most vectors there may be; None for no limit.

    Raises:
        PromptError: If the placeholder is taken, or there is nothing to start from.
        ConceptError: If a continued concept does not fit the model.
        ModelError: If tokenizer or configs cannot be loaded.
    """
    tokenizer = load_tokenizers(place.model)[0]
    check_free(token, tokenizer.get_vocab())
    if said.concept and (widths := text_widths(place.model)):
        check_fit(said.concept, widths, place.model, max_vectors)
    found = None if said.concept else plan(said.text, tokenizer, max_vectors)
    tokens = list(found.tokens) if found else said.concept.vector_names if said.concept else []
    return RunPlan(
        model=place.model,
        images=len(pictures),
        mask=any(picture.mask is not None for picture in pictures),
        initializer=said.source,
        score=said.score,
        text=found.text if found else said.text,
        dropped=found.dropped if found else "",
        tokens=tokens,
        vectors=len(tokens),
        token=token,
        templates=[fill(template, token) for template in config.templates or TEMPLATES[config.kind]],
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        memory=training_memory(place.model, config, place.dtype, place.device),
    )
