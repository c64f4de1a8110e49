"""Models that begin in pure noise (zero terminal SNR) and predict v: sampled, inverted, trained. Oracle: diffusers."""

import pytest
import torch
from conftest import build_scheduler, copied

from sentinv.concepts.initialization import Initialization
from sentinv.diffusion.ddim import ddim_steps
from sentinv.editing.edit import EditConfig, ddim_invert, edit, walk
from sentinv.editing.inversion import InversionConfig, find_trajectory, relative_rms
from sentinv.generation.denoiser import Denoiser, encode_prompts
from sentinv.generation.generate import GenerateConfig, generate_latents, seeded
from sentinv.models.backbone import Backbone
from sentinv.selftest import selftest
from sentinv.training.config import TrainConfig
from sentinv.training.train import train_concept

SPACINGS = [("trailing", 0), ("leading", 1)]


@pytest.fixture
def make(_pipelines):
    def made(spacing, offset):
        pipeline = copied(_pipelines["sd2"])
        options = {"rescale_betas_zero_snr": True, "timestep_spacing": spacing, "steps_offset": offset}
        pipeline.scheduler = build_scheduler("v_prediction", **options)
        return pipeline

    return made


@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_samples_are_those_of_the_pipeline(make, spacing, offset, guidance):
    pipeline = make(spacing, offset)
    backbone = Backbone.from_pipeline(pipeline, "tiny")
    config = GenerateConfig(steps=7, guidance_scale=guidance)
    latents = generate_latents(backbone, "a photo of a mug", generators=seeded(3, 2), config=config)
    noise = torch.stack([torch.randn(4, 8, 8, generator=generator) for generator in seeded(3, 2)])
    ids = {"height": 16, "width": 16, "num_inference_steps": 7, "guidance_scale": guidance, "output_type": "latent"}
    theirs = pipeline(["a photo of a mug"] * 2, latents=noise, **ids).images
    assert torch.allclose(latents, theirs, atol=1e-4)
    assert torch.isfinite(latents).all()


@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
@pytest.mark.parametrize(("method", "limit"), [("pec", 0.1), ("fixed-point", 1e-3)])
def test_the_way_to_pure_noise_leads_back(make, spacing, offset, method, limit):
    """On unit latents the iteration converges whatever the weights."""
    backbone = Backbone.from_pipeline(make(spacing, offset), "tiny")
    denoise = Denoiser(backbone, encode_prompts(backbone, ["a photo of a mug"]))
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = ddim_steps(backbone.schedule, 20)
    found = find_trajectory(denoise, clean, steps, InversionConfig(method=method, steps=20, max_iterations=60))
    assert found.residuals[0] < limit
    assert not torch.allclose(found.states[0], found.states[1], atol=1e-3)
    assert relative_rms(walk(denoise, found.states[0], steps), clean).item() < limit


@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
@pytest.mark.parametrize("method", ["pec", "ddpm"])
def test_offsets_bring_an_image_back(make, spacing, offset, method, picture):
    backbone = Backbone.from_pipeline(make(spacing, offset), "tiny")
    archive = ddim_invert(backbone, picture, "a photo of a mug", config=InversionConfig(method=method, steps=20))
    config = EditConfig(guidance_scale=3, source="delta")
    edited = edit(backbone, archive, "a photo of a mug", config=config).latents
    assert relative_rms(edited, archive.trajectory.states[-1]).item() < 1e-5


def test_a_word_is_learned(make, picture):
    backbone = Backbone.from_pipeline(make("trailing", 0), "tiny")
    assert backbone.schedule.alphas_cumprod[-1] == 0
    config = TrainConfig(steps=5, blended=0, evaluate_every=1, learning_rate=0.05)
    _, history = train_concept(backbone, [picture], Initialization("a mug"), config, token="<c>")
    assert history.learned and all(record.loss == record.loss for record in history.records)


@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
def test_the_selftest_passes(make, spacing, offset):
    checks = selftest(Backbone.from_pipeline(make(spacing, offset), "tiny"), 5)
    assert [check.name for check in checks if check.passed is False] == []
