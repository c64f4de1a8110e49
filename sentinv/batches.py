"""What is prepared once before training, and what each step draws from it.

Images are encoded once, mirrored ones too; their moments are kept, and every step samples latents from them anew. Templates
are tokenised once. A batch repeats the few images there are with timesteps, noises and templates of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Generator, Tensor

from sentinv.backbone import Moments
from sentinv.decoding import Picture, picture_of
from sentinv.errors import SentinvError
from sentinv.images import prepare, prepare_mask
from sentinv.loss import add_noise, denoising_loss, evaluation_grid, min_snr_weights, stratified_timesteps, target
from sentinv.prompts import TEMPLATES, fill

if TYPE_CHECKING:
    from sentinv.backbone import Backbone
    from sentinv.config import TrainConfig
    from sentinv.placeholder import PlaceholderRows


@dataclass(frozen=True)
class Batch:
    """B noisy latents and what is to be said about them.

    Attributes:
        latents: clean, scaled, `[B, C, h, w]`.
        noise: the same shape.
        timesteps: `[B]` int64.
        alphas_cumprod: at these timesteps, `[B]`.
        ids: token ids of the prompts, `[B, L]` per text encoder.
        mask: weights of the loss, `[B, 1, h, w]`, or None.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    alphas_cumprod: Tensor
    ids: dict[str, Tensor]
    mask: Tensor | None

    def __len__(self) -> int:
        return len(self.latents)

    def parts(self, count: int) -> list[Batch]:
        """Split into so many parts of about the same size; into single items where there are fewer of them."""
        size = -(-len(self) // count)
        cuts = [slice(first, first + size) for first in range(0, len(self), size)]
        return [
            Batch(
                latents=self.latents[cut],
                noise=self.noise[cut],
                timesteps=self.timesteps[cut],
                alphas_cumprod=self.alphas_cumprod[cut],
                ids={name: ids[cut] for name, ids in self.ids.items()},
                mask=None if self.mask is None else self.mask[cut],
            )
            for cut in cuts
        ]


class TrainingSet:
    """The images of one concept, ready to draw batches from.

    Args:
        backbone: encodes the images; the rows need not be installed.
        images: of any size, ≥ 1; cropped to the model's square. A `Picture`'s mask is white where the concept is; so is what is
            opaque of an image.
        rows: whose placeholder.
        config: templates, flip, mask_background, evaluation grid.

    Raises:
        ValueError: If there are no images.
        SentinvError: If nothing is left of a mask in the square.
        PromptError: If a template does not leave room for the placeholder.
    """

    def __init__(
        self,
        backbone: Backbone,
        images: Sequence[Image.Image | Picture],
        rows: PlaceholderRows,
        config: TrainConfig,
    ) -> None:
        if not images:
            raise ValueError("expected at least one image")
        self.backbone = backbone
        self.config = config
        (token,) = rows.vocabulary
        size = (backbone.resolution, backbone.resolution)
        pictures = [image if isinstance(image, Picture) else picture_of(image) for image in images]
        self.pixels = torch.cat([prepare(picture.image, size, multiple=backbone.vae_scale) for picture in pictures])
        self.image_count = len(images)
        mirrored = [self.pixels.flip(-1)] if config.flip else []
        self.moments = self._encode(torch.cat([self.pixels, *mirrored]))
        self.mask = self._masks([picture.mask for picture in pictures])
        self.ids = backbone.tokenize(
            [fill(template, token) for template in config.templates or TEMPLATES[config.kind]], rows
        )
        self.alphas_cumprod = backbone.alphas_cumprod.to(backbone.device)

    def _encode(self, pixels: Tensor) -> Moments:
        parts = [self.backbone.encode(one[None]) for one in pixels]
        return Moments(torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts]))

    def _masks(self, masks: Sequence[Image.Image | None]) -> Tensor | None:
        """Loss weights `[images and mirrored ones, 1, h, w]`: 1 in the mask, `mask_background` outside."""
        if all(mask is None for mask in masks):
            return None
        size = (self.moments.mean.shape[-2], self.moments.mean.shape[-1])
        ones = torch.ones(1, 1, *size)
        shares = torch.cat([ones if mask is None else prepare_mask(mask, size) for mask in masks])
        if not (shares.flatten(1).sum(dim=1) > 0).all():
            raise SentinvError(
                "expected a mask with something white in the square that is trained on, got none: check the mask"
            )
        weights = shares + self.config.mask_background * (1 - shares)
        mirrored = [weights.flip(-1)] if self.config.flip else []
        return torch.cat([weights, *mirrored]).to(self.backbone.device)

    def draw(self, generator: Generator) -> Batch:
        """Draw a batch; every random number is of this generator, which is on the CPU."""
        count = self.config.batch_size
        which = torch.randint(len(self.moments.mean), (count,), generator=generator)
        templates = torch.randint(len(next(iter(self.ids.values()))), (count,), generator=generator)
        timesteps = stratified_timesteps(count, self.backbone.train_timesteps, generator)
        shape = (2, count, *self.moments.mean.shape[1:])
        spread, noise = self._to_device(torch.randn(shape, generator=generator))
        which, templates, timesteps = (self._to_device(part) for part in (which, templates, timesteps))
        return Batch(
            latents=self.backbone.sample_latents(self.moments.mean[which], self.moments.std[which], spread),
            noise=noise,
            timesteps=timesteps,
            alphas_cumprod=self.alphas_cumprod[timesteps],
            ids={name: ids[templates] for name, ids in self.ids.items()},
            mask=None if self.mask is None else self.mask[which],
        )

    def evaluation_batches(self) -> list[Batch]:
        """The fixed grid: the same (timestep, noise) pairs for every run; mean latents, the first template."""
        config, mean = self.config, self.moments.mean
        timesteps, noise = evaluation_grid(
            config.evaluation_timesteps, config.evaluation_noises, self.backbone.train_timesteps, tuple(mean.shape[1:])
        )
        batches = []
        chunk = max(config.batch_size, config.evaluation_noises)
        for part in torch.arange(len(timesteps)).split(chunk):
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
                )
            )
        return batches

    @cached_property
    def _weights(self) -> Tensor | None:
        """Min-SNR weight of every timestep `[T]`, on average 1 so that losses stay comparable; None for no weighting."""
        if self.config.min_snr is None:
            return None
        weights = min_snr_weights(self.alphas_cumprod, self.config.min_snr, self.backbone.prediction_type)
        return weights / weights.mean()

    def errors(self, batch: Batch) -> Tensor:
        """Denoising loss per item, `[B]`, with every noise level counting the same."""
        backbone = self.backbone
        noisy = add_noise(batch.latents, batch.noise, batch.alphas_cumprod)
        prediction = backbone.predict(noisy, batch.timesteps, backbone.encode_prompts(batch.ids))
        wanted = target(batch.latents, batch.noise, batch.alphas_cumprod, backbone.prediction_type)
        return denoising_loss(prediction, wanted, batch.mask)

    def weights(self, batch: Batch) -> Tensor | float:
        """What each item counts, `[B]`: its timestep's min-SNR weight."""
        return 1.0 if self._weights is None else self._weights[batch.timesteps]

    def loss(self, batch: Batch) -> Tensor:
        """What is minimised, per item, `[B]`."""
        return self.errors(batch) * self.weights(batch)

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch]) -> tuple[float, float]:
        """Means over the fixed grid: of what is minimised, and of the loss without weights."""
        errors = [self.errors(batch) for batch in batches]
        weighted = [error * self.weights(batch) for error, batch in zip(errors, batches, strict=True)]
        return torch.cat(weighted).mean().item(), torch.cat(errors).mean().item()

    def _to_device(self, tensor: Tensor) -> Tensor:
        device = self.backbone.device
        if device.type == "cuda":  # from pinned memory the copy does not make the host wait
            return tensor.pin_memory().to(device, non_blocking=True)
        return tensor.to(device)
