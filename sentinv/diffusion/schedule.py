"""The noise process that a model was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sentinv.errors import ModelError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True, eq=False, kw_only=True)
class NoiseSchedule:
    """How much noise there is at each timestep, and what the model says of it.

    Attributes:
        alphas_cumprod: `[T]` float32 on the CPU, the product of 1 - beta up to each timestep.
        final_alpha_cumprod: the same "before" timestep 0, where sampling ends.
        prediction_type: what the model predicts: "epsilon", "v_prediction" or "sample".
        config: of the diffusers scheduler: spacing and offset of sampling timesteps among others.
        model: name of the model, for messages.

    Raises:
        ModelError: If the prediction type is unknown.
    """

    alphas_cumprod: Tensor
    final_alpha_cumprod: float = 1.0
    prediction_type: str = "epsilon"
    config: Mapping[str, Any]
    model: str = "the model"

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise ModelError(
                f"{self.model}: expected a prediction_type of {PREDICTION_TYPES}, got {self.prediction_type!r}"
            )

    @classmethod
    def of(cls, scheduler: Any, model: str) -> NoiseSchedule:
        """Read it from any diffusers scheduler with betas; only its config is looked at.

        Args:
            scheduler: the scheduler.
            model: name of the model that it belongs to.

        Raises:
            ModelError: If it has no betas, or an unknown prediction type.
        """
        from diffusers import DDIMScheduler

        asked = scheduler.config
        if not {"beta_start", "trained_betas"} & asked.keys() or asked.get("use_flow_sigmas"):
            raise ModelError(
                f"{model}: expected a scheduler with betas, as Stable Diffusion 1, 2 and XL have, got "
                f"{type(scheduler).__name__}: models of other noise processes (EDM, flow matching) are not supported"
            )
        clips = asked.get("clip_sample", False)  # DDIMScheduler's default would be to clip
        ddim = DDIMScheduler.from_config(asked, clip_sample=clips)
        # what a scheduler of another class has by default is not what the model was made for
        config = dict(asked if isinstance(scheduler, DDIMScheduler) else ddim.config)
        return cls(
            alphas_cumprod=ddim.alphas_cumprod.clone(),
            final_alpha_cumprod=float(ddim.final_alpha_cumprod),
            prediction_type=config.get("prediction_type", "epsilon"),
            config=config,
            model=model,
        )

    def with_config(self, config: Mapping[str, Any]) -> NoiseSchedule:
        """The schedule of another config of `DDIMScheduler`."""
        from diffusers import DDIMScheduler

        # what a list in it names as filled in, diffusers fills in again, whatever its value is by now
        told = {name: value for name, value in config.items() if name != "_use_default_values"}
        return NoiseSchedule.of(DDIMScheduler.from_config(told), self.model)

    @property
    def train_timesteps(self) -> int:
        """Number of timesteps, T."""
        return len(self.alphas_cumprod)
