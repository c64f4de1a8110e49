"""Hyper-parameters: frozen, keyword-only, checked when made. No paths, devices or loggers."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from sentinv.adapters import MAX_RANK

Kind = Literal["object", "style"]
Schedule = Literal["constant", "cosine"]
Stop = Literal["never", "auto"]
SMALL = 32
"""Side of the latents up to which a model is small: those of Stable Diffusion have 64 and more."""

_KINDS = {bool: "True or False", int: "a whole number"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the placeholder rows are trained.

    Attributes:
        steps: optimiser steps, ≥ 0 (0 keeps the starting rows).
        learning_rate: AdamW's step size at its highest, > 0, in units of the rows' own entries.
        batch_size: (timestep, noise, template) triples per step, ≥ 1.
        schedule: the learning rate stays, or falls to 0 along half a cosine.
        betas: AdamW's two decay rates, each in [0, 1). The usual (0.9, 0.999) average over ten and a thousand steps; a
            hundred steps do better with shorter memories (`benchmarks/ablations/optimizer.toml`).
        min_snr: gamma of the min-SNR weighting (Hang et al. 2023, arXiv:2303.09556), > 0; None for no weighting. Those who
            train a model take 5. For the rows of a word less is better: what a picture shows and where is decided at high
            noise, where the plain loss, being small, hardly counts (as Huang et al. 2023, arXiv:2303.13495, found too).
        flip: also learn from the mirrored image. Turn it off for lettering and faces.
        kind: which of the field's templates describe the image: those of an object or those of a style.
        templates: prompts of one's own in their place, each with ``{}`` for the placeholder.
        mask_background: weight of the loss outside the mask, in [0, 1].
        blended: items per step, in [0, batch_size], that show the same noisy pictures with a scene or style of their own in
            the prompt: what is in the mask is to be the picture, what is outside it what the model as it was would make of
            the words without a place and that scene (`sentinv.training.blend`). Not for styles.
        scenes: the places of these prompts, such as "on the moon"; those of `sentinv.concepts.scenes` if None.
        styles: the styles of these prompts, each with ``{}``; likewise.
        evaluate_every: steps between two evaluations on the fixed grid, ≥ 1.
        evaluation_timesteps: timesteps of that grid, ≥ 1.
        evaluation_noises: noises per timestep of that grid, ≥ 1.
        stop: "auto" ends when the evaluation loss has not fallen `patience` times in a row.
        patience: see `stop`, ≥ 1.
        min_improvement: the smallest relative fall of the evaluation loss that counts for `stop`, in [0, 1).
        gradient_checkpointing: recompute the UNet's activations in the backward pass: less memory, about a third slower.
        checkpoint_every: steps between two checkpoints, ≥ 1. Only used where a folder for them is given.
        seed: of every random draw of the training, in [0, 2**63).

    Raises:
        ValueError: If a value is out of its range, or not of its type.
    """

    steps: int = 100
    learning_rate: float = 2e-2
    batch_size: int = 4
    schedule: Schedule = "constant"
    betas: tuple[float, float] = (0.8, 0.9)
    min_snr: float | None = 0.05
    flip: bool = True
    kind: Kind = "object"
    templates: tuple[str, ...] | None = None
    mask_background: float = 0.0
    blended: int = 0
    scenes: tuple[str, ...] | None = None
    styles: tuple[str, ...] | None = None
    evaluate_every: int = 25
    evaluation_timesteps: int = 8
    evaluation_noises: int = 2
    stop: Stop = "never"
    patience: int = 3
    min_improvement: float = 1e-3
    gradient_checkpointing: bool = False
    checkpoint_every: int = 50
    seed: int = 0

    @property
    def items(self) -> int:
        """Items that a step has in all."""
        return self.batch_size + self.blended

    def parts(self, side: int) -> int:
        """Parts that a step is computed in, one after another, with latents of such a side."""
        return 1

    def __post_init__(self) -> None:
        for field in fields(self):
            kind = type(field.default)
            if kind in (bool, int):
                check(self, field.name, type(getattr(self, field.name)) is kind, _KINDS[kind])
        positive = ("batch_size", "evaluate_every", "evaluation_timesteps", "evaluation_noises", "patience")
        for name in (*positive, "checkpoint_every"):
            check(self, name, getattr(self, name) >= 1, "at least 1")
        check(self, "steps", self.steps >= 0, "at least 0")
        check(self, "learning_rate", 0 < self.learning_rate < float("inf"), "finite and above 0")
        check(self, "mask_background", 0 <= self.mask_background <= 1, "in [0, 1]")
        check(self, "min_improvement", 0 <= self.min_improvement < 1, "in [0, 1)")
        check(
            self, "betas", len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"
        )
        gamma = self.min_snr
        check(self, "min_snr", gamma is None or 0 < gamma < float("inf"), "finite and above 0, or None")
        for name, choices in (("schedule", Schedule), ("kind", Kind), ("stop", Stop)):
            check(self, name, getattr(self, name) in get_args(choices), f"one of {', '.join(get_args(choices))}")
        for name in ("templates", "styles"):
            own = getattr(self, name)
            check(self, name, own is None or (len(own) > 0 and all("{}" in t for t in own)), "prompts with {}")
        check(self, "scenes", self.scenes is None or len(self.scenes) > 0, "places such as 'on the moon'")
        check(self, "blended", 0 <= self.blended <= self.batch_size, f"in [0, {self.batch_size}], which is batch_size")
        check(self, "blended", not self.blended or self.kind == "object", "0 where a style is learned")
        check(self, "seed", 0 <= self.seed < 2**63, "in [0, 2**63)")


def check(config: object, name: str, holds: bool, wanted: str) -> None:
    """Refuse a value of a record.

    Raises:
        ValueError: If it does not hold.
    """
    if not holds:
        raise ValueError(f"{type(config).__name__}.{name} must be {wanted}, got {getattr(config, name)!r}")


@dataclass(frozen=True, kw_only=True)
class TuneConfig(TrainConfig):
    """How a LoRA is trained around a word. What is not told here is as in `TrainConfig`.

    Attributes:
        learning_rate: of the LoRA's weights.
        mask_background: the word's own prompts show the whole picture, and so this is 1.
        batch_size: see `TrainConfig`; three, with as many blended ones and one more, cost twice a step of a word alone.
        others: items per step, in [0, batch_size], of other things, which the model is to show as before.
        others_weight: what such an item costs whose answer strays by all that its words do, the guidance direction, > 0: more
            keeps other prompts closer to what they were, and the thing less like itself.
        rank: of each layer, ≥ 1.
        targets: ends of the names of the UNet's modules that get a layer.
        train_rows: let the word's rows learn too.
        rows_learning_rate: theirs.

    Raises:
        ValueError: If a value is out of its range, or not of its type.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    flip: bool = False
    mask_background: float = 1.0
    batch_size: int = 3
    blended: int = 3
    others: int = 1
    others_weight: float = 0.1
    rank: int = 8
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    train_rows: bool = False
    rows_learning_rate: float = 5e-3

    @property
    def items(self) -> int:
        """Items that a step has in all."""
        return super().items + self.others

    def parts(self, side: int) -> int:
        """Parts that a step is computed in, so that it needs hardly more memory than a step of a word alone.

        Where a LoRA learns, an item keeps 1.4 times as much for the backward pass as where rows do
        (`benchmarks/tuning_cost.py`). Small models keep little, and parts cost them time: theirs is one.

        Args:
            side: of the latents.
        """
        most = 3 * max(self.batch_size, TrainConfig.batch_size) // 4
        return -(-self.items // most) if side > SMALL else 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "others", 0 <= self.others <= self.batch_size, f"in [0, {self.batch_size}], which is batch_size")
        check(self, "rank", 1 <= self.rank <= MAX_RANK, f"in [1, {MAX_RANK}]")
        check(self, "targets", len(self.targets) > 0 and all(self.targets), "names such as 'to_q'")
        for name in ("rows_learning_rate", "others_weight"):
            check(self, name, 0 < getattr(self, name) < float("inf"), "finite and above 0")
