import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from sentinv.diffusion.conversions import add_noise, target, to_epsilon, to_x0
from sentinv.training.data import evaluation_grid, stratified_timesteps
from sentinv.training.objective import denoising_loss, min_snr_weights

SCHEDULER = DDPMScheduler(beta_schedule="scaled_linear")


@pytest.fixture
def example():
    latents, noise = torch.randn(2, 4, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 10, 500, 999])
    return latents, noise, timesteps, SCHEDULER.alphas_cumprod[timesteps]


def test_noise_and_velocity_are_those_of_diffusers(example):
    latents, noise, timesteps, alphas = example
    assert torch.allclose(add_noise(latents, noise, alphas), SCHEDULER.add_noise(latents, noise, timesteps), atol=1e-6)
    velocity = SCHEDULER.get_velocity(latents, noise, timesteps)
    assert torch.allclose(target(latents, noise, alphas, "v_prediction"), velocity, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow"])
def test_a_perfect_prediction_converts_to_noise_and_image(example, kind):
    latents, noise, _, alphas = (part.double() for part in example)
    alphas = alphas.float()
    if kind == "flow":
        signal = alphas.sqrt().reshape(-1, 1, 1, 1)
        noisy = signal * latents + (1 - signal) * noise
    else:
        noisy = add_noise(latents, noise, alphas)
    prediction = target(latents, noise, alphas, kind)
    assert torch.allclose(to_epsilon(prediction, noisy, alphas, kind), noise, atol=1e-4)
    assert torch.allclose(to_x0(prediction, noisy, alphas, kind), latents, atol=1e-4)


def test_unknown_kinds_are_refused(example):
    latents, noise, _, alphas = example
    for call in (to_epsilon, to_x0, target):
        with pytest.raises(ValueError, match="velocity"):
            call(latents, noise, alphas, "velocity")
    with pytest.raises(ValueError, match="flow"):
        min_snr_weights(alphas, 5.0, "flow")


def test_min_snr_caps(example):
    *_, timesteps, alphas = example
    snr = compute_snr(SCHEDULER, timesteps)
    capped = snr.clamp(max=5.0)
    assert torch.allclose(min_snr_weights(alphas, 5.0, "epsilon"), capped / snr)
    assert torch.allclose(min_snr_weights(alphas, 5.0, "v_prediction"), capped / (snr + 1))


def test_mask_weighs_and_does_not_dilute(example):
    latents, noise, *_ = example
    ones = torch.ones(4, 1, 3, 3)
    assert torch.allclose(denoising_loss(latents, noise, ones), denoising_loss(latents, noise))
    corner = torch.zeros_like(ones)
    corner[..., 0, 0] = 1
    wanted = (latents - noise).square().mean(1)[:, 0, 0]
    assert torch.allclose(denoising_loss(latents, noise, corner), wanted)


def test_timesteps_are_one_per_stratum_and_uniform():
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([stratified_timesteps(4, 1000, generator) for _ in range(2000)])
    assert (draws // 250 == torch.arange(4)).all()
    counts = torch.histc(draws.float(), 10, 0, 1000) / draws.numel()
    assert (counts - 0.1).abs().max() < 0.01
    assert stratified_timesteps(3000, 1000, generator).max() == 999


def test_evaluation_grid_is_fixed():
    timesteps, noise = evaluation_grid(4, 2, 1000, (4, 3, 3))
    assert timesteps.tolist() == [125, 125, 375, 375, 625, 625, 875, 875]
    assert noise.shape == (8, 4, 3, 3)
    assert torch.equal(noise, evaluation_grid(4, 2, 1000, (4, 3, 3))[1])
