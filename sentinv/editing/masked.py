"""Edit inside a mask only: blended latent diffusion (Avrahami et al. 2022, arXiv:2206.02779) with learned words.

After every step the latents outside the mask are put back to those of the source, at the noise level of that very step; after
the last one they are the source's own. In pixels, the source is laid over what lies outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sentinv.concepts.concept import several
from sentinv.diffusion.ddim import ddim_steps
from sentinv.editing.archive import Archive
from sentinv.editing.edit import Edited, encode_image, first_step, prepared, prepared_size, walk
from sentinv.editing.inversion import noised_trajectory
from sentinv.errors import EditError
from sentinv.files.decoding import picture_of
from sentinv.files.images import prepare_mask, to_pil
from sentinv.files.masks import BLACK, mask_of
from sentinv.generation.denoiser import Denoiser
from sentinv.generation.generate import Progress
from sentinv.generation.weights import Weights

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone

Keep = Literal["pixels", "latents"]


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How the inside of a mask is edited.

    Attributes:
        steps: DDIM steps, ≥ 1.
        guidance_scale: how strongly the prompt leads, ≥ 0; 1 is no guidance, None the model's own.
        skip: share of the steps that are left out at the noisy end, in [0, 1): more keeps more of what was there.
        dilate: pixels by which the mask grows, ≥ 0.
        feather: pixels beyond that over which it fades out, ≥ 0.
        keep: "pixels" lays the source's own pixels over what is outside; "latents" decodes the latents as they are.
        seed: of the noise, in [0, 2**63).
        weights: placeholder → how much the word counts in the prompt, in [0, 3].

    Raises:
        ValueError: If a value is out of its range.
    """

    steps: int = 25
    guidance_scale: float | None = None
    skip: float = 0.0
    dilate: int = 0
    feather: int = 2
    keep: Keep = "pixels"
    seed: int = 0
    weights: Weights = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.dilate < 0 or self.feather < 0 or not 0 <= self.seed < 2**63:
            raise ValueError(f"expected steps ≥ 1, dilate ≥ 0, feather ≥ 0 and a seed in [0, 2**63), got {self}")
        if not 0 <= (self.guidance_scale or 0) < math.inf or not 0 <= self.skip < 1:
            raise ValueError(f"expected a finite guidance_scale ≥ 0 and a skip in [0, 1), got {self}")
        if self.keep not in get_args(Keep):
            raise ValueError(f"keep must be one of {', '.join(get_args(Keep))}, got {self.keep!r}")


@dataclass(frozen=True, eq=False)
class Region:
    """Where an image may change.

    Attributes:
        pixels: `[1, 1, H, W]` in [0, 1]: 0 outside, 1 inside, between along the feather.
        latents: `[1, 1, h, w]`, 1 wherever the region has a share in the cell, however small, else 0: a line one pixel wide
            survives.
    """

    pixels: Tensor
    latents: Tensor


def region_of(mask: Image.Image, size: tuple[int, int], scale: int, dilate: int = 0, feather: int = 0) -> Region:
    """Make a region of a mask.

    Args:
        mask: any size, read by `mask_of`; white is inside. Below 8 of 255 is outside, as JPEG and soft brushes leave black.
        size: height and width of the image in pixels, multiples of `scale`.
        scale: pixels per latent along one side.
        dilate: pixels by which the region grows; more than the image's longer side is no more than that.
        feather: pixels beyond that over which it fades out; likewise.

    Raises:
        EditError: If the mask is empty or covers everything.
        SentinvError: If it is a picture in colours.
    """
    inside = prepare_mask(mask_of(mask).point(lambda level: level if level >= BLACK else 0), size)
    if not inside.any():
        raise EditError("the mask is empty: paint what may change white")
    dilate, feather = min(dilate, max(size)), min(feather, max(size))
    grown, blur = dilate + (feather + 1) // 2, feather // 2
    pixels = F.pad(inside, (grown,) * 4)
    for kernel in ((1, 2 * grown + 1), (2 * grown + 1, 1)):  # along one side, then the other: the square is much slower
        pixels = F.max_pool2d(pixels, kernel, 1)
    pixels = F.pad(pixels, (blur,) * 4, mode="replicate")
    for kernel in ((1, 2 * blur + 1), (2 * blur + 1, 1)):
        pixels = F.avg_pool2d(pixels, kernel, 1)
    if (pixels > 0).all():
        raise EditError(
            "the mask covers the whole image: leave it out, paint black what is to stay, or lower --dilate and --feather"
        )
    return Region(pixels, (F.avg_pool2d(pixels, scale) > 0).float())


def region_in(backbone: Backbone, image: Image.Image, mask: Image.Image, config: MaskConfig) -> Region:
    """The region of an image that a mask lets change: what can be said of a mask before any work.

    Raises:
        EditError: If the mask has another size, is empty or full.
        SentinvError: If it is a picture in colours.
    """
    if mask.size != image.size:
        raise EditError(f"the mask is {_size(mask)} pixels and the image {_size(image)}: they must be of one size")
    size = prepared_size(backbone, picture_of(image).image)
    return region_of(mask, size, backbone.vae_scale, config.dilate, config.feather)


def edit_masked(
    backbone: Backbone,
    image: Image.Image,
    mask: Image.Image,
    prompt: str,
    concepts: Concept | Sequence[Concept] = (),
    config: MaskConfig | None = None,
    archive: Archive | None = None,
    on_step: Progress | None = None,
) -> Edited:
    """Edit an image inside a mask.

    Args:
        backbone: the model.
        image: any size; `prepared` for the model, and the mask with it.
        mask: of the image's size, read by `mask_of`; what is white may change.
        prompt: what to show there.
        concepts: the learned words.
        config: how.
        archive: of this image: its latents are the background at every step, in place of fresh noise; its steps count.
        on_step: called after every step with (steps done, steps in all).

    Raises:
        EditError: If the mask has another size, is empty or full, the archive does not belong, or latents are not finite.
        SentinvError: If the mask is a picture in colours.
        PromptError: If the prompt names a placeholder that is not given.
    """
    config, concepts = config or MaskConfig(), several(concepts)
    pixels = prepared(backbone, image)
    region = region_in(backbone, image, mask, config)
    inside = region.latents.to(backbone.device)
    if archive is not None:
        archive.check(backbone, concepts)
        archive.check_image(to_pil(pixels)[0])
        steps, trajectory = list(archive.steps), archive.trajectory
    else:
        steps = ddim_steps(backbone.schedule, config.steps)
        trajectory = noised_trajectory(encode_image(backbone, pixels), steps, config.seed, independent=False)
    states = trajectory.states.to(backbone.device)
    denoise = Denoiser.of(backbone, prompt, concepts, config.guidance_scale, weights=config.weights)
    first = first_step(config.skip, len(steps))

    def blend(latents: Tensor, level: int) -> Tensor:
        return torch.where(inside > 0, latents, states[level])

    latents = walk(denoise, states[first], steps, first, blend=blend, on_step=on_step)
    shown = to_pil(backbone.decode(latents))[0]
    if config.keep == "pixels":
        shown = lay_over(shown, to_pil(pixels)[0], region.pixels)
    return Edited(shown, latents, config.skip, denoise.evaluations)


def lay_over(inside: Image.Image, outside: Image.Image, pixels: Tensor) -> Image.Image:
    """Mix two RGB images of one size, `pixels` `[1, 1, H, W]` being the share of the first; where that is 0, exactly."""
    share = pixels[0, 0, :, :, None].cpu().numpy()
    mixed = share * np.asarray(inside, np.float32) + (1 - share) * np.asarray(outside, np.float32)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
