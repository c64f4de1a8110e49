"""Why an image does not come back: the errors of autoencoder, inversion and guidance, one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from sentinv.editing.edit import EditConfig, edit
from sentinv.editing.inversion import relative_rms
from sentinv.evaluation.metrics import pixel_psnr
from sentinv.generation.generate import Progress

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.editing.archive import Archive
    from sentinv.models.backbone import Backbone

_NOTICEABLE = 0.5
"""Decibels below which the last reconstruction counts as good as the autoencoder."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What each stage costs. PSNR is in dB, in pixels, against the image; errors are relative RMS in latents.

    Attributes:
        vae_psnr: after encoding and decoding: the ceiling.
        inversion_psnr: after inverting and sampling with the source prompt, at the guidance of the inversion.
        guidance_psnr: the same at the guidance, and with the source option, of the edit.
        inversion_error: of the latents, likewise.
        guidance_error: likewise.
        fault: the stage that loses most if the last reconstruction is noticeably worse than the ceiling: "inversion" or
            "guidance"; else "none".
        worst_residual: over the steps, see `Trajectory`; NaN for "ddpm".
        worst_contraction: likewise; above 1 the iteration diverges.
        noise_mean: of x_T, which should be 0.
        noise_std: of x_T, which should be 1.
        noise_autocorrelation: of neighbours along rows of x_T, which should be 0.
        evaluations: UNet evaluations of the two reconstructions.
        image: the last reconstruction.
    """

    vae_psnr: float
    inversion_psnr: float
    guidance_psnr: float
    inversion_error: float
    guidance_error: float
    fault: str
    worst_residual: float
    worst_contraction: float
    noise_mean: float
    noise_std: float
    noise_autocorrelation: float
    evaluations: int
    image: Image.Image

    def lines(self) -> list[str]:
        """What a reader should know, a line each."""
        lines = [
            f"autoencoder  {self.vae_psnr:6.2f} dB  the ceiling",
            f"inversion    {self.inversion_psnr:6.2f} dB  latent error {self.inversion_error:.1e}",
            f"guidance     {self.guidance_psnr:6.2f} dB  latent error {self.guidance_error:.1e}",
        ]
        advice = {
            "none": "the image comes back as well as the autoencoder allows",
            "inversion": "the inversion is at fault: more steps, --method pec or fixed-point, guidance 1",
            "guidance": "the guidance is at fault: lower it, or use --source npi or delta",
        }
        return [*lines, advice[self.fault]]


def reconstruct(
    backbone: Backbone,
    archive: Archive,
    concepts: Sequence[Concept] = (),
    config: EditConfig | None = None,
    on_step: Progress | None = None,
) -> Budget:
    """Sample an inverted image again with its source prompt, and say what each stage loses.

    Args:
        backbone: the model that the archive was made with.
        archive: the inverted image.
        concepts: the learned words of the source prompt.
        config: guidance and source option to try; its skip is not looked at.
        on_step: called after every step with (steps done, steps in all), for each of the two.

    Raises:
        EditError: If the archive does not belong to the model or the concepts, or latents are not finite.
    """
    config = replace(config or EditConfig(), skip=0.0, source_guidance=None)
    plain = EditConfig(guidance_scale=archive.config.guidance_scale, source="none")
    source = archive.source_prompt
    first = edit(backbone, archive, source, concepts, plain, on_step)
    second = first if config == plain else edit(backbone, archive, source, concepts, config, on_step)
    ceiling, inverted, guided = (
        pixel_psnr(one, archive.image) for one in (archive.reconstruction, first.image, second.image)
    )
    clean, noise = archive.trajectory.states[-1], archive.trajectory.states[0]
    errors = [relative_rms(one.latents.cpu(), clean).max().item() for one in (first, second)]
    finite = [value for value in archive.trajectory.contractions if not math.isnan(value)]
    fault = "inversion" if ceiling - inverted >= inverted - guided else "guidance"
    return Budget(
        vae_psnr=ceiling,
        inversion_psnr=inverted,
        guidance_psnr=guided,
        inversion_error=errors[0],
        guidance_error=errors[1],
        fault="none" if guided > ceiling - _NOTICEABLE else fault,
        worst_residual=max(archive.trajectory.residuals, default=math.nan),
        worst_contraction=max(finite, default=math.nan),
        noise_mean=noise.mean().item(),
        noise_std=noise.std().item(),
        noise_autocorrelation=autocorrelation(noise),
        evaluations=first.evaluations + (second.evaluations if second is not first else 0),
        image=second.image,
    )


def autocorrelation(noise: Tensor) -> float:
    """Correlation of horizontal neighbours in `[B, C, h, w]`; 0 for white noise, NaN if it is one cell wide."""
    centred = noise - noise.mean()
    return ((centred[..., 1:] * centred[..., :-1]).mean() / centred.square().mean()).item()
