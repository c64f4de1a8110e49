"""Hyper-parameters: frozen, keyword-only, checked when made. No paths, devices or loggers."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

Kind = Literal["object", "style"]
Schedule = Literal["constant", "cosine"]
Stop = Literal["never", "auto"]
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
    evaluate_every: int = 25
    evaluation_timesteps: int = 8
    evaluation_noises: int = 2
    stop: Stop = "never"
    patience: int = 3
    min_improvement: float = 1e-3
    gradient_checkpointing: bool = False
    checkpoint_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            kind = type(field.default)
            if kind in (bool, int):
                _check(self, field.name, type(getattr(self, field.name)) is kind, _KINDS[kind])
        positive = ("batch_size", "evaluate_every", "evaluation_timesteps", "evaluation_noises", "patience")
        for name in (*positive, "checkpoint_every"):
            _check(self, name, getattr(self, name) >= 1, "at least 1")
        _check(self, "steps", self.steps >= 0, "at least 0")
        _check(self, "learning_rate", 0 < self.learning_rate < float("inf"), "finite and above 0")
        _check(self, "mask_background", 0 <= self.mask_background <= 1, "in [0, 1]")
        _check(self, "min_improvement", 0 <= self.min_improvement < 1, "in [0, 1)")
        _check(
            self, "betas", len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"
        )
        gamma = self.min_snr
        _check(self, "min_snr", gamma is None or 0 < gamma < float("inf"), "finite and above 0, or None")
        for name, choices in (("schedule", Schedule), ("kind", Kind), ("stop", Stop)):
            _check(self, name, getattr(self, name) in get_args(choices), f"one of {', '.join(get_args(choices))}")
        templates = self.templates
        _check(
            self,
            "templates",
            templates is None or (len(templates) > 0 and all("{}" in t for t in templates)),
            "prompts with {}",
        )
        _check(self, "seed", 0 <= self.seed < 2**63, "in [0, 2**63)")


def _check(config: object, name: str, holds: bool, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{type(config).__name__}.{name} must be {wanted}, got {getattr(config, name)!r}")
