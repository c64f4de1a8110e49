"""What the editing study compares: the ways to edit, by name, and how far each is turned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from sentinv.editing.edit import Held
from sentinv.editing.inversion import Method

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone

CONTROLS = ("copy", "autoencoder", "regenerate", "sdedit")


class EditingArm(NamedTuple):
    """A way to edit.

    Attributes:
        method: of inversion, or one that keeps no archive: "flow-edit", which inverts nothing, and those of `THRESHOLDS`.
        source: what holds the image in place.
        guidance_scale: the arm's own; the study's if it has neither this nor a share.
        share: of the model's own guidance, in place of `guidance_scale`.
    """

    method: Method | Literal["flow-edit", "leditspp", "leditspp-wide"]
    source: Held
    guidance_scale: float | None = None
    share: float | None = None

    def guidance(self, study: EditingStudy, backbone: Backbone) -> float | None:
        """The guidance scale of the arm's edits; None for what `EditConfig` takes without one."""
        if self.share is not None:
            return self.share * backbone.guidance_scale
        return study.guidance_scale if self.guidance_scale is None else self.guidance_scale


ARMS: Mapping[str, EditingArm] = {
    "ddim-none": EditingArm("ddim", "none"),
    "ddim-7.5": EditingArm("ddim", "none", 7.5),
    "pec-none": EditingArm("pec", "none"),
    "pec-none-half": EditingArm("pec", "none", share=0.5),
    "pec-npi": EditingArm("pec", "npi"),
    "pec-npi-full": EditingArm("pec", "npi", share=1.0),
    "pec-delta": EditingArm("pec", "delta"),
    "pec-delta-half": EditingArm("pec", "delta", share=0.5),
    "ddpm-npi": EditingArm("ddpm", "npi"),
    "ddpm-none": EditingArm("ddpm", "none"),
    "flow-edit": EditingArm("flow-edit", "none"),
    "direct-inversion": EditingArm("ddim", "none"),  # without injected attention, its source branch is read by nobody
    "direct-edit": EditingArm("ddim", "direct"),
    "direct-edit-half": EditingArm("ddim", "direct", share=0.5),
    "leditspp": EditingArm("leditspp", "none"),
    "leditspp-half": EditingArm("leditspp", "none", share=0.5),
    "leditspp-wide": EditingArm("leditspp-wide", "none"),
    "leditspp-wide-half": EditingArm("leditspp-wide", "none", share=0.5),
}
DEFAULT_ARMS = tuple(name for name in ARMS if name.startswith(("ddim-", "pec-", "ddpm-")))
"""Those of the published tables; the others, which are peers' ways, are run only where they are named."""
THRESHOLDS = {"leditspp": 0.75, "leditspp-wide": 0.5}
"""Share of the cells that LEDITS++ leaves out: its authors' example's, and less, for edits that change most of a picture."""
ROUND_TRIPS: tuple[Method, ...] = ("ddim", "pec", "fixed-point", "ddpm")


@dataclass(frozen=True, kw_only=True)
class EditingStudy:
    """What is compared.

    Attributes:
        steps: DDIM steps.
        guidance_scale: of every edit but those of arms that have their own; the model's own if None, half of it with
            source "npi".
        skips: shares of the steps that are left out; SDEdit starts at the same levels.
        arms: of `ARMS`.
        seed: of the noise of SDEdit, of regenerating, of "ddpm", "flow-edit" and "leditspp".
    """

    steps: int = 50
    guidance_scale: float | None = None
    skips: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    arms: tuple[str, ...] = DEFAULT_ARMS
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown or not self.skips:
            raise ValueError(
                f"expected skips, and arms of {', '.join(ARMS)}, got {unknown[0] if unknown else 'no skips'}"
            )
