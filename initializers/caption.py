"""A captioner's sentence: it names the thing and how it looks, one vector per token."""

from __future__ import annotations

import html
import re
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from PIL import Image

from sentinv.concepts.initialization import Initialization, Initializer
from sentinv.concepts.scenes import without_scene
from sentinv.models.eyes import load_eye, look
from sentinv.models.names import EYES

_LEAD = re.compile(
    r"^(?:there is |this is )?(?:(?:an?|the) )?"
    r"(?:close[ -]up|(?:close[ -]up )?(?:picture|photo|photograph|photography|image)) of "
)
_NOISE = (
    (r"\bara(?:f|ff|ft)(?:e|ed|ing)?\b", ""),  # a word that BLIP made up
    (r"^(?:there (?:is|are)|this is|these are|it is|it's|here is) ", ""),
    (r"(?: (?:that|which|who|is|are|was|has|with|of|and|in|on|at|a|an|the))+$", ""),  # what a captioner did not end
)
"""Pattern → what stands in its place."""
_REPEATED = re.compile(r"\b(\w+(?: \w+){0,3})(?: (?:and )?\1\b)+")
_STOPWORDS = re.compile(
    r"\b(?:an?|the|this|that|these|those|some|its|his|her|their|of|with|and|or|in|on|at|to|by|for|from|as"
    r"|is|are|be|been|has|have|had|it|there|which|who)\b"
)


class Caption:
    """Let a BLIP model describe the image (Li et al. 2022, arXiv:2201.12086).

    Args:
        model: folder or hub id of a `BlipForConditionalGeneration` (or folder of a `ResidualBlip`), loaded on first use.
        drop_stopwords: leave out words that name nothing ("a", "of", "with").
        drop_scene: leave out where the thing is ("on the beach").
        device: where it looks at images; the best there is if None. It leaves no memory there.
        otherwise: asked, with a warning, where the captioner is not sure: where the score is below its config's
            ``unsure_below``. One whose config says nothing of that is always sure.

    Raises:
        ModelError: When called, if the model cannot be loaded.
    """

    def __init__(
        self,
        model: str = EYES["captioner"],
        *,
        drop_stopwords: bool = False,
        drop_scene: bool = False,
        device: str | None = None,
        otherwise: Initializer | None = None,
    ) -> None:
        self.model = model
        self.drop_stopwords = drop_stopwords
        self.drop_scene = drop_scene
        self.device = device
        self.otherwise = otherwise

    def __call__(self, image: Image.Image) -> Initialization:
        """Describe an image; the score is the mean log-probability of the sentence's tokens."""
        return self.several([image])[0]

    def several(self, images: Sequence[Image.Image]) -> list[Initialization]:
        """Describe images, all in one pass."""
        import torch

        model, processor = self._loaded
        inputs = processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        how = {"max_new_tokens": 32, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
        output = look(model, self.device, lambda device: model.generate(**inputs.to(device), **how), "give a --phrase")
        logprobs = torch.stack([step.log_softmax(-1).max(-1).values for step in output.scores], 1).tolist()
        ends = model.config.text_config.sep_token_id
        said = [self._said(*own, ends) for own in zip(output.sequences.tolist(), logprobs, strict=True)]
        limit = getattr(model.config, "unsure_below", None)
        return [believed(one, image, limit, self.otherwise) for one, image in zip(said, images, strict=True)]

    def _said(self, sequence: list[int], logprobs: list[float], ends: int) -> Initialization:
        own = sequence[-len(logprobs) :] if logprobs else []  # what was begun with has no probability
        count = own.index(ends) + 1 if ends in own else len(own)
        _, processor = self._loaded
        sentence = processor.tokenizer.decode(sequence, skip_special_tokens=True)
        text = tidy(sentence, drop_stopwords=self.drop_stopwords, drop_scene=self.drop_scene)
        return Initialization(text, "caption", sum(logprobs[:count]) / max(1, count))

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import BlipForConditionalGeneration, BlipProcessor

        otherwise = "go online, name a folder with --captioner, or give words with --phrase, which needs no captioner"
        return load_eye(self.model, "captioner", BlipForConditionalGeneration, BlipProcessor, otherwise=otherwise)


def believed(
    said: Initialization, image: Image.Image, limit: float | None, otherwise: Initializer | None
) -> Initialization:
    """What is started from: what was said, or where its score is below the limit what another initializer is sure of.

    Where neither is sure it is what was said first: what is learned from a guess is nearer to the thing than what is learned
    from ``*``, if not recognised more often (`benchmarks/README.md`).

    Args:
        said: words with a score.
        image: that is looked at.
        limit: of the score; None if the model names none.
        otherwise: the other initializer; None if there is none.

    Raises:
        SentinvError: As the other initializer.
    """
    if limit is None or said.score is None or said.score >= limit:
        return said
    said = replace(said, sure=False)
    if otherwise is None:
        return said
    other = otherwise(image)
    if not other.sure:
        chosen, start = said, f"it all the same: the {other.source} {other.text!r} is not sure either"
    else:
        chosen, start = other, other.text if other.source == "vanilla" else f"the {other.source} {other.text!r}"
    warnings.warn(
        f"not sure of the {said.source} {said.text!r} (score {said.score:.2f}, believed from {limit:.2f}): starts from "
        f"{start}; --word or --phrase says what it is",
        stacklevel=4,
    )
    return chosen


def characters(text: str) -> str:
    """Text as it is read: "&amp;" as "&", and a letter with its accent as one character (Unicode's NFC).

    Captioners learned from pages of the web, and their tokenizers take entities apart: "& amp ;".
    """
    joined = re.sub(r"&\s*(#?)\s*(\w+)\s*;", r"&\1\2;", text)
    return unicodedata.normalize("NFC", html.unescape(html.unescape(joined)))


def tidy(sentence: str, *, drop_stopwords: bool = False, drop_scene: bool = False) -> str:
    """Make a captioner's sentence fit for a start.

    HTML's entities and accents that stand beside their letters become characters. A leading "a photo of" or "there is" says
    nothing about the thing and goes; what names a style ("a pencil sketch of") stays. Words and short phrases that captioners
    repeat are said once, ends left open ("that is") and made-up words ("arafed") are left out.
    """
    text = characters(re.sub(r"&\s*(#?\w+)\s*;", r"&\1;", sentence)).lower()
    text = " ".join(re.sub(r"\[dec\]|[.,;:!?\"<>]", " ", text).split())
    text = _REPEATED.sub(r"\1", _LEAD.sub("", text))
    for pattern, plain in _NOISE:
        left = " ".join(re.sub(pattern, plain, text).split())
        text = left if _STOPWORDS.sub("", left).strip() else text
    if drop_scene:
        text = without_scene(text)
    if drop_stopwords:
        text = " ".join(_STOPWORDS.sub(" ", text).split()) or text
    return text
