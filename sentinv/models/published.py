"""The constants that models of a family were published with, and what a model says of itself beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sentinv.models.check import check_model
from sentinv.models.describe import described

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone


@dataclass(frozen=True)
class Published:
    """Constants of a family.

    Attributes:
        resolution: side of images in pixels.
        predicts: prediction type.
        scale: what latents are multiplied by.
        betas: of the first and the last timestep.
    """

    resolution: int
    predicts: str
    scale: float
    betas: tuple[float, float] = (0.00085, 0.012)


FAMILIES = {
    "stable-diffusion-v1": Published(512, "epsilon", 0.18215),
    "stable-diffusion-v2-512": Published(512, "epsilon", 0.18215),
    "stable-diffusion-v2-768-v": Published(768, "v_prediction", 0.18215),
    "stable-diffusion-xl-v1-base": Published(1024, "epsilon", 0.13025),
    "latent-diffusion": Published(256, "epsilon", 0.18215),
}
"""Architecture, as `Backbone.architecture` names it → what its first publisher says. Later models differ, and may."""


def summary(backbone: Backbone) -> str:
    """A model in a line: what it is, and where it runs."""
    schedule = backbone.schedule
    zero = ", begins in pure noise" if schedule.alphas_cumprod[-1] <= 0 else ""
    upcast = ", autoencoder in float32" if backbone.upcasts else ""
    return (
        f"{backbone.architecture}, {backbone.resolution} pixels, predicts {schedule.prediction_type}{zero}, latents x "
        f"{backbone.vae.config.scaling_factor:g}, guidance {backbone.guidance_scale:g}, "
        f"{str(backbone.dtype).removeprefix('torch.')} on {backbone.device}{upcast}"
    )


def deviations(backbone: Backbone) -> list[str]:
    """What is other than its family was published with: "512 pixels (published 768)"."""
    known, alphas = FAMILIES[backbone.architecture], backbone.schedule.alphas_cumprod
    scale, kind = backbone.vae.config.scaling_factor, backbone.schedule.prediction_type
    first, last = 1 - float(alphas[0]), 1 - float(alphas[-1] / alphas[-2])
    found = [
        (backbone.resolution == known.resolution, f"{backbone.resolution} pixels", known.resolution),
        (kind == known.predicts, f"predicts {kind}", known.predicts),
        (abs(scale - known.scale) < 1e-5, f"latents x {scale:g}", known.scale),
        (abs(first - known.betas[0]) < 1e-5, f"first beta {first:.2g}", known.betas[0]),
        (abs(last - known.betas[1]) < 1e-4, f"last beta {last:.2g}", known.betas[1]),
    ]
    return [f"{got} (published {wanted})" for right, got, wanted in found if not right]


def is_published(backbone: Backbone) -> bool:
    """Whether a model makes the images that its family was published for, with guidance: then its weights have to answer."""
    known = FAMILIES[backbone.architecture]
    as_published = abs(backbone.vae.config.scaling_factor - known.scale) < 1e-5
    return as_published and backbone.resolution == known.resolution and backbone.guidance_scale > 1


def supported(backbone: Backbone) -> str:
    """Judge a loaded model once more, and say what it was taken for.

    Raises:
        ModelError: If it is none that is supported.
    """
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(backbone.schedule.config)
    check_model(described(backbone.name, backbone.unet, backbone.vae, backbone.text_encoders, scheduler))
    return summary(backbone)
