"""LEDITS++ as diffusers has it, on the parts of a loaded model (Brack et al. 2023, arXiv:2311.16711).

The inversion, the masks and the sampling are those of the library's pipeline. Four things are not as it would do them:

- The ids of prompts are ours, so that learned words can be in them. With them goes a prompt's own length: fast tokenizers state
  that of the padding in its place, and the mask of the words would be that of the padding.
- The source prompt is left out, as in the authors' example. Given one, the pipeline takes it and the empty prompt for each
  other and inverts under guidance away from it, but samples without: the picture does not come back.
- Two masks are repeated 4 times for the channels of latents. Where a model has another number of them, which ends the
  pipeline with an error, they are repeated that often.
- Clean latents are decoded as those of our own edits are.

Refused is what it cannot run on: a model without cross-attention at a quarter of the latents' side, where alone it looks for
the mask of the words (16 × 16 cells of 512 pixels; it would find an empty store), pictures whose sides are no multiples of
32, and models other than Stable Diffusion 1 and 2. Its last noise map is zero, so that even an edit without guidance is not
quite the picture; its authors say so of this implementation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode

from sentinv.concepts.concept import several
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.concepts.prompts import Vocabulary, check_placeholders
from sentinv.concepts.tokens import padded_ids, token_ids
from sentinv.editing.edit import Edited, first_step, prepared
from sentinv.errors import EditError
from sentinv.files.images import to_pil
from sentinv.models.turns import turn

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone
    from sentinv.models.text_encoder import TextEncoder


@dataclass(frozen=True, kw_only=True)
class LeditsConfig:
    """How an image is edited by LEDITS++.

    Attributes:
        steps: of the grid, ≥ 1.
        guidance_scale: of the new prompt inside the mask, ≥ 0; the model's own if None. The pipeline's own is 5, its example's
            10.
        skip: share of the steps that are left out at the noisy end, in [0, 1): more keeps more of the image. The authors turn
            this too, and state it as a share of the steps that are made.
        threshold: share of the cells that the mask leaves out, in [0, 1]; the authors choose it by how much of the picture an
            edit changes. This is their example's; the pipeline's own is .9.
        seed: of the noise, in [0, 2**63).

    Raises:
        ValueError: If a value is out of its range.
    """

    steps: int = 50
    guidance_scale: float | None = None
    skip: float = 0.0
    threshold: float = 0.75
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.skip < 1 or not 0 <= self.seed < 2**63:
            raise ValueError(f"steps must be at least 1, skip in [0, 1) and seed in [0, 2**63), got {self}")
        if not 0 <= (self.guidance_scale or 0) < math.inf or not 0 <= self.threshold <= 1:
            raise ValueError(f"guidance_scale must be finite and at least 0 and threshold in [0, 1], got {self}")


def leditspp(
    backbone: Backbone,
    image: Image.Image,
    prompt: str,
    concepts: Concept | Sequence[Concept] = (),
    config: LeditsConfig | None = None,
) -> Edited:
    """Edit an image with the library's pipeline.

    Args:
        backbone: the model: Stable Diffusion 1 or 2. It is afterwards what it was.
        image: any size; scaled to the model's area.
        prompt: what to show instead.
        concepts: the learned words.
        config: how.

    Raises:
        EditError: If the pipeline cannot run on the model, or on pictures of this size.
        PromptError: If the prompt names a placeholder that is not given, or one would be cut off.
        ConceptError: If a concept does not fit the model.
        ModelError: If what comes out is not finite.
    """
    config, concepts = config or LeditsConfig(), several(concepts)
    pixels = prepared(backbone, image)
    refuse_model(backbone)
    _check_size(pixels)
    scale = backbone.guidance_scale if config.guidance_scale is None else config.guidance_scale
    made = config.steps - first_step(config.skip, config.steps)
    evaluations: list[int] = []
    counting = backbone.unet.register_forward_pre_hook(lambda _, given: evaluations.append(len(given[0])))
    try:
        with _pipeline(backbone, PlaceholderRows.of_concepts(concepts) if concepts else None) as pipeline:
            pipeline.invert(
                to_pil(pixels)[0],
                num_inversion_steps=made,
                skip=(config.steps + 0.5) / made - 1,  # it takes the last ones of int(made * (1 + skip))
                generator=Generator().manual_seed(config.seed),
            )
            asked = {"edit_guidance_scale": scale, "edit_threshold": config.threshold}
            latents = pipeline(editing_prompt=[prompt], output_type="latent", **asked).images.float()
    finally:
        counting.remove()
    return Edited(to_pil(backbone.decode(latents))[0], latents, config.skip, sum(evaluations))


def refuse_model(backbone: Backbone) -> None:
    """Refuse a model that the pipeline would end on with an error of its own.

    Raises:
        EditError: If so.
    """
    if not backbone.architecture.startswith("stable-diffusion-v"):
        raise EditError(f"leditspp runs on Stable Diffusion 1 and 2 only, {backbone.name} is {backbone.architecture}")
    blocks = backbone.unet.config
    if not any("CrossAttn" in kind for kind in (*blocks.down_block_types[2:3], *blocks.up_block_types[-3:-2])):
        raise EditError(
            f"leditspp masks by the cross-attention at a quarter of the latents' side, and {backbone.name} has none there"
        )


def _check_size(pixels: Tensor) -> None:
    """Likewise of pictures."""
    height, width = pixels.shape[-2:]
    if height % 32 or width % 32:
        raise EditError(f"leditspp takes pictures whose sides are multiples of 32, got {width} x {height}")


@contextmanager
def _pipeline(backbone: Backbone, rows: PlaceholderRows | None) -> Iterator[Any]:
    """The library's pipeline; on leaving, the UNet has the attention processors and the config that it had."""
    from diffusers import DPMSolverMultistepScheduler, LEditsPPPipelineStableDiffusion

    unet, encoder = backbone.unet, backbone.text_encoders[0]
    solver = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "steps_offset": 1}  # as it wants them
    config, processors = unet._internal_dict, unet.attn_processors
    channels = unet.config.in_channels
    with turn(backbone), rows.installed(backbone) if rows is not None else nullcontext():
        try:
            pipeline: Any = LEditsPPPipelineStableDiffusion(
                vae=backbone.vae,
                text_encoder=encoder.model,
                tokenizer=_Words(encoder, rows.vocabulary if rows is not None else {}, backbone.learned_words),
                unet=unet,
                scheduler=DPMSolverMultistepScheduler.from_config(dict(backbone.schedule.config), **solver),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
            pipeline.set_progress_bar_config(disable=True)
            with _EveryChannel(channels) if channels != 4 else nullcontext():
                yield pipeline
        finally:
            unet.set_attn_processor(dict(processors))
            unet._internal_dict = config


class _Words:
    """What the pipeline takes for its tokenizer: ours, of prompts in which learned words may occur."""

    def __init__(self, encoder: TextEncoder, vocabulary: Vocabulary, known: frozenset[str]) -> None:
        self.encoder, self.vocabulary, self.known = encoder, vocabulary, known
        self.model_max_length = encoder.max_length

    def __call__(self, texts: Sequence[str], **_: Any) -> SimpleNamespace:
        """Ids of prompts `[B, max_length]`, and their lengths `[B]` with begin and end."""
        for text in texts:
            check_placeholders(text, self.vocabulary, self.known)
        ids = padded_ids(texts, self.encoder, self.vocabulary)
        counts = [len(token_ids(text, self.encoder, self.vocabulary)) + 2 for text in texts]
        lengths = torch.tensor(counts).clamp(max=self.model_max_length)
        return SimpleNamespace(input_ids=ids, attention_mask=self.encoder.attention_mask(ids), length=lengths)

    def tokenize(self, _: str) -> list[str]:
        """No words that the pipeline would have to expand: the ids are of all their vectors."""
        return []


class _EveryChannel(TorchFunctionMode):
    """Repeats a mask over all channels of latents inside a ``with`` block, where the pipeline says 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, `Tensor.repeat` with another number if it is for channels."""
        if func is Tensor.repeat and args[1:] == (1, 4, 1, 1) and args[0].shape[1] == 1:
            args = (args[0], 1, self.channels, 1, 1)
        return func(*args, **(kwargs or {}))
