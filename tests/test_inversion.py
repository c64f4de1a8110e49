"""Orders of convergence, exactness and the traps of inversion, on a denoiser in closed form (float64)."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from closed_form import ClosedForm

from sentinv.concepts.tokens import tokenize
from sentinv.diffusion.ddim import Step, ddim_steps
from sentinv.editing.edit import walk
from sentinv.editing.inversion import InversionConfig, find_offsets, find_trajectory, relative_rms
from sentinv.errors import EditError
from sentinv.generation.denoiser import Denoiser

COUNT = 32


SCHEDULES = {
    "ldm": {"steps_offset": 0, "set_alpha_to_one": True},
    "sd1": {"prediction_type": "epsilon"},
    "sd2": {"prediction_type": "v_prediction"},
}


@pytest.fixture(scope="module", params=SCHEDULES)
def model(request):
    return ClosedForm(**SCHEDULES[request.param])


def passes(count):
    """`count` iterations after the first evaluation, whatever they reach."""
    return InversionConfig(method="fixed-point", max_iterations=count, tolerance=0)


def round_trip(model, config, steps=50, invert_grid=None, condition=None):
    """Median error of invert → sample over 32 points, evaluations per point of the inversion, and the path."""
    latents, grid = model.samples(COUNT), ddim_steps(model.schedule, steps)
    denoise = Denoiser(model, condition or model.prompt())
    path = find_trajectory(denoise, latents, grid if invert_grid is None else invert_grid, config)
    cost = denoise.evaluations / COUNT
    return relative_rms(walk(denoise, path.states[0], grid), latents).median().item(), cost, path


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0.8, 1.2), (1, 1.6, 2.4), (2, 2.6, 3.4), (3, 3.5, 4.6)])
def test_order_of_convergence_is_one_more_than_the_iterations(model, count, low, high):
    errors = [round_trip(model, passes(count), steps)[0] for steps in (50, 100, 200)]
    slopes = [math.log2(first / second) for first, second in pairwise(errors)]
    assert low <= sum(slopes) / 2 <= high
    if count == 0:
        ddim = round_trip(model, InversionConfig(method="ddim"))[0]
        assert ddim == errors[0]


def test_fixed_point_reaches_its_tolerance_and_comes_back(model):
    error, cost, path = round_trip(model, InversionConfig(method="fixed-point"))
    assert max(path.residuals) <= 1e-5
    assert error <= 1e-4
    assert cost < 50 * 8
    assert all(math.isnan(value) or value < 1 for value in path.contractions)


def test_pec_is_much_better_than_ddim_at_its_price(model):
    ddim, cheap, _ = round_trip(model, InversionConfig(method="ddim"))
    pec, cost, _ = round_trip(model, InversionConfig(method="pec"))
    assert cheap == 50
    assert cost == 57
    assert pec <= ddim / 4
    assert cost <= 1.2 * cheap


def test_guidance_makes_the_iteration_diverge_and_says_so():
    model = ClosedForm()
    denoise = Denoiser(model, model.prompts(), 15.0)
    path = find_trajectory(denoise, model.samples(4), ddim_steps(model.schedule, 20), passes(8))
    assert max(path.contractions) > 1
    assert max(path.residuals) > 1e-2


def mismatched(model):
    """Grids that differ from that of sampling as bugs make them."""
    right = ddim_steps(model.schedule, 50)
    own = {name: model.schedule.config[name] for name in ("steps_offset", "set_alpha_to_one")}

    def other(**config):
        return ddim_steps(ClosedForm(model.schedule.prediction_type, **{**own, **config}).schedule, 50)

    shifted = [Step(max(step.timestep - 20, 0), step.alpha_from, step.alpha_to) for step in right]
    return {
        "offset": other(steps_offset=1 - own["steps_offset"]),
        "spacing": other(timestep_spacing="trailing", steps_offset=0),
        "final alpha": other(set_alpha_to_one=not own["set_alpha_to_one"]),
        "steps": ddim_steps(model.schedule, 49),
        "skipped step": right[:-1],
        "label": shifted,
    }


@pytest.fixture(scope="module")
def right(model):
    """Error of the round trip that every fault is compared with."""
    return round_trip(model, passes(10))[0]


@pytest.mark.parametrize("fault", ["offset", "spacing", "final alpha", "steps", "skipped step", "label"])
def test_every_mismatch_raises_the_round_trip_a_hundredfold(model, right, fault):
    wrong, _, _ = round_trip(model, passes(10), invert_grid=mismatched(model)[fault])
    assert wrong >= 100 * right
    assert right < 1e-6


@pytest.mark.parametrize("guidance", [1.0, 3.0, 7.5])
@pytest.mark.parametrize("method", ["ddim", "ddpm"])
def test_offsets_make_the_way_back_exact_at_any_guidance(model, method, guidance):
    config = InversionConfig(method=method)
    grid, latents = ddim_steps(model.schedule, 50), model.samples(4)
    path = find_trajectory(Denoiser(model, model.prompt()), latents, grid, config)
    denoise = Denoiser(model, model.prompts(), guidance)
    offsets = find_offsets(denoise, path, grid, config.eta)
    back = walk(denoise, path.states[0], grid, offsets=offsets, eta=config.eta)
    assert relative_rms(back, latents).max() < 1e-12
    offsets[-1] = 0  # as the reference implementation of edit-friendly inversion does
    spoilt = walk(denoise, path.states[0], grid, offsets=offsets, eta=config.eta)
    assert relative_rms(spoilt, latents).max() > (1e-3 if method == "ddpm" else 1e-7)


def test_noise_maps_are_white_and_of_the_size_of_their_level(model):
    """Edit-friendly maps have a larger variance than sigma², but the last states are those of the forward process."""
    grid, latents = ddim_steps(model.schedule, 50), model.samples(8)
    path = find_trajectory(Denoiser(model, model.prompt()), latents, grid, InversionConfig(method="ddpm", seed=3))
    for state, step in zip(path.states, grid, strict=False):
        noise = (state - step.alpha_from**0.5 * latents) / (1 - step.alpha_from) ** 0.5
        assert torch.allclose(noise, noise[:1].expand_as(noise), atol=1e-6)
        assert 0.5 < noise[0].std() < 1.5
    assert torch.equal(path.states[-1], latents)
    other = find_trajectory(Denoiser(model, model.prompt()), latents, grid, InversionConfig(method="ddpm", seed=4))
    assert not torch.allclose(other.states[0], path.states[0])


@pytest.mark.parametrize("method", ["ddim", "fixed-point", "pec", "ddpm"])
def test_batches_do_not_mix(model, method):
    grid, latents = ddim_steps(model.schedule, 20), model.samples(4)
    config = InversionConfig(method=method)
    together = find_trajectory(Denoiser(model, model.prompt()), latents, grid, config).states
    for index in range(4):
        alone = find_trajectory(Denoiser(model, model.prompt()), latents[index : index + 1], grid, config).states
        assert torch.allclose(together[:, index : index + 1], alone, atol=1e-12)


def test_names_the_first_bad_step(model):
    class Broken(Denoiser):
        def __call__(self, latents, step):
            eps = super().__call__(latents, step)
            return eps * (float("nan") if step.timestep == bad else 1)

    grid, denoise = ddim_steps(model.schedule, 50), Broken(model, model.prompt())
    bad = grid[-4].timestep
    with pytest.raises(EditError, match=rf"step 4 of 50 of the inversion \(timestep {bad}\)"):
        find_trajectory(denoise, model.samples(2), grid, InversionConfig())
    with pytest.raises(EditError, match=rf"step 47 of 50 of the edit \(timestep {bad}\)"):
        walk(denoise, model.samples(2), grid)


def test_keeps_the_state_in_the_precision_it_came_in(sd1_backbone):
    sd1_backbone.unet.to(torch.bfloat16)
    condition = sd1_backbone.encode_ids(tokenize(sd1_backbone, ["a mug"]))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    path = find_trajectory(
        Denoiser(sd1_backbone, condition), latents, ddim_steps(sd1_backbone.schedule, 5), InversionConfig()
    )
    assert path.states.dtype == torch.float32
    assert not torch.equal(path.states[0], path.states[0].bfloat16().float())


def test_refuses_what_is_out_of_range():
    for options in (
        {"method": "magic"},
        {"steps": 0},
        {"guidance_scale": -1.0},
        {"tolerance": math.nan},
        {"seed": -1},
        {"max_iterations": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            InversionConfig(**options)
    with pytest.raises(dataclasses.FrozenInstanceError):
        InversionConfig().steps = 3


@pytest.mark.parametrize(("dtype", "warned"), [(torch.bfloat16, False), (torch.float16, False), (torch.float64, True)])
def test_rounding_is_not_taken_for_divergence(dtype, warned):
    """An eps that is rounded at random never settles; in half precision that is as it must be, else it is worth a word."""
    model, random = ClosedForm(), torch.Generator().manual_seed(0)
    honest, model.dtype = model.predict, dtype
    size = torch.finfo(torch.bfloat16 if dtype == torch.float64 else dtype).eps

    def rounded(latents, timesteps, condition):
        eps = honest(latents, timesteps, condition)
        return eps * (1 + 0.5 * size * torch.randn(eps.shape, generator=random, dtype=eps.dtype))

    model.predict = rounded
    path = find_trajectory(Denoiser(model, model.prompt()), model.samples(4), ddim_steps(model.schedule, 50), passes(8))
    assert any(value >= 1 for value in path.contractions) == warned
