"""Images that show what a training has changed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sentinv.adapters.install import adapted
from sentinv.generation.generate import Progress, generate, generate_beside
from sentinv.training.memory import PAIRS, SAMPLING

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.adapters.lora import Lora
    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone
    from sentinv.training.invert import Learned
    from sentinv.training.tune import Tuned

PROMPTS = {"object": "a photo of {}", "style": "a painting in the style of {}"}
"""Kind of concept → what is shown of it."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The same images, by prompt and seeds, without the training and with it.

    Attributes:
        prompt: of all of them.
        before: from the rows that training started from; may be empty.
        after: from the learned rows, as many.
    """

    prompt: str
    before: Sequence[Image.Image] = ()
    after: Sequence[Image.Image] = ()


def prompt_of(learned: Learned | Tuned) -> str:
    """What is shown of a learned word."""
    return PROMPTS[learned.config.kind].replace("{}", learned.concept.token)


def sampling_steps(count: int) -> int:
    """Steps that `sample_images` takes in all for so many images of each."""
    return SAMPLING.steps * -(-count // PAIRS)


def tuned_sampling_steps(count: int, *, alone: bool = True) -> int:
    """Steps that `tuned_samples` takes in all for so many images of each, or of those with the LoRA."""
    return (1 + alone) * SAMPLING.steps * -(-count // SAMPLING.batch_size)


def sample_images(backbone: Backbone, learned: Learned, count: int, on_step: Progress | None = None) -> Samples:
    """Make images from the start and from what was learned, both in one batch; the first seed is that of the training.

    Args:
        backbone: the model.
        learned: the word.
        count: images of each, ≥ 0.
        on_step: called after every step with (steps done, steps in all), over all images.

    Raises:
        ModelError: If the model cannot make any.
    """
    prompt = prompt_of(learned)
    if not count:
        return Samples(prompt=prompt)
    concepts = replace(learned.concept, rows=learned.start.rows), learned.concept
    config = replace(SAMPLING, batch_size=PAIRS)
    before, after = generate_beside(
        backbone, prompt, concepts, count=count, seed=learned.config.seed, config=config, on_step=on_step
    )
    return Samples(prompt=prompt, before=before, after=after)


def tuned_samples(
    backbone: Backbone, tuned: Tuned, count: int, on_step: Progress | None = None, alone: Samples | None = None
) -> Samples:
    """Make images of a word alone and with its LoRA. Otherwise as `sample_images`.

    Args:
        backbone: the model.
        tuned: the word and the LoRA.
        count: images of each, ≥ 0.
        on_step: as for `sample_images`.
        alone: those of the word, by the same prompt and seed: so many are not made again.
    """
    prompt = prompt_of(tuned)
    if not count:
        return Samples(prompt=prompt)
    strips = [alone.after] if alone is not None and len(alone.after) == count else []
    pairs: tuple[tuple[Concept, list[Lora]], ...] = ((tuned.before, []), (tuned.concept, [tuned.lora]))
    total = tuned_sampling_steps(count, alone=not strips)
    for half, (concept, loras) in enumerate(pairs[len(strips) :]):
        begun = half * total // 2
        told = None if on_step is None else lambda done, _, begun=begun: on_step(begun + done, total)
        with adapted(backbone, loras) if loras else nullcontext():
            strips.append(
                generate(
                    backbone, prompt, [concept], count=count, seed=tuned.config.seed, config=SAMPLING, on_step=told
                )
            )
    return Samples(prompt=prompt, before=strips[0], after=strips[1])
