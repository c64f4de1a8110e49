"""How generated images are measured: against the concept's own pictures, and what was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from sentinv.concepts.concept import Concept
from sentinv.concepts.prompts import fill
from sentinv.errors import SentinvError
from sentinv.evaluation.evaluate import RECONSTRUCTION_PROMPT, without_placeholder
from sentinv.evaluation.metrics import mean_embedding_cosine, pairwise_cosine
from sentinv.files.images import prepare, prepare_mask, read_image, read_mask
from sentinv.generation.generate import GenerateConfig, generate

if TYPE_CHECKING:
    from sentinv.bench.concepts import StudyConcept
    from sentinv.evaluation.judges import AttributeJudge, ClipJudge, LpipsJudge
    from sentinv.evaluation.recognition import Gallery, Recogniser
    from sentinv.models.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How generated images are measured: the same prompts, seeds and judges for every run.

    Attributes:
        judge: CLIP.
        lpips: LPIPS, or None where it is unavailable.
        count: images per prompt; their seeds are 0 to count - 1.
        sampling: how they are sampled.
        bfloat16: whether that is under autocast to bfloat16.
        recogniser: tells which concept a picture shows; None where there is no gallery of other things.
        attributes: tells whether an edit shows the scene and style asked for; None where there is no such classifier.
    """

    judge: ClipJudge
    lpips: LpipsJudge | None
    count: int
    sampling: GenerateConfig
    bfloat16: bool = False
    recogniser: Recogniser | None = None
    attributes: AttributeJudge | None = None


def recogniser_of(judge: ClipJudge, concepts: Iterable[StudyConcept], gallery: Gallery) -> Recogniser:
    """What tells concepts from each other and from other things, by their held-out views; by its picture one that has none.

    Args:
        judge: CLIP.
        concepts: all that a picture could be of.
        gallery: other things, as the judge sees them.

    Raises:
        SentinvError: If a picture can't be read.
    """
    from sentinv.evaluation.recognition import Recogniser

    own = {one.name: [read_image(view).image for view in one.views or (one.image,)] for one in concepts}
    return Recogniser.of(judge, own, gallery)


class ConceptPictures:
    """A concept's pictures, read and embedded once.

    Args:
        concept: where they are.
        measuring: the judges.
        size: (height, width) of what is generated.

    Raises:
        SentinvError: If one can't be read.
    """

    def __init__(self, concept: StudyConcept, measuring: Measuring, size: tuple[int, int]) -> None:
        self.concept, self.measuring, self.size = concept, measuring, size
        self.image = read_image(concept.image).image
        self._inside = None if concept.mask is None else prepare_mask(read_mask(concept.mask), size)
        self._own = measuring.judge.images([self.image])
        self._views = _embedded(measuring.judge, concept.views)
        self._targets = _embedded(measuring.judge, concept.targets)
        self._texts = measuring.judge.texts([without_placeholder(prompt) for prompt in concept.edits])

    def draw(self, backbone: Backbone, concept: Concept | None) -> list[list[Image.Image]]:
        """What is to be measured: images of the plain prompt, and of each editing prompt.

        Args:
            backbone: draws the images.
            concept: a learned word, or None for what the prompts give without it.
        """
        return [self._generate(backbone, prompt, concept) for prompt in (RECONSTRUCTION_PROMPT, *self.concept.edits)]

    def scores(self, backbone: Backbone, concept: Concept | None, *, trained: int = 1) -> dict[str, Any]:
        """Measure a learned word, or with None what the prompts give without it. As `draw` and `measure`."""
        made, *edited = self.draw(backbone, concept)
        return self.measure(made, edited, trained)

    def scores_of_copying(self) -> dict[str, Any]:
        """Measure the concept's own picture in the place of generated ones."""
        return self.measure([self.image], [[self.image]] * len(self.concept.edits))

    def scores_of_targets(self) -> dict[str, Any]:
        """Measure true pictures in the place of generated ones, as a perfect word would give them.

        Raises:
            SentinvError: If the concept has no other views, or no targets.
        """
        if not self.concept.views or not self.concept.targets:
            raise SentinvError(f"{self.concept.name} has no views or no targets: add both, or leave targets-only out")
        true = [[read_image(path).image] for path in self.concept.targets]
        scores = self.measure([read_image(path).image for path in self.concept.views], true)
        del scores["clip_i_views"]  # of pictures with themselves
        return scores

    def measure(
        self, made: Sequence[Image.Image], edited: Sequence[Sequence[Image.Image]], trained: int = 1
    ) -> dict[str, Any]:
        """Measure generated images.

        Args:
            made: of the plain prompt.
            edited: of each editing prompt.
            trained: how many of the concept's pictures the word was learned from; views among them are not held out.
        """
        measuring = self.measuring
        embedded = measuring.judge.images(made)
        scores: dict[str, Any] = {"clip_i": pairwise_cosine(embedded, self._own).mean().item()}
        if self._views is not None and len(held_out := self._views[trained - 1 :]):
            scores["clip_i_views"] = pairwise_cosine(embedded, held_out).mean().item()
        scores |= self._differences(made)
        edits = [measuring.judge.images(images) for images in edited]
        follows = [mean_embedding_cosine(images, text) for images, text in zip(edits, self._texts, strict=True)]
        if follows:
            scores["clip_t"] = sum(follows) / len(follows)
            scores["clip_t_prompts"] = follows
            each = [(images @ text).mean().item() for images, text in zip(edits, self._texts, strict=True)]
            scores["clip_t_each"] = sum(each) / len(each)
        if self._targets is not None:
            near = [(images @ goal).mean().item() for images, goal in zip(edits, self._targets, strict=True)]
            scores["clip_i_edits"] = sum(near) / len(near)
            scores["clip_i_edits_prompts"] = near
        return scores | self._recognised([embedded, *edits], edited)

    def _differences(self, made: Sequence[Image.Image]) -> dict[str, Any]:
        """How far images are from the picture, pixel by pixel.

        LPIPS, and the root of the mean squared difference, of values in [0, 1], inside the mask; mean over the images.
        """
        if self.measuring.lpips is None and self._inside is None:
            return {}
        mine = torch.cat([prepare(image, self.size, multiple=1) for image in made])
        theirs = prepare(self.image, self.size, multiple=1).expand_as(mine)
        scores = {}
        if self.measuring.lpips is not None:
            scores["lpips"] = self.measuring.lpips.distance(mine, theirs).mean().item()
        if (inside := self._inside) is not None:
            squares = ((mine - theirs) / 2).square().mean(1, keepdim=True) * inside
            scores["rms"] = (squares.sum((1, 2, 3)) / inside.sum()).sqrt().mean().item()
        return scores

    def _recognised(self, embedded: Sequence[Tensor], edited: Sequence[Sequence[Image.Image]]) -> dict[str, Any]:
        """Share of pictures of each prompt, the plain one first, that show the concept and, if edited, what else was asked.

        And the share of edits that show what else was asked, be it with the concept or not.
        """
        recogniser, attributes, concept = self.measuring.recogniser, self.measuring.attributes, self.concept
        if recogniser is None:
            return {}
        shares, rights = [], []
        for images, prompt, group in zip(embedded, ["", *concept.edits], [(), *edited], strict=True):
            flags = recogniser.reads_as(images, concept.name, concept.same_as)
            if attributes is not None and group:
                wanted = attributes.wanted(prompt, "")
                right = [all(share > 0.5 for share in attributes.probabilities(one, wanted).values()) for one in group]
                flags = flags & torch.tensor(right)
                rights.append(sum(right) / len(right))
            shares.append(flags.float().mean().item())
        scores: dict[str, Any] = {"recognised": sum(shares) / len(shares), "recognised_prompts": shares}
        return scores | ({"right": sum(rights) / len(rights)} if rights else {})

    def _generate(self, backbone: Backbone, prompt: str, concept: Concept | None) -> list[Image.Image]:
        measuring = self.measuring
        text = fill(prompt, concept.token) if concept is not None else without_placeholder(prompt)
        concepts = [concept] if concept is not None else []
        with torch.autocast(backbone.device.type, torch.bfloat16, enabled=measuring.bfloat16):
            return generate(backbone, text, concepts, count=measuring.count, seed=0, config=measuring.sampling)


def _embedded(judge: ClipJudge, paths: Sequence[Path]) -> Tensor | None:
    return judge.images([read_image(path).image for path in paths]) if paths else None
