"""Pictures from a prompt, for the page: saved in the folder as they are made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sentinv.concepts.concept import Concept
from sentinv.concepts.prompts import check_text
from sentinv.errors import PromptError, SentinvError
from sentinv.generation.generate import GenerateConfig, generate, generate_images

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.ui.engine import Engine
    from sentinv.ui.folder import Folder

MOST_PICTURES, MOST_STEPS, MOST_SEEDS = 16, 200, 2**53 - 1 - 16  # what a browser can count to
_MOST_CHARACTERS = 1000
_PLACEHOLDER = re.compile(r"<[\w.-]+>")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is to be drawn.

    Attributes:
        prompt: what to show; learned words in it as ``<cat>``.
        model: to draw with.
        count: how many, in [1, `MOST_PICTURES`].
        seed: of the first, in [0, `MOST_SEEDS`].
        steps: of sampling, in [1, `MOST_STEPS`].
        guidance: how strongly words lead, in [0, 30]; None is the model's own.
        negative: what to lead away from.

    Raises:
        SentinvError: If a value is out of its range.
    """

    prompt: str
    model: str
    count: int = 4
    seed: int = 0
    steps: int = 25
    guidance: float | None = None
    negative: str = ""

    def __post_init__(self) -> None:
        for text in (self.prompt, self.negative):
            if len(check_text(text)) > _MOST_CHARACTERS:
                raise PromptError(f"expected at most {_MOST_CHARACTERS} characters, got {len(text)}: say it shorter")
        if not self.prompt.strip():
            raise PromptError("Say first what to draw.")
        _in_range("The number of pictures", self.count, 1, MOST_PICTURES)
        _in_range("The seed", self.seed, 0, MOST_SEEDS)
        _in_range("The number of steps", self.steps, 1, MOST_STEPS)
        _in_range("The strength of the words", 1 if self.guidance is None else self.guidance, 0, 30)


def _in_range(what: str, value: float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise SentinvError(f"{what} must be between {low} and {high}.")


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture that was made.

    Attributes:
        name: of its file among the folder's pictures.
        image: RGB.
        seed: of its noise.
    """

    name: str
    image: Image.Image
    seed: int


def words_of(text: str, folder: Folder) -> list[Concept]:
    """The learned words that a prompt names.

    Raises:
        PromptError: If it names one that is not in the folder, or that is there twice.
    """
    known: dict[str, Concept] = {}
    for word in folder.words():
        known.setdefault(word.concept.token, word.concept)
    names = list(dict.fromkeys(_PLACEHOLDER.findall(text)))
    found = {name: known.get(name) or known.get(re.sub(r"_\d+>$", ">", name)) for name in names}
    missing = next((name for name, concept in found.items() if concept is None), None)
    if missing is not None:
        there = ", ".join(list(known)[:8]) or "none yet"
        raise PromptError(f"There is no learned word {missing} in the folder. Its words: {there}.")
    return list({concept.token: concept for concept in found.values() if concept is not None}.values())


def draw(engine: Engine, folder: Folder, wish: Drawing) -> Iterator[Drawn]:
    """Make pictures and save them, as they come; whoever asks has the turn.

    Raises:
        SentinvError: If the prompt, a word or the model cannot be used, or the folder cannot be written to.
    """
    concepts = words_of(wish.prompt + " " + wish.negative, folder)
    backbone = engine.backbone(wish.model)
    guidance = backbone.guidance_scale if wish.guidance is None else wish.guidance
    config = GenerateConfig(steps=wish.steps, guidance_scale=guidance, negative_prompt=wish.negative, batch_size=2)
    facts = {
        "prompt": wish.prompt,
        "negative": wish.negative,
        "concepts": {concept.token: concept.metadata.get("sentinv.initial_text", "") for concept in concepts},
        "model": backbone.name,
        "model_hash": backbone.fingerprint,
        "sampler": "DDIM",
        "steps": wish.steps,
        "guidance_scale": guidance,
    }
    made = generate_images(backbone, wish.prompt, concepts, count=wish.count, seed=wish.seed, config=config)
    for one in made:
        text = {"sentinv": json.dumps(facts | {"seed": one.seed})}
        name = folder.new_picture(f"{slug(wish.prompt)}-seed-{one.seed}", one.image, text)
        yield Drawn(name, one.image, one.seed)


def sketch(engine: Engine, words: str, model: str, count: int) -> Sequence[Image.Image]:
    """Draw what the model makes of words alone; whoever asks has the turn."""
    prompt = Drawing(prompt=f"a photo of {words}", model=model).prompt
    return generate(engine.backbone(model), prompt, count=count, config=GenerateConfig(steps=20, batch_size=count))


def slug(prompt: str) -> str:
    """Make a file's name of a prompt: "a photo of <cat>!" → "a-photo-of-cat"."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:48].strip("-") or "picture"
