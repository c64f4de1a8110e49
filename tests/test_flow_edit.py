"""FlowEdit on denoisers in closed form, and on tiny pipelines."""

import math

import pytest
import torch
from closed_form import ClosedForm
from PIL import Image

from sentinv.concepts.concept import Concept
from sentinv.diffusion.ddim import Step, ddim_steps
from sentinv.editing.edit import encode_image, prepared
from sentinv.editing.flow_edit import FlowEditConfig, flow_edit, follow
from sentinv.errors import EditError
from sentinv.generation.denoiser import Denoiser


def sigma(alpha):
    return math.sqrt((1 - alpha) / alpha)


def point(mean):
    """Epsilon of a model that knows one picture."""
    return lambda latents, step: (latents - step.alpha_from**0.5 * mean) / (1 - step.alpha_from) ** 0.5


def test_between_two_pictures_it_moves_by_their_difference_as_the_equation_says():
    steps = ddim_steps(ClosedForm().schedule, 20)
    generator = torch.Generator().manual_seed(0)
    image, before, after = torch.randn(3, 1, 1, 8, 8, generator=generator, dtype=torch.float64)
    moved = follow(point(before), point(after), image, steps, FlowEditConfig())
    left = sigma(steps[-1].alpha_to) / sigma(steps[0].alpha_from)  # Euler on a line that ends at sigma = 0
    assert torch.allclose(moved, image + (after - before) * (1 - left), atol=1e-9)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_it_goes_over_to_what_is_asked_for_and_an_edit_to_the_same_leaves_the_picture(prediction_type):
    model = ClosedForm(prediction_type)
    steps = ddim_steps(model.schedule, 50)
    image = model.means[0].reshape(1, 1, 8, 8) + 0.1
    same = follow(Denoiser(model, model.prompt(0)), Denoiser(model, model.prompt(0)), image, steps, FlowEditConfig())
    assert torch.equal(same, image)
    config = FlowEditConfig(averages=4)
    moved = follow(Denoiser(model, model.prompt(0)), Denoiser(model, model.prompt(1)), image, steps, config)
    goal = model.means[1].reshape(1, 1, 8, 8) + 0.1
    assert (moved - goal).norm() < 0.1 * (image - goal).norm()


def test_a_step_from_pure_noise_says_nothing_and_is_left_out():
    ask = point(torch.zeros(1, 1, 8, 8))
    image = torch.ones(1, 1, 8, 8)
    nothing = follow(ask, ask, image, [Step(999, 0.0, 0.1)], FlowEditConfig())
    assert torch.equal(nothing, image)


def test_images_of_tiny_pipelines(sd1_backbone, picture):
    rows = torch.randn(2, sd1_backbone.text_encoders[0].dim, generator=torch.Generator().manual_seed(0)) * 0.1
    word = Concept(token="<c>", rows={"text_encoder": rows})
    config = FlowEditConfig(steps=4, skip=0.5, guidance_scale=4.0, source_guidance=4.0)
    same = flow_edit(sd1_backbone, picture, "a photo of <c>", "a photo of <c>", [word], config)
    assert torch.equal(same.latents, encode_image(sd1_backbone, prepared(sd1_backbone, picture)))
    assert same.evaluations == 2 * 2 * 2
    told = []
    other = flow_edit(
        sd1_backbone, picture, "a photo of <c>", "a drawing of <c>", [word], config, lambda *done: told.append(done)
    )
    assert not torch.equal(other.latents, same.latents)
    assert isinstance(other.image, Image.Image) and told == [(1, 2), (2, 2)]


def test_names_the_first_bad_step_and_refuses_what_is_out_of_range():
    steps = ddim_steps(ClosedForm().schedule, 5)
    with pytest.raises(EditError, match="after step 1 of 5"):
        follow(lambda latents, step: latents * math.nan, point(0.0), torch.ones(1, 1, 8, 8), steps, FlowEditConfig())
    for wrong in ({"steps": 0}, {"averages": 0}, {"skip": 1.0}, {"seed": -1}, {"guidance_scale": math.inf}):
        with pytest.raises(ValueError, match="must be"):
            FlowEditConfig(**wrong)
