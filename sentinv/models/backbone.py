"""What the algorithms need of a loaded diffusers pipeline, and the one place where model families differ.

Every size and constant is read from the model's configs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sentinv.diffusion.schedule import NoiseSchedule
from sentinv.errors import ModelError
from sentinv.models.check import check_model
from sentinv.models.condition import Condition, Moments, filled
from sentinv.models.describe import described, written
from sentinv.models.distilled import own_guidance
from sentinv.models.fingerprint import constants_digest, weights_digest
from sentinv.models.memory import Thrift
from sentinv.models.text_encoder import TextEncoder
from sentinv.models.turns import turn
from sentinv.models.weights import check_weights, refuse_spoiled


class Backbone:
    """A frozen latent diffusion model.

    Args:
        name: how the user named it.
        unet: `UNet2DConditionModel`.
        vae: `AutoencoderKL`, or the `VQModel` of a latent diffusion model.
        text_encoders: one or two.
        scheduler: any diffusers scheduler; only its config is read.
        guidance_scale: of classifier-free guidance, what suits the model where none is asked for; by its configs if None.
        zeros_for_empty_prompt: whether zeros stand for the empty prompt, as in Stable Diffusion XL.

    Attributes:
        schedule: the noise process that the model was trained with.
        thrift: what it does without since memory ended.

    Raises:
        ModelError: If a config asks for something that is not supported.
    """

    def __init__(
        self,
        name: str,
        unet: Any,
        vae: Any,
        text_encoders: Sequence[TextEncoder],
        scheduler: Any,
        guidance_scale: float | None = None,
        *,
        zeros_for_empty_prompt: bool = False,
    ) -> None:
        model = described(name, unet, vae, text_encoders, scheduler)
        check_model(model)
        self.name, self.zeros_for_empty_prompt = name, zeros_for_empty_prompt
        self.guidance_scale = (
            own_guidance(name, model.unet, model.scheduler) if guidance_scale is None else guidance_scale
        )
        self.schedule, self.thrift = NoiseSchedule.of(scheduler, name), Thrift()
        self.unet, self.vae, self.text_encoders = unet, vae, tuple(text_encoders)
        for module in self._modules():
            check_weights(name, module)
            module.requires_grad_(False).eval()

    @classmethod
    def from_pipeline(cls, pipeline: Any, name: str | None = None) -> Backbone:
        """Take the parts of a loaded Stable Diffusion (XL) or latent diffusion pipeline.

        They are shared, not copied, and frozen: their parameters want no gradient from now on, and they are in evaluation mode.
        Turn both on again (`requires_grad_`, `train`) to train them. No weight is changed.

        Raises:
            ModelError: If the pipeline has no UNet, autoencoder and text encoder.
        """
        parts = pipeline.components
        unet, vae = parts.get("unet"), parts.get("vae", parts.get("vqvae"))
        found = {"": parts.get("text_encoder", parts.get("bert")), "_2": parts.get("text_encoder_2")}
        models = {suffix: model for suffix, model in found.items() if model is not None}
        encoders = [TextEncoder(f"text_encoder{n}", parts[f"tokenizer{n}"], model) for n, model in models.items()]
        if not encoders or unet is None or vae is None:
            kind = type(pipeline).__name__
            raise ModelError(f"expected a Stable Diffusion 1, 2 or XL or a latent diffusion pipeline, got {kind}")
        name = name or pipeline.config.get("_name_or_path") or type(pipeline).__name__
        zeros = bool(pipeline.config.get("force_zeros_for_empty_prompt", False))
        return cls(str(name), unet, vae, encoders, parts["scheduler"], zeros_for_empty_prompt=zeros)

    def to(self, device: torch.device) -> Backbone:
        """Move all weights to a device."""
        for module in self._modules():
            module.to(device)
        return self

    @property
    def parts(self) -> dict[str, nn.Module]:
        """All that has weights, by name."""
        encoders = {encoder.name: encoder.model for encoder in self.text_encoders}
        return {"unet": self.unet, "vae": self.vae, **encoders}

    def _modules(self) -> list[nn.Module]:
        return list(self.parts.values())

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the UNet."""
        return next(self.unet.parameters()).dtype

    @property
    def is_xl(self) -> bool:
        """Whether the UNet wants pooled embeddings and sizes, as Stable Diffusion XL does."""
        return self.unet.config.addition_embed_type == "text_time"

    @property
    def vae_scale(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def resolution(self) -> int:
        """Side of the images that the UNet was made for, in pixels."""
        size = self.unet.config.sample_size
        return (size if isinstance(size, int) else min(size)) * self.vae_scale

    @property
    def latent_side(self) -> int:
        """Latents along a side of these images."""
        return self.resolution // self.vae_scale

    @property
    def size_multiple(self) -> int:
        """What the sides of images in pixels must be multiples of for the UNet to halve its latents without a rest."""
        return self.vae_scale * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def architecture(self) -> str:
        """The family, as modelspec.* headers name it."""
        if self.is_xl:
            return "stable-diffusion-xl-v1-base"
        if "bert" in self.text_encoders[0].model.config.model_type:
            return "latent-diffusion"
        if self.unet.config.cross_attention_dim == 1024:  # a name that SD 2 has by definition
            return (
                "stable-diffusion-v2-768-v"
                if self.schedule.prediction_type == "v_prediction"
                else "stable-diffusion-v2-512"
            )
        return "stable-diffusion-v1"

    @cached_property
    def fingerprint(self) -> str:
        """Which weights these are, in 64 hex digits; the same in every precision. Taken once and kept.

        Raises:
            ValueError: If weights that train are installed, which would give it another one.
        """
        with turn(self):
            if any(parameter.requires_grad for module in self._modules() for _, parameter in module.named_parameters()):
                raise ValueError("weights that train are installed in this model: take its fingerprint before")
            return weights_digest(self._modules())

    @cached_property
    def constants(self) -> str:
        """What else decides what the model gives, in 16 hex digits: noise schedule, sampling steps, scales and size.

        Two backbones of one `fingerprint` differ in it where somebody changed a config.
        """
        return constants_digest(self)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Moments:
        """Encode images `[B, 3, H, W]` in [-1, 1], H and W multiples of `vae_scale`, to the moments of their latents.

        Raises:
            ValueError: If the size is not a multiple of `vae_scale`.
        """
        if pixels.shape[-1] % self.vae_scale or pixels.shape[-2] % self.vae_scale:
            raise ValueError(f"expected sides that are multiples of {self.vae_scale}, got {tuple(pixels.shape[-2:])}")
        with self._vae_dtype() as dtype:
            encoded = self.thrift.frugally(self.vae, pixels.to(self.device, dtype), self.vae_scale, self.vae.encode)
        if "latents" in encoded:  # a VQModel's, which decoding quantises
            return Moments(encoded.latents.float(), torch.zeros_like(encoded.latents, dtype=torch.float32))
        posterior = encoded.latent_dist
        return Moments(posterior.mean.float(), posterior.std.float())

    @property
    def _latent_scale(self) -> tuple[float | Tensor, float | Tensor]:
        """What is taken from unscaled latents, and what they are multiplied by then."""
        config = self.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            return config.get("shift_factor") or 0.0, config.scaling_factor
        shift, spread = (filled(values, self.device) for values in (mean, std))
        return shift, config.scaling_factor / spread

    def sample_latents(self, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        """Draw scaled latents `[B, C, h, w]` from moments, with standard normal noise of that shape."""
        shift, scale = self._latent_scale
        return (mean + std * noise - shift) * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents `[B, C, h, w]` to images `[B, 3, H, W]` in [-1, 1], float32.

        Raises:
            ModelError: If latents or images hold NaN or infinities: black pictures that nobody asked for.
        """
        shift, scale = self._latent_scale
        with self._vae_dtype() as dtype:
            unscaled = (latents.float() / scale + shift).to(dtype)
            pixels = self.thrift.frugally(self.vae, unscaled, 1, self.vae.decode).sample.float()
        if not torch.isfinite(pixels).all():
            refuse_spoiled(self.name, self.parts)
            where = "the image has" if torch.isfinite(latents).all() else "the latents have"
            wider = ", or load the model in float32 or bfloat16" if torch.float16 in (dtype, self.dtype) else ""
            raise ModelError(
                f"{where} values that are not finite in {str(dtype).removeprefix('torch.')}: lower the guidance{wider}"
            )
        return pixels.clamp(-1, 1)

    @property
    def upcasts(self) -> bool:
        """Whether the VAE runs in float32 although it is in half precision: where its config says so, not its class."""
        half = next(self.vae.parameters()).dtype == torch.float16
        return half and bool(written(self.vae.config, type(self.vae)).get("force_upcast"))

    @contextmanager
    def _vae_dtype(self) -> Iterator[torch.dtype]:
        """The VAE's dtype inside; float32 for the time being where the config says that half precision overflows."""
        own = next(self.vae.parameters()).dtype
        if not self.upcasts:
            yield own
            return
        with turn(self):
            self.vae.to(torch.float32)
            try:
                yield torch.float32
            finally:
                self.vae.to(own)

    @cached_property
    def learned_words(self) -> frozenset[str]:
        """Words that somebody added to the tokenizers of all text encoders, with rows in their tables."""
        return frozenset.intersection(*(frozenset(encoder.learned_words) for encoder in self.text_encoders))

    def encode_ids(self, ids: Mapping[str, Tensor], unseen: Collection[int] = ()) -> Condition:
        """Run the text encoders on token ids `[B, L]`, `unseen` ones attended to by none; gradients reach installed rows."""
        hidden, pooled = [], None
        for encoder in self.text_encoders:
            mask = encoder.attention_mask(ids[encoder.name], unseen)
            if self.is_xl:
                output = encoder.model(ids[encoder.name], attention_mask=mask, output_hidden_states=True)
                hidden.append(output.hidden_states[-2])
                pooled = output[0]  # of the last encoder, which has a projection
            else:
                hidden.append(encoder.model(ids[encoder.name], attention_mask=mask, return_dict=True)[0])
        return Condition(torch.cat(hidden, dim=-1), pooled)

    def predict(self, latents: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """Run the UNet.

        Args:
            latents: `[B, C, h, w]` noisy latents, any dtype.
            timesteps: `[B]` int64, in [0, `schedule.train_timesteps`).
            condition: of B prompts.

        Returns:
            `[B, C, h, w]` float32: epsilon, v or x0, as `schedule.prediction_type` says.
        """
        extra: dict[str, Any] = {}
        if self.is_xl:
            height, width = (side * self.vae_scale for side in latents.shape[-2:])
            sizes = filled((height, width, 0, 0, height, width), latents.device).flatten().to(self.dtype)
            extra["added_cond_kwargs"] = {"text_embeds": condition.pooled, "time_ids": sizes.repeat(len(latents), 1)}
        answer = self.unet(
            latents.to(self.dtype), timesteps, condition.hidden.to(self.dtype), return_dict=False, **extra
        )
        return answer[0].float()
