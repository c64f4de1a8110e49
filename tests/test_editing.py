"""Inverting, reusing and editing on tiny pipelines: identities that hold for any weights."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import FAMILIES
from PIL import Image

from sentinv.concepts.concept import Concept
from sentinv.diffusion.ddim import ddim_steps
from sentinv.editing.archive import Archive
from sentinv.editing.edit import EditConfig, ddim_invert, edit, encode_image, prepared, sweep, walk
from sentinv.editing.inversion import InversionConfig, find_trajectory, relative_rms
from sentinv.editing.reconstruction import reconstruct
from sentinv.errors import ConceptError, EditError, ModelError, PromptError
from sentinv.evaluation.metrics import pixel_psnr
from sentinv.generation.denoiser import Denoiser, encode_prompts
from sentinv.models.backbone import Backbone

STEPS = 20
SOURCE = "a photo of <c>"


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def learned(dim, token="<c>", seed=0):
    rows = torch.randn(2, dim, generator=torch.Generator().manual_seed(seed)) * 0.1
    return Concept(token=token, rows={"text_encoder": rows})


def calmed(pipeline, picture):
    """A backbone as trained ones are: latents of about unit variance, and predictions that move smoothly with them."""
    backbone = Backbone.from_pipeline(pipeline, "tiny")
    for parameter in backbone.unet.conv_out.parameters():
        parameter.data *= 0.1
    spread = encode_image(backbone, prepared(backbone, picture)).std().item()
    backbone.vae.register_to_config(scaling_factor=backbone.vae.config.scaling_factor / spread)
    return backbone


@pytest.fixture
def backbone(pipeline, picture):
    return calmed(pipeline, picture)


@pytest.fixture
def sd1_backbone(sd1, picture):
    return calmed(sd1, picture)


@pytest.fixture
def concepts(backbone):
    return [learned(backbone.text_encoders[0].dim)]


def inverted(backbone, picture, concepts, method="pec", **options):
    return ddim_invert(
        backbone, picture, SOURCE, concepts, InversionConfig(method=method, **{"steps": STEPS, **options})
    )


def error(edited, archive):
    return relative_rms(edited.latents, archive.trajectory.states[-1]).max().item()


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("method", ["pec", "ddpm"])
def test_offsets_and_noise_maps_bring_the_image_back_at_any_guidance(backbone, picture, concepts, method, guidance):
    archive = inverted(backbone, picture, concepts, method)
    back = edit(
        backbone, archive, SOURCE, concepts, EditConfig(guidance_scale=guidance, source="delta", source_guidance=None)
    )
    assert error(back, archive) <= 1e-5
    assert abs(pixel_psnr(back.image, archive.image) - pixel_psnr(archive.reconstruction, archive.image)) <= 0.1


def test_negative_prompt_inversion_at_any_guidance_is_the_reconstruction(backbone, picture, concepts):
    archive = inverted(backbone, picture, concepts)
    plain = edit(backbone, archive, SOURCE, concepts, EditConfig(guidance_scale=1, source="none"))
    for guidance in (0.0, 3.0, 7.5):
        npi = edit(backbone, archive, SOURCE, concepts, EditConfig(guidance_scale=guidance))
        assert relative_rms(npi.latents, plain.latents).max() <= 1e-5
    guided = edit(backbone, archive, SOURCE, concepts, EditConfig(source="none"))
    assert relative_rms(guided.latents, plain.latents).max() > 1e-4


def test_guidance_away_from_the_source_needs_half_as_much(sd1_backbone, picture):
    own = sd1_backbone.guidance_scale
    assert EditConfig(source="npi").guidance(sd1_backbone) == own / 2
    assert EditConfig(source="none").guidance(sd1_backbone) == EditConfig(source="delta").guidance(sd1_backbone) == own
    assert EditConfig(guidance_scale=3).guidance(sd1_backbone) == 3
    archive = inverted(sd1_backbone, picture, concepts := [learned(16)])
    plain, half, whole = (
        edit(sd1_backbone, archive, "a <c> on the moon", concepts, EditConfig(guidance_scale=scale)).latents
        for scale in (None, own / 2, own)
    )
    assert plain.equal(half) and not plain.equal(whole)


def test_the_default_round_trip_is_close(backbone, picture, concepts):
    errors = {}
    for method in ("ddim", "pec", "fixed-point"):
        archive = inverted(backbone, picture, concepts, method, steps=50)
        errors[method] = error(edit(backbone, archive, SOURCE, concepts, EditConfig(guidance_scale=1)), archive)
    assert errors["fixed-point"] <= 1e-4
    assert errors["pec"] <= errors["ddim"] / 4


@pytest.mark.parametrize("size", [(24, 12), (12, 24)])
def test_a_picture_keeps_its_shape(sd1_backbone, picture, size):
    concepts, large = [learned(16)], picture.resize((5 * size[0], 5 * size[1]))
    archive = inverted(sd1_backbone, large, concepts, "fixed-point", steps=50)
    assert archive.image.size == size
    back = edit(sd1_backbone, archive, SOURCE, concepts, EditConfig(guidance_scale=1))
    assert error(back, archive) <= 1e-4
    assert back.image.size == size
    sideways = large.transpose(Image.Transpose.ROTATE_90)
    sideways.getexif()[274] = 6  # shown turned by 270 degrees: the same picture
    assert prepared(sd1_backbone, sideways).equal(prepared(sd1_backbone, large))


def test_words_change_the_image_and_skip_keeps_it(backbone, picture, concepts):
    archive = inverted(backbone, picture, concepts)
    skips = [0.0, 0.3, 0.6, 0.9]
    results = sweep(backbone, archive, "a blue dog on the moon", concepts, EditConfig(), skips)
    errors = [error(result, archive) for result in results]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3
    assert [result.skip for result in results] == skips


@pytest.mark.parametrize(
    ("method", "source", "most"), [("pec", "none", 3), ("pec", "npi", 3), ("pec", "delta", 5), ("ddpm", "npi", 5)]
)
def test_counts_what_it_costs(sd1_backbone, picture, method, source, most):
    concepts, steps = [learned(16)], 40
    archive = inverted(sd1_backbone, picture, concepts, method, steps=steps)
    assert archive.evaluations == {"pec": steps + 7, "ddpm": 0}[method]
    results = sweep(sd1_backbone, archive, "a <c> on the moon", concepts, EditConfig(source=source), [0, 0.5])
    own = {"none": 2, "npi": 2, "delta": 4}[source] + (method == "ddpm")
    assert [result.evaluations for result in results] == [own * steps, steps]
    assert archive.evaluations + results[0].evaluations <= most * steps + 7


def test_one_image_does_not_depend_on_the_others(backbone, picture, concepts):
    """Batch 1 and batch 4, through inversion and sampling."""
    grid = ddim_steps(backbone.schedule, STEPS)
    one = encode_image(backbone, prepared(backbone, picture))
    noise = torch.randn(4, *one.shape[1:], generator=torch.Generator().manual_seed(1))
    batch = torch.cat([one, one + 0.3 * noise[1:]])
    denoise = Denoiser(backbone, encode_prompts(backbone, [SOURCE], concepts))
    for method in ("pec", "fixed-point"):
        together = find_trajectory(denoise, batch, grid, InversionConfig(method=method)).states[0]
        alone = find_trajectory(denoise, one, grid, InversionConfig(method=method)).states[0]
        assert relative_rms(together[:1], alone).max() <= 1e-4
        assert relative_rms(walk(denoise, together, grid)[:1], walk(denoise, alone, grid)).max() <= 1e-4


def test_seeds_of_ddpm_give_different_edits(sd1_backbone, picture):
    concepts = [learned(16)]
    first, second = (inverted(sd1_backbone, picture, concepts, "ddpm", seed=seed) for seed in (0, 1))
    config = EditConfig(guidance_scale=15, source="none", source_guidance=3.5, skip=0.4)
    one, two = (edit(sd1_backbone, archive, "a dog", concepts, config).latents for archive in (first, second))
    assert relative_rms(one, two).max() > 1e-3


def test_an_archive_comes_back_from_its_file_as_it_was(backbone, picture, concepts, tmp_path):
    archive = inverted(backbone, picture, concepts)
    archive = archive.with_offsets(3.0, torch.ones(STEPS, 1, 4, 8, 8))
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    archive.save(first)
    read = Archive.load(first)
    read.save(second)
    assert first.read_bytes() == second.read_bytes()
    assert torch.equal(read.trajectory.states, archive.trajectory.states)
    assert read.trajectory.residuals == archive.trajectory.residuals
    assert (read.config, read.steps, read.concepts) == (archive.config, archive.steps, archive.concepts)
    assert read.image.tobytes() == archive.image.tobytes()
    same = edit(backbone, read, "a dog", concepts).latents
    assert torch.equal(same, edit(backbone, archive, "a dog", concepts).latents)
    with pytest.raises(Exception, match="exists already"):
        archive.save(first)


def test_a_damaged_archive_is_told_in_one_line(sd1_backbone, picture, tmp_path):
    path = tmp_path / "a.safetensors"
    inverted(sd1_backbone, picture, [learned(16)]).save(path)
    data = bytearray(path.read_bytes())
    for place in (0, 40, 700, len(data) // 2, len(data) - 1):
        broken = bytes(data[:place]) + bytes([data[place] ^ 64]) + bytes(data[place + 1 :])
        path.write_bytes(broken)
        with pytest.raises(EditError) as caught:
            Archive.load(path)
        assert "\n" not in str(caught.value)
    learned(16).save(tmp_path / "c.safetensors")
    with pytest.raises(EditError, match="not an archive"):
        Archive.load(tmp_path / "c.safetensors")
    with pytest.raises(EditError, match="does not exist"):
        Archive.load(tmp_path / "none.safetensors")


def test_an_archive_knows_what_it_belongs_to(pipeline, backbone, picture, concepts):
    archive = inverted(backbone, picture, concepts)
    with pytest.raises(EditError, match="another concept of that name"):
        edit(backbone, archive, "a <c>", [learned(backbone.text_encoders[0].dim, seed=1)])
    with pytest.raises(EditError, match="no concept of that name"):
        edit(backbone, archive, "a dog")
    with pytest.raises(EditError, match="another image"):
        archive.check_image(archive.reconstruction)
    with pytest.raises(PromptError, match="<d>"):
        edit(backbone, archive, "a <d>", concepts)
    with pytest.raises(EditError, match="another model"):
        edit(backbone, replace(archive, fingerprint="1" * 64), "a <c>", concepts)
    own = backbone.schedule.config
    for option, value in (
        ("steps_offset", 1 - own["steps_offset"]),
        ("timestep_spacing", "trailing"),
        ("set_alpha_to_one", not own["set_alpha_to_one"]),
        ("beta_end", 0.013),
        ("prediction_type", "sample"),
    ):
        pipeline.scheduler.register_to_config(**{option: value})
        other = Backbone.from_pipeline(pipeline, "tiny")
        pipeline.scheduler.register_to_config(**own)
        with pytest.raises(EditError, match="another scheduler"):
            edit(other, archive, "a <c>", concepts)


def test_refuses_schedulers_that_ruin_latents(sd1, picture):
    backbone = Backbone.from_pipeline(sd1, "tiny")
    with pytest.raises(ConceptError, match="width"):
        inverted(backbone, picture, [learned(7)])
    backbone.schedule.config["clip_sample"] = True
    with pytest.raises(ModelError, match="clip_sample"):
        inverted(backbone, picture, [learned(16)])


def test_latents_that_are_not_finite_name_the_step(sd1_backbone, picture):
    parameter = next(sd1_backbone.unet.conv_out.parameters())
    parameter.data.fill_(torch.inf)
    with pytest.raises(EditError, match="step 1 of 20 of the inversion"):
        inverted(sd1_backbone, picture, [learned(16)])
    next(sd1_backbone.vae.encoder.conv_in.parameters()).data.fill_(torch.nan)
    with pytest.raises(EditError, match="of the encoding"):
        inverted(sd1_backbone, picture, [learned(16)])


def test_the_budget_names_the_stage_at_fault(backbone, picture, concepts, monkeypatch):
    """With a decoder that shows the error of the latents at once."""
    archive = inverted(backbone, picture, concepts, "fixed-point")
    budget = reconstruct(backbone, archive, concepts)
    assert budget.fault == "none"
    assert budget.inversion_error <= 1e-4
    assert budget.guidance_error <= 1e-4
    assert budget.vae_psnr == pixel_psnr(archive.reconstruction, archive.image)
    assert budget.evaluations == STEPS * 3
    assert budget.noise_std == pytest.approx(archive.trajectory.states[0].std().item())
    assert "comes back" in budget.lines()[-1]
    clean, pixels = archive.trajectory.states[-1], prepared(backbone, picture)
    monkeypatch.setattr(backbone, "decode", lambda latents: pixels + 20 * (latents - clean).abs().mean())
    exact = replace(archive, reconstruction=archive.image)
    spoilt = archive.trajectory.states.clone()
    spoilt[0] += 0.5
    wrong = reconstruct(backbone, replace(exact, trajectory=replace(archive.trajectory, states=spoilt)), concepts)
    assert wrong.fault == "inversion"
    unheld = reconstruct(backbone, exact, concepts, EditConfig(guidance_scale=300, source="none"))
    assert unheld.fault == "guidance"
    assert unheld.guidance_psnr < unheld.inversion_psnr
    assert "npi" in unheld.lines()[-1]


def test_refuses_what_is_out_of_range():
    for options in ({"source": "magic"}, {"guidance_scale": math.inf}, {"skip": 1.0}, {"source_guidance": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            EditConfig(**options)
