"""What a run would do, told without loading the model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from sentinv.concepts.initialization import Initialization, Plan, check_fit, plan
from sentinv.concepts.names import check_free
from sentinv.concepts.prompts import TEMPLATES, fill
from sentinv.concepts.tokens import padded_ids
from sentinv.models.loading import load_tokenizers, text_widths
from sentinv.models.names import Place
from sentinv.models.text_encoder import TextEncoder
from sentinv.training.fitting import Fit, fit
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
        batch_size: items of each step that show the picture as it is.
        blended: those that name a scene.
        learning_rate: at its highest, in words.
        memory: bytes of "weights", "activations", "images" and "total".
        fit: whether there is room for it.
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
    blended: int
    learning_rate: str
    memory: dict[str, int]
    fit: Fit


def plan_run(
    place: Place,
    pictures: Sequence[Picture],
    said: Initialization,
    config: TrainConfig,
    *,
    token: str,
    max_vectors: int | None = None,
    images: bool = True,
) -> RunPlan:
    """Plan a run; what the run would refuse is refused.

    Args:
        place: the model.
        pictures: to learn from.
        said: words, or a concept to continue.
        config: of the training.
        token: the placeholder.
        max_vectors: the most vectors there may be; None for no limit.
        images: whether images are drawn for a report.

    Raises:
        PromptError: If the placeholder is taken, or there is nothing to start from.
        ConceptError: If a continued concept does not fit the model.
        ModelError: If tokenizer or configs cannot be loaded.
    """
    found = check_run(place, said, config, token=token, max_vectors=max_vectors)
    memory = training_memory(place, config, images=images)
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
        blended=config.blended,
        learning_rate=config.rate_in_words(place.model),
        memory=memory,
        fit=fit(place, config, memory, images=images),
    )


def check_run(
    place: Place, said: Initialization, config: TrainConfig, *, token: str, max_vectors: int | None = None
) -> Plan | None:
    """Refuse, before a model is loaded, what its training would refuse.

    Args:
        place: the model.
        said: words, or a concept to continue.
        config: of the training.
        token: the placeholder.
        max_vectors: the most vectors there may be; None for no limit.

    Returns:
        What the words come to for the first tokenizer; None for a continued concept.

    Raises:
        PromptError: If the placeholder is taken, there is nothing to start from, or templates leave no room for its vectors.
        ConceptError: If a continued concept does not fit the model.
        ModelError: If tokenizer or configs cannot be loaded.
    """
    tokenizers = load_tokenizers(place.model)
    if said.concept:
        check_fit(said.concept, text_widths(place.model), place.model, max_vectors)
    found = None
    for tokenizer in reversed(tokenizers):
        check_free(token, tokenizer.get_vocab())
        found = None if said.concept else plan(said.text, tokenizer, max_vectors)
        count = len(found.ids) if found else said.concept.count if said.concept else 0
        limits = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=tokenizer.model_max_length))
        prompts = [fill(template, token) for template in config.templates or TEMPLATES[config.kind]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of templates that are cut behind the placeholder the run warns
            padded_ids(prompts, TextEncoder("", tokenizer, limits), {token: [-1 - index for index in range(count)]})
    return found
