import pytest
import torch
from diffusers import DDIMScheduler

from sentinv.diffusion.ddim import ddim_step, ddim_steps, direction
from sentinv.diffusion.schedule import NoiseSchedule
from sentinv.errors import ModelError


def build_scheduler(**config):
    return DDIMScheduler(beta_schedule="scaled_linear", **{"clip_sample": False, **config})


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(("offset", "one"), [(0, True), (1, False)])
@pytest.mark.parametrize("steps", [1, 3, 7, 48, 50, 61, 208, 999, 1000])
def test_walks_the_path_of_diffusers(spacing, offset, one, steps):
    """Oracle: DDIMScheduler, step by step, with the same eps."""
    scheduler = build_scheduler(timestep_spacing=spacing, steps_offset=offset, set_alpha_to_one=one)
    schedule = NoiseSchedule.of(scheduler, "tiny")
    scheduler.set_timesteps(steps)
    if scheduler.timesteps.max() >= 1000:  # diffusers asks for a timestep that does not exist
        with pytest.raises(ModelError, match="at most 999 steps, got 1000"):
            ddim_steps(schedule, steps)
        return
    grid = ddim_steps(schedule, steps)
    assert [step.timestep for step in grid] == scheduler.timesteps.tolist()[:steps]  # it has one too many at times
    ours = theirs = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for step in grid[:60]:
        eps = torch.sin(ours + step.timestep)
        ours = ddim_step(ours, eps, step.alpha_from, step.alpha_to)
        theirs = scheduler.step(eps, step.timestep, theirs).prev_sample
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_same_step_goes_both_ways():
    generator = torch.Generator().manual_seed(0)
    latents, eps = torch.randn(2, 2, 4, 3, 3, generator=generator, dtype=torch.float64)
    there = ddim_step(latents, eps, 0.2, 0.7)
    assert torch.allclose(ddim_step(there, eps, 0.7, 0.2), latents, atol=1e-12)


def test_a_perfect_eps_leads_to_the_clean_latents():
    latents, eps = torch.randn(2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = 0.3**0.5 * latents + 0.7**0.5 * eps
    assert torch.allclose(ddim_step(noisy, eps, 0.3, 1.0), latents, atol=1e-12)


def test_refuses_what_ruins_latents():
    for config in (
        {"clip_sample": True},
        {"thresholding": True},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},  # and epsilon
    ):
        with pytest.raises(ModelError):
            ddim_steps(NoiseSchedule.of(build_scheduler(**config), "tiny"), 10)
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="steps"):
            ddim_steps(NoiseSchedule.of(build_scheduler(), "tiny"), steps)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize(("spacing", "offset"), [("trailing", 0), ("leading", 1), ("linspace", 0)])
@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("steps", [2, 7, 50])
def test_walks_the_path_of_diffusers_from_pure_noise(kind, spacing, offset, one, steps):
    """Oracle: DDIMScheduler with rescale_betas_zero_snr, which the model answers as it predicts."""
    options = {"timestep_spacing": spacing, "steps_offset": offset, "set_alpha_to_one": one}
    scheduler = build_scheduler(rescale_betas_zero_snr=True, prediction_type=kind, **options)
    grid = ddim_steps(NoiseSchedule.of(scheduler, "tiny"), steps)
    assert grid[0].from_nothing == (spacing != "leading")
    scheduler.set_timesteps(steps)
    ours = theirs = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for step in grid:
        answer = torch.sin(ours + step.timestep)
        ours = ddim_step(ours, direction(answer, ours, step, kind), step.alpha_from, step.alpha_to)
        theirs = scheduler.step(answer, step.timestep, theirs).prev_sample
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_step_from_pure_noise_goes_both_ways():
    latents, velocity = torch.randn(2, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there = ddim_step(latents, velocity, 0.0, 0.2)
    assert torch.allclose(there, 0.8**0.5 * latents - 0.2**0.5 * velocity)
    assert torch.allclose(ddim_step(there, velocity, 0.2, 0.0), latents, atol=1e-12)
