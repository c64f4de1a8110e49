"""From clean latents back to the noise they come from, along the steps that sample them.

A DDIM step from the noisier side to the cleaner is `x_clean = ddim_step(x, eps(x))`. To go back, x solves
`x = ddim_step(x_clean, eps(x))` with the two levels swapped: an implicit equation, with the model asked at the very timestep
that sampling will ask at. The methods differ in how well they solve it:

- "ddim": eps at x_clean instead of x (Dhariwal & Nichol 2021; Mokady et al. 2022, arXiv:2211.09794). First order.
- "fixed-point": iterate (Pan et al. 2023, arXiv:2309.04907; Meiri et al. 2023, arXiv:2312.12540). K iterations: order K + 1.
- "pec": predict x with the eps of the steps before, extrapolated linearly in the log signal-to-noise ratio, evaluate there
  once and correct (as multistep methods for ordinary differential equations do); the first two steps, which have no
  history, are iterated. About as cheap as "ddim", much more exact.
- "ddpm": independent noise for every level, and what remains is kept as noise maps (Huberman-Spiegelglas et al. 2023,
  arXiv:2304.06140). No path, but an exact one at any guidance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from sentinv.diffusion.conversions import add_noise
from sentinv.diffusion.ddim import Step, ddim_step, ddpm_sigma
from sentinv.errors import EditError
from sentinv.generation.denoiser import Denoiser
from sentinv.generation.generate import Progress

Method = Literal["pec", "ddim", "fixed-point", "ddpm"]
Asked = Callable[[Tensor, Step], Tensor]
"""(latents `[B, C, h, w]`, step) → epsilon: a `Denoiser`."""

_EXTRA_PASSES = 3
"""More evaluations of "pec" at its first two steps, whose predictions are poor."""


@dataclass(frozen=True, kw_only=True)
class InversionConfig:
    """How an image is inverted.

    Attributes:
        method: see the module.
        steps: of sampling, ≥ 1.
        guidance_scale: of the inversion, ≥ 0. Above 1 the iteration does not converge on coarse grids and sampling is
            unstable: invert at 1 and let offsets make other scales exact.
        tolerance: of "fixed-point": it stops at a step when an iteration moves the latents by this share or less, ≥ 0.
        max_iterations: of "fixed-point" after the first evaluation of a step, ≥ 0.
        seed: of the noise of "ddpm", in [0, 2**63).

    Raises:
        ValueError: If a value is out of its range.
    """

    method: Method = "pec"
    steps: int = 50
    guidance_scale: float = 1.0
    tolerance: float = 1e-5
    max_iterations: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}")
        if self.steps < 1 or self.max_iterations < 0:
            raise ValueError(f"expected steps of at least 1 and max_iterations of at least 0, got {self}")
        if not (0 <= self.guidance_scale < math.inf and 0 <= self.tolerance < math.inf):
            raise ValueError(f"guidance_scale and tolerance must be finite and at least 0, got {self}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2**63), got {self.seed}")

    @property
    def eta(self) -> float:
        """1 for the noise of DDPM, 0 for the deterministic path of DDIM."""
        return 1.0 if self.method == "ddpm" else 0.0


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The latents of an image at every noise level of sampling.

    Attributes:
        states: `[N + 1, B, C, h, w]` float32, from x_T (0) to the clean latents (N).
        residuals: for each of the N steps in sampling order, the share by which its last evaluation moved the latents, the
            worst of the batch: a bound on the residual of "fixed-point", the error of the prediction of "pec", the length
            of the step for "ddim".
        contractions: for each step the ratio of its last two moves (above 1 the iteration diverges); NaN where there was
            one move only.
    """

    states: Tensor
    residuals: tuple[float, ...]
    contractions: tuple[float, ...]


@torch.no_grad()
def find_trajectory(
    denoise: Denoiser,
    latents: Tensor,
    steps: Sequence[Step],
    config: InversionConfig,
    on_step: Progress | None = None,
) -> Trajectory:
    """Invert clean latents.

    Args:
        denoise: the model with the source prompt.
        latents: clean and scaled, `[B, C, h, w]` float32.
        steps: of sampling, from `ddim_steps`; walked backwards here.
        config: method, tolerance and so on; its number of steps is not looked at.
        on_step: called after every step with (steps done, steps in all).

    Raises:
        EditError: If latents are not finite, naming the first bad step.
    """
    if config.method == "ddpm":
        return noised_trajectory(latents, steps, config.seed, independent=True)
    states, residuals, contractions = [latents], [], []
    history: list[tuple[float, Tensor]] = []
    for number, step in enumerate(reversed(steps), start=1):
        start, evaluations, tolerance = _plan(config, history, states[-1], step)
        found = _solve(denoise, states[-1], step, start, evaluations, tolerance)
        check_finite(found.latents, "inversion", number, len(steps), step)
        states.append(found.latents)
        history = [*history[-1:], (_log_snr(step.alpha_from), found.eps)]
        residuals.append(found.residual)
        contractions.append(found.contraction if found.contraction >= 0 else math.nan)
        if on_step is not None:
            on_step(number, len(steps))
    return Trajectory(torch.stack(states[::-1]), tuple(residuals[::-1]), tuple(contractions[::-1]))


def _plan(
    config: InversionConfig, history: list[tuple[float, Tensor]], clean: Tensor, step: Step
) -> tuple[Tensor, int, float]:
    """Where the iteration of a step starts, how many evaluations it has at most, and its tolerance."""
    if config.method == "ddim":
        return clean, 1, 0.0
    if config.method == "fixed-point":
        return clean, 1 + config.max_iterations, config.tolerance
    if not history or step.from_nothing:  # pure noise is infinitely far on the axis of extrapolation
        return clean, 2 + _EXTRA_PASSES, 0.0
    predicted = _extrapolate(history, _log_snr(step.alpha_from))
    start = ddim_step(clean, predicted, step.alpha_to, step.alpha_from)
    return start, 1 + (_EXTRA_PASSES if len(history) == 1 else 0), 0.0


@dataclass(frozen=True, eq=False)
class _Solution:
    latents: Tensor
    eps: Tensor
    residual: float
    contraction: float


def _solve(
    denoise: Denoiser, clean: Tensor, step: Step, start: Tensor, evaluations: int, tolerance: float
) -> _Solution:
    """Iterate x = ddim_step(clean, eps(x)). An image that has converged stays as it is: batches do not mix.

    In half precision moves end at what its rounding makes of eps; below that they say nothing of convergence.
    """
    dtype = denoise.backbone.dtype
    floor = torch.finfo(dtype).eps / 8 if dtype.itemsize < 4 else 0.0
    latents, eps = start, torch.zeros_like(start)
    moving = torch.ones(len(start), dtype=torch.bool, device=start.device)
    move = ratio = torch.full((len(start),), math.nan, device=start.device)
    for _ in range(evaluations):
        asked = denoise(latents, step)
        moved = ddim_step(clean, asked, step.alpha_to, step.alpha_from)
        distance = relative_rms(moved, latents)
        chosen = moving.reshape(-1, 1, 1, 1)
        latents, eps = torch.where(chosen, moved, latents), torch.where(chosen, asked, eps)
        ratio = torch.where(moving & (distance > floor), distance / move.clamp(min=1e-12), ratio)
        move = torch.where(moving, distance, move)
        moving = moving & (distance > max(tolerance, floor))
        if not moving.any():
            break
    return _Solution(latents, eps, move.max().item(), ratio.nan_to_num(-math.inf).max().item())


def _extrapolate(history: list[tuple[float, Tensor]], place: float) -> Tensor:
    """The eps at a place on the axis of the log signal-to-noise ratio, through the last one or two that are known."""
    if len(history) == 1:
        return history[0][1]
    (first, before), (second, last) = history
    return last + (place - second) / (second - first) * (last - before)


def _log_snr(alpha: float) -> float:
    return 0.5 * math.log(alpha / (1 - alpha)) if alpha > 0 else -math.inf


def noised_trajectory(latents: Tensor, steps: Sequence[Step], seed: int, *, independent: bool) -> Trajectory:
    """Noise clean latents to every noise level of sampling.

    Args:
        latents: clean and scaled, `[B, C, h, w]`; each image of the batch gets the same noise.
        steps: of sampling.
        seed: of the noise.
        independent: new noise for every level, else one for all.
    """
    generator, states = Generator().manual_seed(seed), list[Tensor]()
    noise = torch.empty(0)
    for step in steps:
        if independent or not states:
            noise = torch.randn(latents.shape[1:], generator=generator, dtype=latents.dtype).to(latents.device)
        states.append(add_noise(latents, noise.expand_as(latents), torch.tensor(step.alpha_from)))
    return Trajectory(torch.stack([*states, latents]), (), ())


@torch.no_grad()
def find_offsets(
    denoise: Denoiser, trajectory: Trajectory, steps: Sequence[Step], eta: float = 0.0, on_step: Progress | None = None
) -> Tensor:
    """What must be added after each sampling step so that a path is walked exactly.

    For a deterministic path these are the corrections of direct inversion (Ju et al. 2023, arXiv:2310.01506), taken at the
    guidance of `denoise`; for "ddpm" (eta = 1) they are the noise maps z of edit-friendly inversion times their sigma, the
    last one included. Rounding does not add up: each offset starts from where the ones before really lead.

    Returns:
        `[N, B, C, h, w]` float32.

    Raises:
        EditError: If latents are not finite, naming the first bad step.
    """
    latents, offsets = trajectory.states[0], []
    for number, step in enumerate(steps, start=1):
        mean = ddim_step(latents, denoise(latents, step), step.alpha_from, step.alpha_to, eta * ddpm_sigma(step))
        offsets.append(trajectory.states[number] - mean)
        latents = mean + offsets[-1]
        check_finite(latents, "replay", number, len(steps), step)
        if on_step is not None:
            on_step(number, len(steps))
    return torch.stack(offsets)


def relative_rms(latents: Tensor, reference: Tensor) -> Tensor:
    """Root mean square of the difference over that of the reference, for each image of `[B, ...]`: `[B]`."""
    difference = (latents - reference).flatten(1).square().mean(1).sqrt()
    return difference / reference.flatten(1).square().mean(1).sqrt().clamp(min=1e-12)


def check_finite(latents: Tensor, stage: str, number: int, total: int, step: Step) -> None:
    """Refuse latents that hold NaN or infinities.

    Raises:
        EditError: If so.
    """
    if not torch.isfinite(latents).all():
        raise EditError(
            f"the latents are not finite after step {number} of {total} of the {stage} (timestep {step.timestep}): "
            "lower the guidance, or load the model in float32 or bfloat16"
        )
