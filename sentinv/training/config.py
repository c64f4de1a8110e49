"""Hyper-parameters: frozen, keyword-only, checked when made. No paths, devices or loggers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, cast, get_args

from sentinv.adapters import MAX_RANK
from sentinv.concepts.scenes import STYLES

Kind = Literal["object", "style"]
Schedule = Literal["constant", "cosine"]
Stop = Literal["never", "auto"]
SMALL = 32
"""Side of the latents up to which a model is small: those of Stable Diffusion have 64 and more."""

ITEMS = 4
"""Items that a step of a word has in all, unless told otherwise."""

LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2")
"""Ends of the names of the modules that a LoRA has layers for: attention, feed-forward, and the convolutions of the blocks."""

AS_USUAL = cast(int, None)
"""A number of items that nobody has given; a config that is made has one."""

_KINDS = {bool: "True or False", int: "a whole number"}


MEASURED_RATES = {"toybox": 0.95}
"""Model → the relative learning rate with which its words were best, of those that were tried, falling along half a cosine."""

_USUAL_RATE = 0.4


def own_rate(model: str) -> float:
    """The relative learning rate where none is asked for.

    For a model that nobody has measured it has to be small: what is too slow is seen, and mended by more steps, while rows that
    have left the vocabulary's directions behind are only seen to be worse at obeying prompts. The published recipes for Stable
    Diffusion 1.5 (diffusers' 5e-4 times a batch of 4, Gal et al.'s 5e-3; 768 entries, median length .39) are .14 and .35
    throughout; .4 that falls along half a cosine takes a random walk as far as .25 throughout.

    Args:
        model: as `sentinv.load` takes it.
    """
    return MEASURED_RATES.get(model, _USUAL_RATE)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the placeholder rows are trained.

    Attributes:
        steps: optimiser steps, ≥ 0 (0 keeps the starting rows).
        relative_learning_rate: ρ, AdamW's step size at its highest as a share of what the vocabulary's entries measure, > 0:
            for each text encoder ρ · (median length of its rows) / √(their width). AdamW moves each entry by about its step
            size, and so a step is about ρ median rows long, whatever the model. None for the model's own: `own_rate`.
        learning_rate: the step size itself in its place, > 0, the same for all text encoders; None for ρ's.
        max_norm: the longest that rows may get, in median lengths of their vocabulary's rows, > 0; None for no limit. Rows that
            start longer may stay as long as they are.
        fixed_norms: rows keep the length they start with: gradients lose their part along the row, and after each step the row
            is brought back to its length (as Kim et al. 2025, "Directional Textual Inversion", arXiv:2512.13672, do). They are
            within `max_norm` then, whatever it is: it lets rows be as long as they start.
        batch_size: (timestep, noise, template) triples per step, ≥ 1. If not given, as many as make four items with the blended
            ones.
        schedule: the learning rate stays, or falls to 0 along half a cosine.
        betas: AdamW's two decay rates, each in [0, 1). The usual (0.9, 0.999) average over ten and a thousand steps; a
            hundred steps do better with shorter memories (`benchmarks/ablations/optimizer.toml`).
        min_snr: gamma of the min-SNR weighting (Hang et al. 2023, arXiv:2303.09556) for latents of 16 by 16, > 0; None for no
            weighting. A model whose latents have another side gets it times (side / 16)², so that the default is 0.8 for
            Stable Diffusion 1 and 3.2 for XL (`sentinv.training.objective.gamma_of`). Those who train a model take 5. For the
            rows of a word less is better: what a picture shows and where is decided at high noise, where the plain loss,
            being small, hardly counts (as Huang et al. 2023, arXiv:2303.13495, found too).
        flip: also learn from the mirrored image: it gains nothing (`benchmarks/first-edition/rates`), and the thing loses
            its side.
        kind: which of the field's templates describe the image: those of an object or those of a style.
        templates: prompts of one's own in their place, each with ``{}`` for the placeholder.
        mask_background: weight of the loss outside the mask, in [0, 1].
        blended: items per step, in [0, batch_size], that show the same noisy pictures with a scene or style of their own in
            the prompt: what is in the mask is to be the picture, what is outside it what the model as it was would make of
            the words without a place and that scene (`sentinv.training.blend`). Not for styles. If not given, as many as
            are usual and the batch allows.
        scenes: the places of these prompts, such as "on the moon"; those of `sentinv.concepts.scenes` if None.
        styles: the styles of these prompts, each with ``{}``; none if None: there the model as it was has the only say, and
            what it is told need not be what the thing is.
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
    relative_learning_rate: float | None = None
    learning_rate: float | None = None
    max_norm: float | None = 3.0
    fixed_norms: bool = False
    batch_size: int = AS_USUAL
    schedule: Schedule = "cosine"
    betas: tuple[float, float] = (0.8, 0.9)
    min_snr: float | None = 0.05
    flip: bool = False
    kind: Kind = "object"
    templates: tuple[str, ...] | None = None
    mask_background: float = 0.0
    blended: int = AS_USUAL
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

    usual_styles: ClassVar[tuple[str, ...]] = ()
    """The styles of blended items where none are given."""

    usual_items: ClassVar[Mapping[str, int]] = {"batch_size": 2, "blended": 2}
    """Name of a number of items per step → what it is if it is not given, and the batch is large enough."""

    @property
    def items(self) -> int:
        """Items that a step has in all."""
        return self.batch_size + self.blended

    def rows_rate(self, model: str, median_norm: float, dim: int) -> float:
        """Learning rate of the rows of a text encoder.

        Args:
            model: its name, as `sentinv.load` takes it.
            median_norm: median length of its vocabulary's rows.
            dim: width of a row.
        """
        return self.absolute_rows_rate or self.rho(model) * median_norm / dim**0.5

    def rho(self, model: str) -> float:
        """The relative learning rate for a model."""
        return own_rate(model) if self.relative_learning_rate is None else self.relative_learning_rate

    @property
    def absolute_rows_rate(self) -> float | None:
        """Learning rate of the rows where it is not relative to their vocabulary's."""
        return self.learning_rate

    def share_of_rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0, as a share of the highest."""
        if self.schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (step / max(1, self.steps)))) / 2

    def rate_in_words(self, model: str) -> str:
        """The rows' learning rate for a model, for people."""
        absolute = self.absolute_rows_rate
        return f"relative learning rate {self.rho(model):g}" if absolute is None else f"learning rate {absolute:g}"

    def parts(self, side: int) -> int:
        """Parts that a step is computed in, one after another, with latents of such a side."""
        return 1

    def __post_init__(self) -> None:
        unasked = [name for name in self.usual_items if getattr(self, name) is None]
        for name, kind in ((one.name, one.type) for one in fields(self)):
            if kind in (bool, int) and name not in unasked:
                check(self, name, type(getattr(self, name)) is kind, _KINDS[kind])
        for name in unasked:
            object.__setattr__(self, name, self._usual(name))
        positive = ("batch_size", "evaluate_every", "evaluation_timesteps", "evaluation_noises", "patience")
        for name in (*positive, "checkpoint_every"):
            check(self, name, getattr(self, name) >= 1, "at least 1")
        check(self, "steps", self.steps >= 0, "at least 0")
        for name in ("relative_learning_rate", "learning_rate", "max_norm"):
            value = getattr(self, name)
            check(self, name, value is None or 0 < value < float("inf"), "finite and above 0")
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

    def _usual(self, name: str) -> int:
        """Items of a kind where nobody has said how many."""
        usual = self.usual_items[name]
        if name == "batch_size":
            blended = self.blended if self.blended is not None else 0 if self.kind == "style" else usual
            return max(ITEMS - blended, blended)
        return 0 if name == "blended" and self.kind == "style" else min(usual, max(self.batch_size, 0))


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
        learning_rate: of the LoRA's weights, > 0.
        mask_background: the word's own prompts show the whole picture, and so this is 1.
        schedule: the rates stay.
        min_snr: see `TrainConfig`; where layers learn, detail counts too, which is decided at lower noise than what a picture
            shows and where (`benchmarks/noise.toml`). At 16, for Stable Diffusion 1, hardly a noise level counts less than in
            the plain loss, with which LoRAs are trained there.
        styles: those of `sentinv.concepts.scenes` if None.
        batch_size: see `TrainConfig`; two, with as many blended ones and one more, cost less than twice a step of a word alone.
        others: items per step, in [0, batch_size], of other things, which the model is to show as before. If not given, as
            for `blended`.
        others_weight: what such an item costs whose answer strays by all that its words do, the guidance direction, > 0: more
            keeps other prompts closer to what they were, and the thing less like itself.
        rank: of each layer, ≥ 1.
        targets: ends of the names of the UNet's modules that get a layer. With attention alone the thing is less like itself
            (`benchmarks/tuning.toml`).
        train_rows: let the word's rows learn too.
        relative_learning_rate: theirs, if `rows_learning_rate` is None.
        rows_learning_rate: theirs, absolute.

    Raises:
        ValueError: If a value is out of its range, or not of its type.
    """

    relative_learning_rate: float | None = 0.25
    learning_rate: float = 2e-3
    schedule: Schedule = "constant"
    betas: tuple[float, float] = (0.9, 0.999)
    min_snr: float | None = 1.0
    flip: bool = False
    mask_background: float = 1.0
    batch_size: int = 2
    others: int = AS_USUAL
    others_weight: float = 0.1
    rank: int = 3
    targets: tuple[str, ...] = LAYERS
    train_rows: bool = False
    rows_learning_rate: float | None = None

    usual_styles: ClassVar[tuple[str, ...]] = STYLES
    usual_items: ClassVar[Mapping[str, int]] = {"batch_size": 2, "blended": 2, "others": 1}

    @property
    def items(self) -> int:
        """Items that a step has in all."""
        return super().items + self.others

    @property
    def absolute_rows_rate(self) -> float | None:
        """Learning rate of the rows where it is not relative to their vocabulary's."""
        return self.rows_learning_rate

    def parts(self, side: int) -> int:
        """Parts that a step is computed in, so that it needs hardly more memory than a step of a word alone.

        Where a LoRA learns, an item keeps twice as much for the backward pass as where rows do
        (`benchmarks/tuning_cost.py`). Small models keep little, and parts cost them time: theirs is one.

        Args:
            side: of the latents.
        """
        most = max(self.batch_size, ITEMS) // 2
        return -(-self.items // most) if side > SMALL else 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "others", 0 <= self.others <= self.batch_size, f"in [0, {self.batch_size}], which is batch_size")
        check(self, "rank", 1 <= self.rank <= MAX_RANK, f"in [1, {MAX_RANK}]")
        check(self, "targets", len(self.targets) > 0 and all(self.targets), "names such as 'to_q'")
        check(self, "learning_rate", self.learning_rate is not None, "finite and above 0")
        rate = self.rows_learning_rate
        check(self, "rows_learning_rate", rate is None or 0 < rate < float("inf"), "finite and above 0")
        check(self, "others_weight", 0 < self.others_weight < float("inf"), "finite and above 0")
