"""A captioner's sentence: it names the thing and how it looks, one vector per token."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

from PIL import Image

from sentinv.concepts.initialization import Initialization
from sentinv.concepts.scenes import without_scene
from sentinv.models.names import EYES
from sentinv.models.parts import load_part

_LEAD = re.compile(
    r"^(?:there is |this is )?(?:(?:an?|the) )?"
    r"(?:close[ -]up|(?:close[ -]up )?(?:picture|photo|photograph|photography|image)) of "
)
_REPEATED = re.compile(r"\b(\w+(?: \w+){0,3})(?: (?:and )?\1\b)+")
_STOPWORDS = re.compile(
    r"\b(?:an?|the|this|that|these|those|some|its|his|her|their|of|with|and|or|in|on|at|to|by|for|from|as"
    r"|is|are|be|been|has|have|had|it|there|which|who)\b"
)


class Caption:
    """Let a BLIP model describe the image (Li et al. 2022, arXiv:2201.12086).

    Args:
        model: folder or hub id of a `BlipForConditionalGeneration`, loaded on first use.
        drop_stopwords: leave out words that name nothing ("a", "of", "with").
        drop_scene: leave out where the thing is ("on the beach").

    Raises:
        ModelError: When called, if the model cannot be loaded.
    """

    def __init__(
        self, model: str = EYES["captioner"], *, drop_stopwords: bool = False, drop_scene: bool = False
    ) -> None:
        self.model = model
        self.drop_stopwords = drop_stopwords
        self.drop_scene = drop_scene

    def __call__(self, image: Image.Image) -> Initialization:
        """Describe an image; the score is the mean log-probability of the sentence's tokens."""
        import torch

        model, processor = self._loaded
        inputs = processor(images=image.convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            output = model.generate(
                **inputs, max_new_tokens=32, do_sample=False, output_scores=True, return_dict_in_generate=True
            )
        sentence = processor.tokenizer.decode(output.sequences[0], skip_special_tokens=True)
        logprobs = [step[0].log_softmax(-1).max().item() for step in output.scores]
        text = tidy(sentence, drop_stopwords=self.drop_stopwords, drop_scene=self.drop_scene)
        return Initialization(text, "caption", sum(logprobs) / max(1, len(logprobs)))

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import BlipForConditionalGeneration, BlipProcessor

        model = load_part(
            self.model,
            "captioner",
            lambda: BlipForConditionalGeneration.from_pretrained(self.model, dtype=torch.float32).eval(),
        )
        return model, load_part(self.model, "processor", lambda: BlipProcessor.from_pretrained(self.model))


def tidy(sentence: str, *, drop_stopwords: bool = False, drop_scene: bool = False) -> str:
    """Make a captioner's sentence fit for a start.

    A leading "a photo of" says nothing about the thing and goes; what names a style ("a pencil sketch of") stays. Words
    and short phrases that captioners repeat are said once.
    """
    text = " ".join(re.sub(r"\[dec\]|[.,;:!?\"]", " ", sentence.lower()).split())
    text = _REPEATED.sub(r"\1", _LEAD.sub("", text))
    if drop_scene:
        text = without_scene(text)
    if drop_stopwords:
        text = " ".join(_STOPWORDS.sub(" ", text).split()) or text
    return text
