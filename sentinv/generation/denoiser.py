"""The noise that a model sees in latents, with classifier-free guidance, at a cost that is counted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sentinv.adapters.install import check_rows
from sentinv.concepts.concept import several
from sentinv.concepts.dialects import foreign_syntax
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.concepts.prompts import check_placeholders
from sentinv.concepts.tokens import tokenize
from sentinv.diffusion.ddim import direction
from sentinv.generation.weights import Weights, check_weights, weighed
from sentinv.models.backbone import Condition

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.diffusion.ddim import Step
    from sentinv.models.backbone import Backbone


@torch.no_grad()
def encode_prompts(
    backbone: Backbone,
    prompts: Sequence[str | None],
    concepts: Concept | Sequence[Concept] = (),
    weights: Weights | None = None,
) -> Condition:
    """Encode prompts in which learned words may occur.

    Args:
        backbone: the model.
        prompts: B of them; placeholders in their short form ``<c>``. None is no prompt: zeros where the model has those for
            it (`zeros_for_empty_prompt`), else the empty one.
        concepts: the learned words. One that was learned on another model gives a warning, and so does a LoRA on this one that
            was trained around other rows.
        weights: how much learned words count in the last of the prompts.

    Raises:
        PromptError: If a prompt names a placeholder that is not given, one would be cut off, or a weight cannot be used.
        ConceptError: If a concept does not fit the model.
    """
    concepts = several(concepts)
    for concept in concepts:
        if concept.fingerprint and concept.fingerprint != backbone.fingerprint:
            made = f" ({concept.base_model})" if concept.base_model else ""
            warnings.warn(f"{concept.token} was learned on another model{made} than {backbone.name}", stacklevel=3)
    check_rows(backbone, concepts)
    rows = PlaceholderRows.of_concepts(concepts) if concepts else None
    texts = [prompt or "" for prompt in prompts]
    for text in texts:
        check_placeholders(text, rows.vocabulary if rows is not None else {}, backbone.learned_words)
    check_weights(weights or {}, texts[-1])
    with rows.installed(backbone) if rows is not None else nullcontext():
        condition = backbone.encode_ids(tokenize(backbone, texts, rows))
        if rows is not None and weights:
            words = [(rows.vocabulary[token], weight) for token, weight in weights.items()]
            last = weighed(backbone, condition[-1:], tokenize(backbone, texts[-1:], rows), words)
            condition = Condition(torch.cat([condition.hidden[:-1], last.hidden]), condition.pooled)
    if backbone.zeros_for_empty_prompt:
        empty = torch.tensor([prompt is None for prompt in prompts], device=backbone.device)
        condition.hidden[empty] = 0
        if condition.pooled is not None:
            condition.pooled[empty] = 0
    return condition


class Denoiser:
    """A model with its prompts: latents and a step in, epsilon out.

    Args:
        backbone: the model.
        conditions: of one prompt (no guidance), or of two: what to lead away from, and what to show. Of several such sets one
            after another if `sets` says so.
        guidance_scale: of classifier-free guidance (Ho & Salimans 2022), without effect for one prompt.
        sets: how many; the latents are as many for each, one set's after another's.

    Attributes:
        evaluations: UNet evaluations so far; one is one forward pass for one latent and one prompt.
    """

    def __init__(self, backbone: Backbone, conditions: Condition, guidance_scale: float = 1.0, sets: int = 1) -> None:
        self.backbone, self.conditions, self.guidance_scale, self.sets = backbone, conditions, guidance_scale, sets
        self.evaluations = 0

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        prompt: str,
        concepts: Concept | Sequence[Concept] = (),
        guidance_scale: float | None = None,
        negative: str | None = None,
        weights: Weights | None = None,
    ) -> Denoiser:
        """A model with one prompt, and with what guidance leads away from where there is guidance.

        Args:
            backbone: the model.
            prompt: what to show; placeholders in their short form ``<c>``.
            concepts: the learned words of both prompts.
            guidance_scale: ≥ 0; the model's own if None. At 1 guidance has no effect, and is not computed.
            negative: what to lead away from; None is no prompt.
            weights: how much learned words count in `prompt`.

        Raises:
            PromptError: If a prompt names a placeholder that is not given, or one would be cut off.
            ConceptError: If a concept does not fit the model.
        """
        scale = backbone.guidance_scale if guidance_scale is None else guidance_scale
        prompts = [prompt] if scale == 1 else [negative, prompt]
        for text in (text for one in prompts for text in foreign_syntax(one or "")):
            warnings.warn(text, stacklevel=3)
        return cls(backbone, encode_prompts(backbone, prompts, concepts, weights), scale)

    @classmethod
    def together(cls, denoisers: Sequence[Denoiser]) -> Denoiser:
        """Several of one kind in one batch: equally many latents for each, one's after another's."""
        first, conditions = denoisers[0], [one.conditions for one in denoisers]
        pooled = [one.pooled for one in conditions if one.pooled is not None]
        both = Condition(torch.cat([one.hidden for one in conditions]), torch.cat(pooled) if pooled else None)
        return cls(first.backbone, both, first.guidance_scale, sum(one.sets for one in denoisers))

    @torch.no_grad()
    def __call__(self, latents: Tensor, step: Step) -> Tensor:
        """Ask for the noise in latents `[B, C, h, w]` at the noisier end of a step. The state stays float32.

        Where memory ends, fewer rows are computed at a time.

        Returns:
            Epsilon, the same shape; from pure noise the velocity, as `sentinv.diffusion.ddim.direction` says.
        """
        copies, each = len(self.conditions.hidden) // self.sets, len(latents) // self.sets
        order = torch.arange(copies * self.sets, device=latents.device).reshape(self.sets, copies).T
        rows = order.repeat_interleave(each, dim=1).flatten()
        timesteps = torch.full((len(rows),), step.timestep, device=latents.device)
        doubled = latents.repeat(copies, 1, 1, 1)
        prediction = self.backbone.thrift.in_parts(
            len(rows),
            lambda part: self.backbone.predict(doubled[part], timesteps[part], self.conditions[rows[part]]),
        )
        self.evaluations += len(rows)
        if copies == 2:
            away, towards = prediction.chunk(2)
            prediction = away + self.guidance_scale * (towards - away)
        return direction(prediction, latents, step, self.backbone.schedule.prediction_type)
