"""What a step draws: noisy latents of the pictures, with prompts for them.

Images are encoded once, mirrored ones too; their moments are kept, and every step samples latents from them anew. Templates
are tokenised once. A batch repeats the few images there are with timesteps, noises and templates of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import torch
from PIL import Image
from torch import Generator, Tensor

from sentinv.concepts.prompts import TEMPLATES, fill
from sentinv.concepts.tokens import tokenize
from sentinv.errors import SentinvError
from sentinv.files.cropping import square
from sentinv.files.decoding import Picture, picture_of
from sentinv.files.images import prepare, prepare_mask
from sentinv.models.backbone import Moments

if TYPE_CHECKING:
    from sentinv.concepts.placeholder import PlaceholderRows
    from sentinv.models.backbone import Backbone
    from sentinv.training.config import TrainConfig


@dataclass(frozen=True, eq=False)
class Batch:
    """B noisy latents and what is to be said about them.

    Attributes:
        latents: clean, scaled, `[B, C, h, w]`.
        noise: the same shape.
        timesteps: `[B]` int64.
        alphas_cumprod: at these timesteps, `[B]`.
        ids: token ids of the prompts, `[B, L]` per text encoder.
        mask: weights of the loss, `[B, 1, h, w]`, or None.
        weights: what each item counts, `[B]`, where that is not up to its noise level; else None.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    alphas_cumprod: Tensor
    ids: Mapping[str, Tensor]
    mask: Tensor | None
    weights: Tensor | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, items: slice) -> Batch:
        """Some of the items; a field that is a mapping holds as many of each of its values."""
        return replace(self, **{one.name: _some(getattr(self, one.name), items) for one in fields(self)})

    def joined(self, others: Sequence[Batch]) -> Batch:
        """These items and then those of others, whose fields are alike."""
        batches = [self, *others]
        return replace(
            self,
            **{field.name: _joined([getattr(one, field.name) for one in batches]) for field in fields(self)},
        )

    def parts(self, count: int) -> list[Batch]:
        """Split into so many parts of about the same size; into single items where there are fewer of them."""
        size = -(-len(self) // count)
        return [self[first : first + size] for first in range(0, len(self), size)]


def _some(value: Any, items: slice) -> Any:
    if isinstance(value, Mapping):
        return {name: one[items] for name, one in value.items()}
    return None if value is None else value[items]  # tensors and tuples


def _joined(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return {name: torch.cat([one[name] for one in values]) for name in values[0]}
    if isinstance(values[0], tuple):
        return tuple(chain.from_iterable(values))
    return None if values[0] is None else torch.cat(list(values))


class Data(Protocol):
    """What the loop asks of its data."""

    def draw(self, generator: Generator) -> Batch:
        """Draw a batch; every random number is of this generator, which is on the CPU."""
        ...


class TrainingSet:
    """The images of one concept, ready to draw batches from.

    Args:
        backbone: encodes the images; the rows need not be installed.
        images: of any size, ≥ 1; cut to the square around the mask, or in the middle. A `Picture`'s mask is white where the
            concept is; so is what is opaque of an image.
        rows: of the placeholders that prompts may have.
        config: templates, flip, mask_background, batch size, evaluation grid.
        token: the placeholder that prompts have; the only one there are rows of, if not given.

    Raises:
        ValueError: If there are no images, or `token` is needed.
        SentinvError: If nothing is left of a mask in the square.
        PromptError: If a template does not leave room for the placeholder.
    """

    def __init__(
        self,
        backbone: Backbone,
        images: Sequence[Image.Image | Picture],
        rows: PlaceholderRows,
        config: TrainConfig,
        token: str | None = None,
    ) -> None:
        if not images:
            raise ValueError("expected at least one image")
        self.backbone = backbone
        self.config = config
        token = token or only(rows.vocabulary)
        size = (backbone.resolution, backbone.resolution)
        pictures = [square(image if isinstance(image, Picture) else picture_of(image)) for image in images]
        self.pixels = torch.cat([prepare(picture.image, size, multiple=backbone.vae_scale) for picture in pictures])
        self.image_count = len(images)
        self.moments = self._encode(self._mirrored_too(self.pixels))
        self.masks = [picture.mask for picture in pictures]
        self.mask = self._weights()
        self.templates = [fill(template, token) for template in config.templates or TEMPLATES[config.kind]]
        self.ids = tokenize(backbone, self.templates, rows)
        self.alphas_cumprod = backbone.schedule.alphas_cumprod.to(backbone.device)

    def _encode(self, pixels: Tensor) -> Moments:
        parts = [self.backbone.encode(one[None]) for one in pixels]
        return Moments(torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts]))

    def _weights(self) -> Tensor | None:
        """Loss weights `[images and mirrored ones, 1, h, w]`: 1 in the mask, `mask_background` outside."""
        if all(mask is None for mask in self.masks):
            return None
        shares = torch.cat([self._share(mask) for mask in self.masks])
        return self._mirrored_too(shares + self.config.mask_background * (1 - shares)).to(self.backbone.device)

    def _share(self, mask: Image.Image | None) -> Tensor:
        """The share of each latent `[1, 1, h, w]` that lies in a mask; all of it without one."""
        size = (self.moments.mean.shape[-2], self.moments.mean.shape[-1])
        share = torch.ones(1, 1, *size) if mask is None else prepare_mask(mask, size)
        if not share.sum() > 0:
            raise SentinvError(
                "expected a mask with something white in the square that is trained on, got none: check the mask"
            )
        return share

    def _mirrored_too(self, images: Tensor) -> Tensor:
        return torch.cat([images, images.flip(-1)]) if self.config.flip else images

    def draw(self, generator: Generator) -> Batch:
        """Draw a batch; every random number is of this generator, which is on the CPU."""
        return self.draw_pictures(generator)[0]

    def draw_pictures(self, generator: Generator) -> tuple[Batch, Tensor, Tensor]:
        """Draw a batch, and tell which picture (mirrored ones behind the others) and which template each item has."""
        count = self.config.batch_size
        which = torch.randint(len(self.moments.mean), (count,), generator=generator)
        templates = torch.randint(len(next(iter(self.ids.values()))), (count,), generator=generator)
        timesteps = stratified_timesteps(count, self.backbone.schedule.train_timesteps, generator)
        shape = (2, count, *self.moments.mean.shape[1:])
        spread, noise = self.to_device(torch.randn(shape, generator=generator))
        which, templates, timesteps = (self.to_device(part) for part in (which, templates, timesteps))
        batch = Batch(
            latents=self.backbone.sample_latents(self.moments.mean[which], self.moments.std[which], spread),
            noise=noise,
            timesteps=timesteps,
            alphas_cumprod=self.alphas_cumprod[timesteps],
            ids={name: ids[templates] for name, ids in self.ids.items()},
            mask=None if self.mask is None else self.mask[which],
        )
        return batch, which, templates

    def evaluation_batches(self, weights: Tensor | None = None) -> list[Batch]:
        """The fixed grid: the same (timestep, noise) pairs for every run; mean latents, the first template.

        Args:
            weights: what each timestep of the noise schedule counts, `[T]`, > 0. Then timesteps are as dense as the weights
                are large, and count the same: the mean is that of the weighted loss over all timesteps, and none of the
                few decides alone. Without them timesteps are even, and count as the objective says: what studies compare on.
        """
        config, mean = self.config, self.moments.mean
        timesteps, noise = evaluation_grid(
            config.evaluation_timesteps,
            config.evaluation_noises,
            self.backbone.schedule.train_timesteps,
            tuple(mean.shape[1:]),
            weights,
        )
        batches = []
        for part in torch.arange(len(timesteps)).split(evaluated_together(self.config, self.backbone.device)):
            which = (part % self.image_count).to(mean.device)
            own = timesteps[part].to(mean.device)
            still = torch.zeros_like(mean[which])
            batches.append(
                Batch(
                    latents=self.backbone.sample_latents(mean[which], still, still),
                    noise=noise[part].to(mean.device),
                    timesteps=own,
                    alphas_cumprod=self.alphas_cumprod[own],
                    ids={name: ids[:1].expand(len(part), -1) for name, ids in self.ids.items()},
                    mask=None if self.mask is None else self.mask[which],
                    weights=None if weights is None else torch.ones(len(part), device=mean.device),
                )
            )
        return batches

    def to_device(self, tensor: Tensor) -> Tensor:
        """Copy to the model's device."""
        return copied_to(tensor, self.backbone.device)


def copied_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device, without making the host wait for it."""
    if device.type == "cuda":  # from pinned memory the copy does not make the host wait
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def evaluated_together(config: TrainConfig, device: torch.device) -> int:
    """Items of the fixed grid that are evaluated at a time.

    A pass that keeps nothing for a gradient takes a tenth of a step's memory for each item (counted, in Stable Diffusion 1.5's
    shape). An accelerator, which waits for the host to launch the operations of few items, gets four times as many as in a
    step; a CPU does not.
    """
    if device.type == "cpu" or config.gradient_checkpointing:
        return max(config.batch_size, config.evaluation_noises)
    return 4 * config.items


def only(tokens: Collection[str]) -> str:
    """The one placeholder there is.

    Raises:
        ValueError: If there are several.
    """
    if len(tokens) != 1:
        raise ValueError(f"expected the placeholder of these images, got none of {', '.join(tokens)}: name one")
    return next(iter(tokens))


def stratified_timesteps(count: int, train_timesteps: int, generator: Generator) -> Tensor:
    """Draw timesteps `[count]` int64, one from each of `count` equal parts of [0, train_timesteps).

    Each is uniform on its part, so any of them chosen at random is uniform on the whole; together they vary less than
    independent draws (Kingma et al. 2021, arXiv:2107.00630, appendix I.1).
    """
    position = (torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) / count
    return (position * train_timesteps).long().clamp(max=train_timesteps - 1)


def evaluation_grid(
    timesteps: int, noises: int, train_timesteps: int, shape: tuple[int, ...], weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The (timestep, noise) pairs on which all runs are compared: the same for every run, whatever its seed.

    Args:
        timesteps: how many timesteps, in the middle of parts of equal weight.
        noises: how many noises for each.
        train_timesteps: length of the noise schedule.
        shape: `[C, h, w]` of one latent.
        weights: of each timestep `[train_timesteps]`, ≥ 0; all alike if None.

    Returns:
        Timesteps `[K]` int64 and noises `[K, C, h, w]` float32, on the CPU, with K = timesteps × noises.
    """
    middles = (torch.arange(timesteps) + 0.5) / timesteps
    if weights is None:
        found = (middles * train_timesteps).long()
    else:
        until = weights.detach().cpu().double().cumsum(0)
        found = torch.searchsorted(until, middles.double() * until[-1]).clamp(max=train_timesteps - 1)
    noise = torch.randn((timesteps * noises, *shape), generator=Generator().manual_seed(0))
    return found.repeat_interleave(noises), noise
