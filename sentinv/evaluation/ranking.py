"""Which of several images follows its prompt best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.concepts.concept import Concept
    from sentinv.evaluation.judges import ClipJudge


def prompt_scores(
    judge: ClipJudge, images: Sequence[Image.Image], prompt: str, concepts: Sequence[Concept] = ()
) -> list[float]:
    """Cosine of each image and the prompt by CLIP, in [-1, 1]; larger is better.

    CLIP knows no learned word: it reads the words that the word started from.

    Args:
        judge: CLIP.
        images: N of them, ≥ 1.
        prompt: what they were to show.
        concepts: the learned words in it.
    """
    for concept in concepts:
        known = concept.thing.replace("*", "").strip()
        prompt = prompt.replace(concept.token, known)
    return (judge.images(images) @ judge.texts([" ".join(prompt.split())])[0]).tolist()


def ranking(scores: Sequence[float]) -> list[int]:
    """Indices of scores, the best first; equal ones stay in their order."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])
