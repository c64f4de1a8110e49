"""Images that show what a training has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sentinv.generation.generate import GenerateConfig, Progress, generate

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.models.backbone import Backbone
    from sentinv.training.invert import Learned

PROMPTS = {"object": "a photo of {}", "style": "a painting in the style of {}"}
"""Kind of concept → what is shown of it."""

SAMPLING = GenerateConfig(steps=30)


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


def prompt_of(learned: Learned) -> str:
    """What is shown of a learned word."""
    return PROMPTS[learned.config.kind].replace("{}", learned.concept.token)


def sampling_steps(count: int) -> int:
    """Steps that `sample_images` takes in all for so many images."""
    return 2 * SAMPLING.steps * -(-count // SAMPLING.batch_size)


def sample_images(backbone: Backbone, learned: Learned, count: int, on_step: Progress | None = None) -> Samples:
    """Make images from the start and from what was learned; the first seed is that of the training.

    Args:
        backbone: the model.
        learned: the word.
        count: images of each, ≥ 0.
        on_step: called after every step with (steps done, steps in all), over all images.

    Raises:
        ModelError: If the model cannot make any.
    """
    prompt, total = prompt_of(learned), sampling_steps(count)
    if not count:
        return Samples(prompt=prompt)
    strips = []
    for half, concept in enumerate((replace(learned.concept, rows=learned.start.rows), learned.concept)):
        told = None if on_step is None else lambda done, _, half=half: on_step(half * total // 2 + done, total)
        strips.append(
            generate(backbone, prompt, [concept], count=count, seed=learned.config.seed, config=SAMPLING, on_step=told)
        )
    return Samples(prompt=prompt, before=strips[0], after=strips[1])
