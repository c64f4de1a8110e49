"""diffusers' LEDITS++ on tiny models: that it is the library's, where it is not, and that it leaves the model as it was."""

import math

import pytest
import torch
from conftest import copied, same, snapshot
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, LEditsPPPipelineStableDiffusion, UNet2DConditionModel
from PIL import Image
from test_editing import calmed, learned

from sentinv.bench.concepts import StudyConcept
from sentinv.bench.editing_arms import ARMS, DEFAULT_ARMS, EditingStudy
from sentinv.bench.editing_runner import EditingBench
from sentinv.bench.editing_study import Case, run_case
from sentinv.bench.leditspp import LeditsConfig, _EveryChannel, _pipeline, _Words, leditspp
from sentinv.editing.inversion import relative_rms
from sentinv.errors import EditError, PromptError
from sentinv.models.backbone import Backbone
from sentinv.training.config import TrainConfig

TARGET = "a painting of <c> on the moon"


def deeper(pipeline, channels):
    """A pipeline whose UNet has cross-attention at a quarter of the latents' side, as that of Stable Diffusion has."""
    torch.manual_seed(channels)
    groups = {"norm_num_groups": 4, "layers_per_block": 1}
    pipeline.unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 8, 16),
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        **groups,
    )
    pipeline.vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        sample_size=32,
        **groups,
    )
    return pipeline


@pytest.fixture
def square(picture):
    return picture.resize((32, 32))


@pytest.fixture(params=[4, 8])
def backbone(_pipelines, square, request):
    return calmed(deeper(copied(_pipelines["sd1"]), request.param), square)


@pytest.fixture
def concepts():
    return [learned(16)]


@pytest.mark.parametrize("backbone", [4], indirect=True)
def test_it_is_the_librarys_own_where_that_runs_as_it_is(backbone, square):
    """With a prompt that fills the text encoder, whose length is that of the padding."""
    encoder, prompt = backbone.text_encoders[0], " ".join(["moon"] * 38)
    config = LeditsConfig(steps=6, skip=0.34, guidance_scale=5.0, threshold=0.6, seed=3)
    ours = leditspp(backbone, square, prompt, config=config)
    scheduler = DPMSolverMultistepScheduler.from_config(
        backbone.schedule.config, algorithm_type="sde-dpmsolver++", solver_order=2
    )
    parts = {"vae": backbone.vae, "text_encoder": encoder.model, "tokenizer": encoder.tokenizer, "unet": backbone.unet}
    unchecked = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = LEditsPPPipelineStableDiffusion(**parts, scheduler=scheduler, **unchecked)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.invert(square, num_inversion_steps=4, skip=0.5, generator=torch.Generator().manual_seed(3))
    theirs = pipeline(editing_prompt=[prompt], edit_guidance_scale=5.0, edit_threshold=0.6, output_type="latent")
    assert torch.equal(ours.latents, theirs.images)
    assert ours.evaluations == 4 * (1 + 2)


def test_edits_with_learned_words_and_changes_less_with_skip(backbone, square, concepts):
    def edited(words=concepts, **options):
        return leditspp(backbone, square, TARGET, words, LeditsConfig(steps=6, **options))

    changes = []
    for skip, steps in ((0, 6), (0.5, 3)):
        some, none = edited(skip=skip), edited(skip=skip, guidance_scale=0)
        changes.append((some.latents - none.latents).abs())
        assert some.evaluations == none.evaluations == 3 * steps
        assert some.skip == skip and some.image.size == (32, 32)
    assert changes[0].mean() > 3 * changes[1].mean() > 0
    assert (changes[0].amax(dim=(0, 2, 3)) > 0).all()  # in every channel, however many
    assert torch.equal(edited().latents, edited().latents)
    assert not torch.equal(edited().latents, edited([learned(16, seed=1)]).latents)


def test_a_source_prompt_would_lead_the_pipeline_off_the_path_that_it_found(backbone, square):
    """Without one, sampling comes to the state that the picture was noised to; the last step alone guesses."""
    strays = {}
    for source in ("", "a photo of a red mug"):
        states = []
        with _pipeline(backbone, None) as pipeline:
            pipeline.invert(square, source, num_inversion_steps=6, generator=torch.Generator().manual_seed(0))
            pipeline(
                editing_prompt=["a dog"],
                edit_guidance_scale=0,
                output_type="latent",
                callback_on_step_end=lambda *given: states.append(given[-1]["latents"]) or given[-1],  # noqa: B023
            )
            clean, _ = pipeline.encode_image(square, torch.float32)
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
            last = pipeline.scheduler.add_noise(clean, noise, pipeline.inversion_steps[-1:])
        strays[source] = relative_rms(states[-2], last).item()
    assert strays[""] <= 1e-5
    assert strays["a photo of a red mug"] > 1e-3
    assert relative_rms(states[-1], clean) > 1e-2


def test_leaves_the_model_as_it_was(backbone, square, concepts):
    before = snapshot(backbone), backbone.unet.attn_processors, dict(backbone.unet.config), backbone.fingerprint
    leditspp(backbone, square, TARGET, concepts, LeditsConfig(steps=2))
    with pytest.raises(PromptError, match="<d>"):
        leditspp(backbone, square, "a <d>", concepts, LeditsConfig(steps=2))
    after = snapshot(backbone)
    assert same(before[0], after)
    processors = backbone.unet.attn_processors
    assert processors.keys() == before[1].keys() and all(processors[name] is before[1][name] for name in processors)
    assert dict(backbone.unet.config) == before[2] and not backbone.unet._forward_pre_hooks
    assert torch.ones(1, 1, 2, 2).repeat(1, 4, 1, 1).shape[1] == 4


def test_masks_are_repeated_over_all_channels_and_nothing_else_is():
    with _EveryChannel(8):
        assert torch.ones(2, 1, 3, 3).repeat(1, 4, 1, 1).shape == (2, 8, 3, 3)
        assert torch.ones(2, 2, 3, 3).repeat(1, 4, 1, 1).shape == (2, 8, 3, 3)
        assert torch.ones(2, 3, 3, 3).repeat(1, 4, 1, 1).shape == (2, 12, 3, 3)
        assert torch.ones(2, 1, 3, 3).repeat(2, 4, 1, 1).shape == (4, 4, 3, 3)


def test_prompts_have_their_own_length(sd1_backbone):
    words = _Words(sd1_backbone.text_encoders[0], {"<c>": [-1, -2]}, frozenset())
    given = words(["a photo of <c>", ""], padding="max_length", return_length=True)
    assert given.length.tolist() == [3 + 2 + 2, 2]
    assert given.input_ids.shape == (2, 40) and given.input_ids[0, 4:6].tolist() == [-1, -2]


@pytest.mark.parametrize("backbone", [4], indirect=True)
def test_refuses_in_one_line_what_the_pipeline_cannot_run_on(backbone, sd1_backbone, xl, picture, square):
    with pytest.raises(EditError, match="quarter of the latents' side, and tiny has none"):
        leditspp(sd1_backbone, square, "a dog")
    with pytest.raises(EditError, match="1 and 2 only, tiny is stable-diffusion-xl"):
        leditspp(Backbone.from_pipeline(xl, "tiny"), square, "a dog")
    with pytest.raises(EditError, match="multiples of 32, got 40 x 24"):
        leditspp(backbone, picture.resize((50, 30)), "a dog")
    for wrong in (
        {"steps": 0},
        {"skip": 1.0},
        {"threshold": 1.1},
        {"guidance_scale": math.inf},
    ):
        with pytest.raises(ValueError, match="must be"):
            LeditsConfig(**wrong)


@pytest.mark.parametrize("backbone", [8], indirect=True)
def test_peers_are_arms_of_the_study_where_they_are_named(backbone, square, tmp_path):
    peers = [name for name in ARMS if name not in DEFAULT_ARMS]
    assert len(DEFAULT_ARMS) == 10 and {"flow-edit", "direct-inversion", "direct-edit", "leditspp"} <= set(peers)
    square.save(tmp_path / "image.png")
    square.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "edit.png")
    source = StudyConcept(
        "c", tmp_path / "image.png", "a mug", "mug", None, (), ("a {} on the moon",), (tmp_path / "edit.png",)
    )
    case = Case.read(backbone, source, learned(16))
    study = EditingStudy(steps=4, skips=(0.0, 0.5), arms=(*peers, "ddim-none"))
    made = [(record, image) for record, image in run_case(backbone, case, study) if record["kind"] == "edit"]
    images = {(record["arm"], record["skip"]): image.tobytes() for record, image in made}
    costs = {(record["arm"], record["skip"]): record["evaluations"] for record, _ in made}
    for skip, left in ((0.0, 4), (0.5, 2)):
        assert images["direct-inversion", skip] == images["ddim-none", skip] != images["direct-edit", skip]
        assert costs["direct-edit", skip] == costs["direct-edit-half", skip] == 4 + 2 * left
        ledits = [name for name in peers if name.startswith("leditspp")]
        assert {costs[name, skip] for name in ledits} == {3 * left}
        assert len({images[name, skip] for name in ledits}) == len(ledits) == 4
        assert costs["flow-edit", skip] == 4 * left
    assert all(record["target_ratio"] > 0 for record, _ in made)


def test_a_study_is_refused_before_it_begins(sd1_backbone, tmp_path):
    study = EditingStudy(steps=2, arms=("pec-npi", "leditspp-wide"))
    with pytest.raises(EditError, match="quarter of the latents' side, and tiny has none"):
        EditingBench(sd1_backbone, study, TrainConfig(steps=1), None, tmp_path)
