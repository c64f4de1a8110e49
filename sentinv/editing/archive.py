"""What the inversion of one image found, and the file that later edits take it from.

The file is safetensors: `states` (and `offsets` where there are some), `image` and `reconstruction` as 8-bit pixels; the
header holds the settings, the steps of sampling, what the archive belongs to, and a sha256 of the content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sentinv.diffusion.ddim import Step, ddim_steps
from sentinv.editing.inversion import Asked, InversionConfig, Trajectory
from sentinv.errors import ConceptError, EditError
from sentinv.files.atomic import StrPath, atomic_write, shown
from sentinv.files.tensors import DIGEST, content_digest, read_safetensors, safetensors_bytes
from sentinv.version import __version__

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone

MAX_BYTES = 1 << 30
_FORMAT = "archive-1"


@dataclass(frozen=True, kw_only=True, eq=False)
class Archive:
    """An inverted image.

    Attributes:
        image: as the model gets it: RGB, cropped and scaled to its resolution.
        reconstruction: the same after encoding and decoding, which no edit can be better than.
        trajectory: the latents at every level, `[N + 1, 1, C, h, w]`, on the CPU.
        steps: N steps of sampling.
        config: how it was inverted.
        source_prompt: what the image was said to show.
        model: name of the model.
        fingerprint: of the model, `Backbone.fingerprint`.
        prediction_type: of the model.
        concepts: placeholder → sha256 of its rows, for those of the source prompt.
        evaluations: UNet evaluations that the inversion cost.
        offsets: guidance scale → `[N, 1, C, h, w]`, what makes sampling at that guidance exact (`find_offsets`).
    """

    image: Image.Image
    reconstruction: Image.Image
    trajectory: Trajectory
    steps: tuple[Step, ...]
    config: InversionConfig
    source_prompt: str
    model: str
    fingerprint: str
    prediction_type: str
    concepts: Mapping[str, str]
    evaluations: int
    offsets: Mapping[float, Tensor] = field(default_factory=dict)

    def with_offsets(self, guidance_scale: float, offsets: Tensor) -> Archive:
        """Return the archive with offsets for one more guidance scale."""
        return replace(self, offsets={**self.offsets, float(guidance_scale): offsets.cpu()})

    def realigned(self, denoise: Asked) -> Asked:
        """Ask a model where the inversion asked it: DirectEdit (Yang & Ye 2026, arXiv:2605.02417, direct alignment).

        "ddim" goes from a state to the noisier one with what the model says of the cleaner. Sampling asks at the noisier,
        and strays. Asked at the latents plus the stored difference of the two states, the model says the same again as
        long as the latents are those of the inversion; an edit, which leaves them, takes the difference along.

        Raises:
            EditError: If the image was inverted by another method, which asked elsewhere.
        """
        if self.config.method != "ddim":
            raise EditError(
                f'source "direct" goes the way of method "ddim" back, got an archive of "{self.config.method}": invert the '
                "image by that method"
            )
        moves = dict(zip(self.steps, self.trajectory.states.diff(dim=0), strict=True))
        return lambda latents, step: denoise(latents + moves[step].to(latents.device), step)

    def check(self, backbone: Backbone, concepts: Sequence[Concept] = ()) -> None:
        """Refuse a model, a noise schedule or learned words that are not those of the inversion.

        Raises:
            EditError: If so.
        """
        if self.fingerprint != backbone.fingerprint:
            raise EditError(
                f"the archive was made with another model ({self.model}) than {backbone.name}: invert the image again"
            )
        same_steps = tuple(ddim_steps(backbone.schedule, self.config.steps)) == self.steps
        if not same_steps or self.prediction_type != backbone.schedule.prediction_type:
            raise EditError(
                f"the archive was made with another scheduler than that of {backbone.name}: its timestep_spacing, "
                "steps_offset, set_alpha_to_one, betas or prediction_type differ; invert the image again"
            )
        given = {concept.token: concept.digest for concept in concepts}
        for token, digest in self.concepts.items():
            if given.get(token) != digest:
                what = "another" if token in given else "no"
                raise EditError(
                    f"the archive's source prompt has {token}, and {what} concept of that name is given: give the one it was "
                    "made with, or invert the image again"
                )

    def check_image(self, image: Image.Image) -> None:
        """Refuse an image that is not the inverted one, both as the model gets them.

        Raises:
            EditError: If so.
        """
        if image.size != self.image.size or image.tobytes() != self.image.tobytes():
            raise EditError("the archive was made of another image: give that one, or invert this one")

    def save(self, path: StrPath, *, overwrite: bool = False) -> Path:
        """Write the archive's file, whole or not at all.

        Raises:
            SentinvError: If it cannot be written, or exists and `overwrite` is not set.
        """
        tensors = {"states": self.trajectory.states.cpu().contiguous()}
        for name in ("image", "reconstruction"):
            tensors[name] = torch.from_numpy(np.array(getattr(self, name).convert("RGB")))
        scales = sorted(self.offsets)
        if scales:
            tensors["offsets"] = torch.stack([self.offsets[scale] for scale in scales])
        facts = {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "prediction_type": self.prediction_type,
            "source_prompt": self.source_prompt,
            "concepts": dict(self.concepts),
            "config": asdict(self.config),
            "grid": [list(asdict(step).values()) for step in self.steps],
            "residuals": self.trajectory.residuals,
            "contractions": [None if value != value else value for value in self.trajectory.contractions],  # NaN → null
            "offsets": scales,
            "evaluations": self.evaluations,
        }
        header = {
            "sentinv.format": _FORMAT,
            "sentinv.version": __version__,
            "sentinv.archive": json.dumps(facts),
        }
        header[DIGEST] = content_digest(tensors, header)
        return atomic_write(path, safetensors_bytes(tensors, header), overwrite=overwrite)

    @classmethod
    def load(cls, path: StrPath) -> Archive:
        """Read an archive.

        Raises:
            EditError: If the file is missing, damaged or no archive: one line that names the file.
        """
        name = shown(path)
        try:
            tensors, header = read_safetensors(path, max_bytes=MAX_BYTES)
        except ConceptError as error:
            raise EditError(str(error)) from error
        if header.get("sentinv.format") != _FORMAT:
            raise EditError(f"{name} is not an archive of an inverted image; make one with --save-archive")
        if header.get(DIGEST) != content_digest(tensors, header):
            raise EditError(f"{name} is damaged: its content does not match its sha256; invert the image again")
        try:
            return cls._of(tensors, json.loads(header["sentinv.archive"]))
        except (KeyError, TypeError, ValueError) as error:
            raise EditError(f"{name} is not a sound archive: {error}; invert the image again") from error

    @classmethod
    def _of(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> Archive:
        own = dict(facts)
        contractions = tuple(float("nan") if value is None else value for value in own.pop("contractions"))  # type: ignore[attr-defined]
        trajectory = Trajectory(tensors["states"], tuple(own.pop("residuals")), contractions)  # type: ignore[arg-type]
        steps = tuple(Step(*step) for step in own.pop("grid"))  # type: ignore[attr-defined]
        scales = own.pop("offsets")
        if trajectory.states.ndim != 5 or len(trajectory.states) != len(steps) + 1:
            raise ValueError(f"states of shape {list(trajectory.states.shape)} on {len(steps)} steps")
        return cls(
            image=Image.fromarray(tensors["image"].numpy()),
            reconstruction=Image.fromarray(tensors["reconstruction"].numpy()),
            trajectory=trajectory,
            steps=steps,
            config=InversionConfig(**own.pop("config")),  # type: ignore[arg-type]
            offsets=dict(zip(scales, tensors["offsets"], strict=True)) if scales else {},  # type: ignore[call-overload]
            **own,  # type: ignore[arg-type]
        )
