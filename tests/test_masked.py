"""Edits inside a mask: what is outside comes back exactly, and thin parts survive."""

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from PIL import Image

from sentinv.concepts.concept import Concept
from sentinv.diffusion.ddim import ddim_steps
from sentinv.diffusion.schedule import NoiseSchedule
from sentinv.editing.edit import ddim_invert, encode_image, prepared
from sentinv.editing.inversion import InversionConfig, noised_trajectory
from sentinv.editing.masked import MaskConfig, edit_masked, region_of
from sentinv.errors import EditError
from sentinv.evaluation.metrics import pixel_psnr
from sentinv.files.images import to_pil

PROMPT = "a blue <c>"
QUICK = {"steps": 6, "skip": 0.3}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def concepts(backbone):
    rows = torch.randn(1, backbone.text_encoders[0].dim, generator=torch.Generator().manual_seed(0)) * 0.1
    return [Concept(token="<c>", rows={"text_encoder": rows})]


def painted(size, *boxes):
    mask = np.zeros((size[1], size[0]), np.uint8)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = 255
    return Image.fromarray(mask)


def square(picture):
    """The picture at the tiny models' resolution, so that pixels can be compared one by one."""
    return picture.resize((16, 16))


@pytest.mark.parametrize(
    ("size", "dilate", "feather"),
    [*(((16, 16), dilate, feather) for dilate in (0, 1) for feather in (0, 2, 3)), ((24, 12), 1, 2), ((12, 24), 0, 3)],
)
def test_outside_of_mask_and_feather_nothing_changes(backbone, picture, concepts, size, dilate, feather):
    image, box = picture.resize(size), (5, 6, 9, 10)
    config = MaskConfig(**QUICK, dilate=dilate, feather=feather)
    edited = edit_masked(backbone, image, painted(image.size, box), PROMPT, concepts, config)
    reach = dilate + feather
    near = painted(image.size, (5 - reach, 6 - reach, 9 + reach, 10 + reach))
    outside = np.asarray(near) == 0
    assert np.array_equal(np.asarray(edited.image)[outside], np.asarray(image)[outside])
    inside = np.asarray(painted(image.size, box)) > 0
    assert pixel_psnr(edited.image, image, inside) < 60
    clean = encode_image(backbone, prepared(backbone, image))
    region = region_of(painted(image.size, box), size[::-1], 2, dilate, feather)
    away = (region.latents == 0).expand_as(clean)
    assert away.any()
    assert torch.equal(edited.latents[away], clean[away])
    assert not torch.allclose(edited.latents[~away], clean[~away], atol=1e-3)


def test_background_and_foreground_are_equally_noisy_at_every_step(backbone, picture, concepts, monkeypatch):
    """Seen from the model: what it is asked about is, outside, the source noised to the level of the step."""
    image, asked = square(picture), []
    plain = backbone.predict
    monkeypatch.setattr(backbone, "predict", lambda x, t, c: asked.append((x[:1].clone(), int(t[0]))) or plain(x, t, c))
    config = MaskConfig(**QUICK, seed=5)
    edit_masked(backbone, image, painted(image.size, (5, 6, 9, 10)), PROMPT, concepts, config)
    outside = region_of(painted(image.size, (5, 6, 9, 10)), (16, 16), 2, 0, 2).latents[0, 0] == 0
    clean = encode_image(backbone, prepared(backbone, image))
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5))
    assert len(asked) == 4
    for latents, timestep in asked:
        alpha = float(backbone.schedule.alphas_cumprod[timestep])
        wanted = alpha**0.5 * clean[0] + (1 - alpha) ** 0.5 * noise
        assert torch.allclose(latents[0][:, outside], wanted[:, outside], atol=1e-5)


def test_latents_alone_are_kept_if_asked_for(sd1_backbone, picture):
    image = square(picture)
    mask = painted(image.size, (5, 6, 9, 10))
    config = MaskConfig(**QUICK, keep="latents")
    edited = edit_masked(sd1_backbone, image, mask, "a dog", config=config)
    assert edited.image.tobytes() == to_pil(sd1_backbone.decode(edited.latents))[0].tobytes()
    assert edited.evaluations == 2 * 4


@pytest.mark.parametrize("scale", [2, 8])
def test_a_line_one_pixel_wide_survives(scale):
    for column in range(8 * scale):
        region = region_of(painted((8 * scale, 8 * scale), (column, 0, column + 1, 8 * scale)), (8 * scale,) * 2, scale)
        assert region.latents[0, 0, :, column // scale].all()
        assert region.latents.sum() == 8
    photo = painted((2048, 2048), (1000, 0, 1001, 2048))  # 32 pixels of it are one latent
    assert region_of(photo, (512, 512), 8).latents.sum() == 64


def test_a_thin_mask_changes_what_is_under_it(sd1_backbone, picture):
    image = square(picture)
    mask = painted(image.size, (7, 0, 8, 16))
    edited = edit_masked(sd1_backbone, image, mask, "a dog", config=MaskConfig(**QUICK, feather=0))
    changed = np.abs(np.asarray(edited.image, int) - np.asarray(image, int)).sum(-1) > 0
    assert changed[:, 7].sum() > 8
    assert not changed[:, :7].any()
    assert not changed[:, 8:].any()


def test_width_and_height_are_not_swapped():
    region = region_of(painted((32, 16), (24, 0, 32, 4)), (16, 32), 4)
    assert region.latents.shape == (1, 1, 4, 8)
    assert region.latents[0, 0].nonzero().tolist() == [[0, 6], [0, 7]]


def test_what_is_nearly_black_is_outside():
    mask = painted((32, 32), (8, 8, 16, 16)).point(lambda level: max(level, 7))
    assert torch.equal(
        region_of(mask, (32, 32), 2).pixels, region_of(painted((32, 32), (8, 8, 16, 16)), (32, 32), 2).pixels
    )
    with pytest.raises(EditError, match="paint black"):
        region_of(mask.point(lambda level: max(level, 8)), (32, 32), 2)


@pytest.mark.parametrize("option", ["dilate", "feather"])
def test_no_growth_is_too_much(option):
    with pytest.raises(EditError, match="covers the whole image"):
        region_of(painted((32, 32), (8, 8, 16, 16)), (32, 32), 2, **{option: 10**10})


def test_feather_falls_from_one_to_zero():
    pixels = region_of(painted((32, 32), (8, 8, 16, 16)), (32, 32), 2, dilate=1, feather=4).pixels[0, 0]
    assert (pixels[7:17, 7:17] == 1).all()
    row = pixels[12, 16:22].tolist()
    assert row == sorted(row, reverse=True)
    assert row[-1] == 0
    assert 0 < row[3] < 1


def test_the_background_can_be_the_path_of_an_archive(sd1_backbone, picture):
    image = square(picture)
    archive = ddim_invert(sd1_backbone, image, "a dog", config=InversionConfig(steps=6))
    mask = painted(image.size, (5, 6, 9, 10))
    config = MaskConfig(**QUICK, keep="latents")
    held = edit_masked(sd1_backbone, image, mask, "a cat", config=config, archive=archive)
    fresh = edit_masked(sd1_backbone, image, mask, "a cat", config=config)
    assert not torch.allclose(held.latents, fresh.latents, atol=1e-4)
    assert torch.equal(held.latents[..., 0, 0], archive.trajectory.states[-1][..., 0, 0])
    with pytest.raises(EditError, match="another image"):
        edit_masked(sd1_backbone, image.rotate(90), mask, "a cat", config=config, archive=archive)


def test_says_what_is_wrong_with_a_mask(sd1_backbone, picture):
    image = square(picture)
    for mask, message in (
        (painted((16, 15), (1, 1, 2, 2)), "of one size"),
        (painted((16, 16)), "empty"),
        (painted((16, 16), (0, 0, 16, 16)), "whole image"),
    ):
        with pytest.raises(EditError, match=message):
            edit_masked(sd1_backbone, image, mask, "a dog")
    for options in ({"dilate": -1}, {"skip": 1.0}, {"keep": "nothing"}, {"steps": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            MaskConfig(**options)


def test_noise_of_a_path_is_one_or_independent():
    latents = torch.zeros(1, 4, 8, 8)
    schedule = NoiseSchedule(alphas_cumprod=torch.linspace(0.95, 0.05, 10), config={})
    grid = ddim_steps(schedule, 4)
    for independent in (False, True):
        states = noised_trajectory(latents, grid, 0, independent=independent).states[:-1]
        noises = [s / (1 - g.alpha_from) ** 0.5 for s, g in zip(states, grid, strict=True)]
        assert torch.allclose(noises[0], noises[1], atol=1e-5) is not independent
