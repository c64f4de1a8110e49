import numpy as np
import pytest
import torch

from sentinv.concepts.concept import Concept
from sentinv.errors import ConceptError, PromptError
from sentinv.generation.generate import GenerateConfig, generate, generate_latents, seeded
from sentinv.models.backbone import Backbone

QUICK = GenerateConfig(steps=4)


def concept(token="<c>", count=2, dim=16, **options):
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(count)) * 0.1
    return Concept(token=token, rows={"text_encoder": rows}, **options)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("negative", ["", "blue dog"])
def test_same_images_as_diffusers(pipeline, backbone, guidance, negative):
    """Oracle: StableDiffusionPipeline with its DDIMScheduler."""
    config = GenerateConfig(steps=7, guidance_scale=guidance, negative_prompt=negative)
    ours = generate_latents(backbone, "a red mug", generators=seeded(3, 2), config=config)
    options = {
        "negative_prompt": negative,
        "guidance_scale": guidance,
        "num_inference_steps": 7,
        "num_images_per_prompt": 2,
    }
    theirs = pipeline("a red mug", generator=seeded(3, 2), output_type="latent", **options).images
    assert torch.allclose(ours, theirs, atol=1e-5)
    pixels = pipeline("a red mug", generator=seeded(3, 2), output_type="np", **options).images
    decoded = (backbone.decode(ours) / 2 + 0.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(decoded - pixels).max() < 1e-5


def test_an_image_depends_on_its_seed_alone(backbone):
    together = generate_latents(
        backbone, "a mug", generators=seeded(5, 3), config=GenerateConfig(steps=4, batch_size=2)
    )
    alone = generate_latents(backbone, "a mug", generators=seeded(7, 1), config=QUICK)
    assert torch.allclose(together[2:], alone, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_several_concepts_and_sizes(sd1_backbone):
    concepts = [concept("<a>"), concept("<b>", 1)]
    config = GenerateConfig(steps=2, height=32, width=24, negative_prompt="<b>")
    done = []
    images = generate(
        sd1_backbone, "<a> on <b>", concepts, count=5, config=config, on_step=lambda *step: done.append(step)
    )
    assert [image.size for image in images] == [(24, 32)] * 5
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(ValueError, match="multiples of 2"):
        generate(sd1_backbone, "a mug", config=GenerateConfig(width=17))


def test_says_what_does_not_fit(sd1_backbone):
    with pytest.raises(PromptError, match="<d>"):
        generate(sd1_backbone, "a <d>", [concept()], config=QUICK)
    with pytest.raises(PromptError, match="none"):
        generate(sd1_backbone, "a <d>", config=QUICK)
    with pytest.raises(ConceptError, match="width"):
        generate(sd1_backbone, "a <c>", [concept(dim=7)], config=QUICK)
    with pytest.raises(ConceptError, match="twice"):
        generate(sd1_backbone, "a <c>", [concept(), concept()], config=QUICK)
    with pytest.warns(UserWarning, match="another model"):
        generate(sd1_backbone, "a <c>", [concept(metadata={"sentinv.base_model_hash": "0" * 64})], config=QUICK)


@pytest.mark.parametrize("zeros", [True, False])
def test_two_text_encoders_make_the_images_of_diffusers(xl, zeros):
    """Oracle: StableDiffusionXLPipeline, with both embeddings loaded by hand; its default is zeros for no negative prompt."""
    xl.register_to_config(force_zeros_for_empty_prompt=zeros)
    backbone = Backbone.from_pipeline(xl, "tiny")
    rows = {"text_encoder": torch.full((2, 16), 0.1), "text_encoder_2": torch.linspace(-1, 1, 48).reshape(2, 24)}
    learned = Concept(token="<c>", rows=rows)
    ours = generate_latents(backbone, "a <c> on the moon", [learned], generators=seeded(1, 2), config=QUICK)
    for suffix in ("", "_2"):
        part = {
            "tokenizer": xl.components[f"tokenizer{suffix}"],
            "text_encoder": xl.components[f"text_encoder{suffix}"],
        }
        xl.load_textual_inversion({"<c>": rows[f"text_encoder{suffix}"]}, **part)
    theirs = xl(
        "a <c> on the moon",
        negative_prompt=None if zeros else "",
        num_images_per_prompt=2,
        generator=seeded(1, 2),
        num_inference_steps=4,
        guidance_scale=7.5,
        output_type="latent",
    ).images
    assert (ours - theirs).abs().max() < 1e-5 * theirs.std()


def test_an_empty_prompt_is_no_missing_one(xl):
    """Oracle: StableDiffusionXLPipeline, which has zeros for the missing negative prompt and not for an empty prompt."""
    xl.register_to_config(force_zeros_for_empty_prompt=True)
    ours = generate_latents(Backbone.from_pipeline(xl, "tiny"), "", generators=seeded(1, 1), config=QUICK)
    theirs = xl("", generator=seeded(1, 1), num_inference_steps=4, guidance_scale=7.5, output_type="latent").images
    assert (ours - theirs).abs().max() < 1e-5 * theirs.std()
