"""Is this installation, this model, this scheduler right? Identities that hold for any weights, in seconds.

Each check compares two ways to the same result, or a result with what mathematics says. They run on latents of a picture that
is drawn here, on a few steps, with the model as it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sentinv.concepts.concept import Concept
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.diffusion.conversions import add_noise, target, to_epsilon, to_x0
from sentinv.diffusion.ddim import ddim_step, ddim_steps, direction
from sentinv.editing.archive import Archive
from sentinv.editing.edit import EditConfig, ddim_invert, edit, encode_image, prepared, walk
from sentinv.editing.inversion import InversionConfig, find_trajectory, relative_rms
from sentinv.editing.masked import MaskConfig, edit_masked
from sentinv.evaluation.metrics import pixel_psnr
from sentinv.generation.denoiser import Denoiser, encode_prompts
from sentinv.models.published import deviations, supported
from sentinv.models.verdict import Check

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone

SOURCE, EDITED = "a photo of a red circle", "a photo of a blue square"
_TOKEN = "<sentinv-selftest>"  # noqa: S105 - not a password


@dataclass
class Bench:
    """What the checks share.

    Attributes:
        backbone: the model under test.
        steps: of sampling.
        image: a picture.
        latents: of it, `[1, C, h, w]`.
        archive: it inverted by "pec".
        unit: standard normal latents `[4, C, h, w]`, on which the iteration converges whatever the weights.
    """

    backbone: Backbone
    steps: int
    image: Image.Image
    latents: Tensor
    archive: Archive
    unit: Tensor

    @classmethod
    def of(cls, backbone: Backbone, steps: int) -> Bench:
        """Prepare what the checks need."""
        image = drawing(backbone.resolution)
        latents = encode_image(backbone, prepared(backbone, image))
        archive = ddim_invert(backbone, image, SOURCE, config=InversionConfig(steps=steps))
        unit = torch.randn(4, *latents.shape[1:], generator=torch.Generator().manual_seed(0)).to(latents.device)
        return cls(backbone, steps, image, latents, archive, unit)

    def denoiser(self) -> Denoiser:
        """The model with the source prompt, unguided."""
        return Denoiser.of(self.backbone, SOURCE, guidance_scale=1)


def selftest(backbone: Backbone, steps: int = 10) -> Iterator[Check]:
    """Run all checks, one after another.

    Args:
        backbone: the model.
        steps: of sampling; more take longer and tell little more.

    Raises:
        ModelError: If the scheduler's config cannot be used at all.
        EditError: If the model's latents are not finite.
    """
    bench = Bench.of(backbone, steps)
    for run in _CHECKS:
        begun = time.perf_counter()
        name, measured, limit, advice = run(bench)
        passed = None if isinstance(measured, str) else measured <= limit
        of_weights = run in (_autoencoder, _prediction_type)
        yield Check(name, passed, measured, limit, time.perf_counter() - begun, advice, of_weights)


Finding = tuple[str, float | str, float, str]
_INSTALL = "install diffusers, torch and sentinv again"
_PRECISION = "load the model in float32"


def _model(bench: Bench) -> Finding:
    """The check that every model passes when it is loaded, with what it was taken for."""
    return f"this is a model that is supported: {supported(bench.backbone)}", 0.0, 0.0, ""


def _published(bench: Bench) -> Finding:
    name, found = "its constants are those that its family was published with", deviations(bench.backbone)
    return (name, "not all: " + "; ".join(found), math.nan, "") if found else (name, 0.0, 0.0, "")


def _conversions(bench: Bench) -> Finding:
    latents, noise = bench.unit[:1], bench.unit[1:2]
    worst = 0.0
    for alpha in (0.99, 0.5, 0.01):
        noisy = add_noise(latents, noise, level := torch.tensor(alpha))
        for kind in ("epsilon", "v_prediction", "sample"):
            answer = target(latents, noise, level, kind)
            eps, x0 = to_epsilon(answer, noisy, level, kind), to_x0(answer, noisy, level, kind)
            worst = max(worst, relative_rms(eps, noise).item(), relative_rms(x0, latents).item())
    return "epsilon, v and x0 say the same", worst, 1e-4, _INSTALL


def _both_ways(bench: Bench) -> Finding:
    latents, eps = bench.unit[:2].cpu().double().split(1)  # some accelerators have no float64
    step = ddim_steps(bench.backbone.schedule, bench.steps)[-1]
    there = ddim_step(latents, eps, step.alpha_from, step.alpha_to)
    back = ddim_step(there, eps, step.alpha_to, step.alpha_from)
    return "one DDIM step goes both ways", relative_rms(back, latents).item(), 1e-10, _INSTALL


def _scheduler(bench: Bench) -> Finding:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(bench.backbone.schedule.config)
    scheduler.set_timesteps(bench.steps)
    ours, worst = bench.unit[:1].cpu().double(), 0.0
    steps = ddim_steps(bench.backbone.schedule, bench.steps)
    for step, timestep in zip(steps, scheduler.timesteps.tolist(), strict=False):  # its last one may be too many
        if step.timestep != timestep:
            return "sampling steps are those of diffusers", math.inf, 1e-5, _INSTALL
        answer, kind = torch.sin(ours), bench.backbone.schedule.prediction_type
        theirs = scheduler.step(answer, timestep, ours).prev_sample
        ours = ddim_step(ours, direction(answer, ours, step, kind), step.alpha_from, step.alpha_to)
        worst = max(worst, relative_rms(ours, theirs).item())
    return "sampling steps are those of diffusers", worst, 1e-4, _INSTALL


def _chained(bench: Bench) -> Finding:
    steps = ddim_steps(bench.backbone.schedule, bench.steps)
    gap = max((abs(a.alpha_to - b.alpha_from) for a, b in pairwise(steps)), default=0.0)
    advice = (
        f"choose a number of steps that divides {bench.backbone.schedule.train_timesteps}, or timestep_spacing leading"
    )
    return "each step ends where the next begins", gap, 0.05, advice


def _fixed_point(bench: Bench) -> Finding:
    config, denoise = InversionConfig(method="fixed-point"), bench.denoiser()
    steps = ddim_steps(bench.backbone.schedule, max(bench.steps, 20))
    trajectory = find_trajectory(denoise, bench.unit[:1], steps, config)
    name = "fixed-point inversion comes back"
    if max(trajectory.residuals) > config.tolerance:
        worst = max(value for value in trajectory.contractions if value == value)
        return name, f"the iteration does not converge on so few steps (contraction {worst:.2f})", math.nan, ""
    error = relative_rms(walk(denoise, trajectory.states[0], steps), bench.unit[:1]).item()
    return name, error, 1e-3 if bench.backbone.dtype == torch.float32 else 0.1, _PRECISION


def _offsets(bench: Bench) -> Finding:
    worst = max(_way_back(bench, bench.archive, EditConfig(guidance_scale=w, source="delta")) for w in (1.0, 7.5))
    return "stored offsets bring the image back at guidance 1 and 7.5", worst, 1e-5, _PRECISION


def _noise_maps(bench: Bench) -> Finding:
    archive = ddim_invert(bench.backbone, bench.image, SOURCE, config=InversionConfig(method="ddpm", steps=bench.steps))
    worst = max(_way_back(bench, archive, EditConfig(guidance_scale=w, source="none")) for w in (1.0, 7.5))
    return "noise maps bring the image back at guidance 1 and 7.5", worst, 1e-5, _PRECISION


def _way_back(bench: Bench, archive: Archive, config: EditConfig) -> float:
    return relative_rms(edit(bench.backbone, archive, SOURCE, config=config).latents, bench.latents).item()


def _npi(bench: Bench) -> Finding:
    configs = EditConfig(guidance_scale=1, source="none"), EditConfig(guidance_scale=7.5)
    plain, guided = (edit(bench.backbone, bench.archive, SOURCE, config=config).latents for config in configs)
    limit, error = 1e-5 if bench.backbone.dtype == torch.float32 else 0.05, relative_rms(guided, plain).item()
    return "negative-prompt inversion at 7.5 is the reconstruction", error, limit, _PRECISION


def _batches(bench: Bench) -> Finding:
    denoise, steps = bench.denoiser(), ddim_steps(bench.backbone.schedule, bench.steps)
    together, alone = (
        walk(denoise, find_trajectory(denoise, some, steps, InversionConfig()).states[0], steps)
        for some in (bench.unit, bench.unit[:1])
    )
    limit = 1e-4 if bench.backbone.dtype == torch.float32 else 0.1
    return "one image of four is as it is alone", relative_rms(together[:1], alone).item(), limit, _PRECISION


def _words(bench: Bench) -> Finding:
    first, second = (edit(bench.backbone, bench.archive, prompt).latents for prompt in (SOURCE, EDITED))
    moved = relative_rms(first, second).item()
    advice = "the model does not listen to its prompts: is the text encoder its own?"
    return "other words give another image (1e-4 / change)", 1e-4 / moved if moved else math.inf, 1.0, advice


def _mask(bench: Bench) -> Finding:
    image = bench.archive.image
    mask = Image.new("L", image.size)
    box = (image.width // 4, image.height // 4, image.width // 2, image.height // 2)
    mask.paste(255, box)
    config = MaskConfig(steps=bench.steps, skip=0.5, feather=0)
    edited = edit_masked(bench.backbone, image, mask, EDITED, config=config)
    outside = edited.image.copy()
    outside.paste(image.crop(box), box)
    same = pixel_psnr(outside, image) == math.inf
    return "a masked edit leaves the outside alone", 0.0 if same else 1.0, 0.0, _INSTALL


def _rows(bench: Bench) -> Finding:
    backbone = bench.backbone
    start = {e.name: e.table.weight[e.eos_id][None].detach().float() + 1e-3 for e in backbone.text_encoders}
    before = [e.table.weight.detach().clone() for e in backbone.text_encoders]
    concept = Concept(token=_TOKEN, rows=start)
    learned = encode_prompts(backbone, [f"a photo of {_TOKEN}"], [concept]).hidden
    with PlaceholderRows.of_concepts([concept]).installed(backbone):
        pass
    same = all(torch.equal(old, e.table.weight) for old, e in zip(before, backbone.text_encoders, strict=True))
    differs = not torch.equal(learned, encode_prompts(backbone, ["a photo of"]).hidden)
    wrong = 0.0 if same and differs else 1.0
    return "a learned word is seen, and leaves the vocabulary as it was", wrong, 0.0, _INSTALL


def _prediction_type(bench: Bench) -> Finding:
    """Which target the model's answers are nearest to, in shares of its power. Random weights are near none."""
    backbone, denoise, noise = bench.backbone, bench.denoiser(), bench.unit[:1]
    kinds = ("epsilon", "v_prediction", "sample")
    left, power = dict.fromkeys(kinds, 0.0), dict.fromkeys(kinds, 0.0)
    steps = ddim_steps(backbone.schedule, bench.steps)
    for step in steps[len(steps) // 4 : max(1, len(steps) * 3 // 4)]:
        level = torch.tensor(step.alpha_from)
        timesteps = torch.full((1,), step.timestep, device=noise.device)
        answer = backbone.predict(add_noise(bench.latents, noise, level), timesteps, denoise.conditions)
        for kind in kinds:
            wanted = target(bench.latents, noise, level, kind)
            left[kind] += (answer - wanted).square().mean().item()
            power[kind] += wanted.square().mean().item()
    shares = {kind: left[kind] / power[kind] for kind in kinds}
    best = min(kinds, key=shares.__getitem__)
    name = f"the model predicts {backbone.schedule.prediction_type}, as its scheduler says"
    if shares[best] > 0.6:
        return name, "cannot tell: its answers are far from every target (is it trained?)", math.nan, ""
    advice = f"set prediction_type to {best} in the scheduler's config"
    return name, shares[backbone.schedule.prediction_type] / shares[best], 1.5, advice


def _autoencoder(bench: Bench) -> Finding:
    psnr = pixel_psnr(bench.archive.reconstruction, bench.archive.image)
    name, error = f"the autoencoder gives a picture back ({psnr:.1f} dB)", 10 ** (-psnr / 20)
    if error > 0.25:
        return name, "no, so edits cannot be faithful (is it trained? is it the model's own?)", math.nan, ""
    return name, error, 0.25, ""


_CHECKS: tuple[Callable[[Bench], Finding], ...] = (
    _model, _published, _conversions, _both_ways, _scheduler, _chained, _autoencoder, _prediction_type,
    _rows, _words, _fixed_point, _offsets, _noise_maps, _npi, _batches, _mask,
)  # fmt: skip


def drawing(side: int) -> Image.Image:
    """A red disc on a sky above a meadow."""
    image = Image.new("RGB", (side, side), (120, 180, 230))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, side * 2 // 3, side, side), fill=(80, 150, 70))
    draw.ellipse((side // 4, side // 4, side * 3 // 4, side * 3 // 4), fill=(210, 40, 40))
    return image
