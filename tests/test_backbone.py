import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import FAMILIES, build_ldm, build_pipeline, build_vqvae, copied, same, snapshot
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from huggingface_hub.errors import RemoteEntryNotFoundError
from safetensors.torch import load_file

from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization
from sentinv.concepts.tokens import tokenize
from sentinv.diffusion.ddim import ddim_steps
from sentinv.errors import ModelError
from sentinv.generation.generate import GenerateConfig, generate_latents, seeded
from sentinv.models import names
from sentinv.models.backbone import Backbone
from sentinv.models.loading import load, load_tokenizers, text_widths
from sentinv.training.config import TrainConfig
from sentinv.training.train import train_concept


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folders(tmp_path_factory, _pipelines):
    paths = {family: tmp_path_factory.mktemp(family) for family in ("ldm", "sd2")}
    for family, path in paths.items():
        _pipelines[family].save_pretrained(path)
    return paths


@pytest.fixture
def folder(folders):
    return folders["sd2"]


def test_sizes_come_from_the_configs(family, pipeline, backbone):
    assert (backbone.vae_scale, backbone.resolution, backbone.schedule.train_timesteps) == (2, 16, 1000)
    assert backbone.schedule.prediction_type == pipeline.scheduler.config.prediction_type
    assert backbone.text_encoders[0].max_length == (77 if family == "ldm" else 40)
    assert backbone.schedule.final_alpha_cumprod == (
        1.0 if family == "ldm" else float(backbone.schedule.alphas_cumprod[0])
    )


def test_moments_are_those_of_the_vae(backbone):
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moments = backbone.encode(pixels)
    posterior = backbone.vae.encode(pixels).latent_dist
    noise = torch.randn(moments.mean.shape, generator=torch.Generator().manual_seed(1))
    wanted = posterior.sample(torch.Generator().manual_seed(1)) * 0.31
    assert torch.allclose(backbone.sample_latents(moments.mean, moments.std, noise), wanted, atol=1e-6)
    decoded = backbone.vae.decode(wanted / 0.31).sample.clamp(-1, 1)
    assert torch.allclose(backbone.decode(wanted), decoded, atol=1e-6)
    with pytest.raises(ValueError, match="multiples of 2"):
        backbone.encode(pixels[..., :15])


def test_a_quantising_autoencoder_has_no_spread(bert_tokenizer, tmp_path):
    pipeline = build_ldm(bert_tokenizer, build_vqvae)
    pipeline.save_pretrained(tmp_path)
    backbone = load(tmp_path, device="cpu")
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moments = backbone.encode(pixels)
    wanted = pipeline.vqvae.encode(pixels).latents
    assert torch.equal(moments.mean, wanted)
    assert not moments.std.any()
    latents = backbone.sample_latents(moments.mean, moments.std, torch.ones_like(wanted))
    assert torch.allclose(latents, 0.31 * wanted)
    assert torch.allclose(backbone.decode(latents), pipeline.vqvae(pixels).sample.clamp(-1, 1), atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_latent_diffusion_makes_the_images_of_diffusers(ldm, guidance):
    """Oracle: LDMTextToImagePipeline with its DDIMScheduler, which takes a latent to be 8 pixels wide."""
    backbone = Backbone.from_pipeline(ldm, "tiny")
    prompts = ["", "A red zebra, striped", "a mug " * 60]
    ids = ldm.tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    with pytest.warns(UserWarning, match="was cut"):
        ours = tokenize(backbone, prompts)["text_encoder"]
    assert torch.equal(ours, ids)
    assert torch.equal(backbone.encode_ids({"text_encoder": ours}).hidden, ldm.bert(ids)[0])
    config = GenerateConfig(steps=7, guidance_scale=guidance)
    latents = generate_latents(backbone, prompts[1], generators=seeded(3, 2), config=config)
    noise = torch.stack([torch.randn(4, 8, 8, generator=generator) for generator in seeded(3, 2)])
    options = {"height": 64, "width": 64, "num_inference_steps": 7, "guidance_scale": guidance, "output_type": "pt"}
    theirs = ldm([prompts[1]] * 2, latents=noise, **options).images
    assert torch.allclose(backbone.decode(latents) / 2 + 0.5, theirs, atol=1e-4)
    other = ldm(["a blue dog"] * 2, latents=noise, **options).images
    assert (other - theirs).abs().max() > 1e-3


def test_fingerprint_tells_models_apart_and_precisions_not(_pipelines, tokenizer):
    first = Backbone.from_pipeline(copied(_pipelines["sd1"]))
    print_before = first.fingerprint
    rounded = Backbone.from_pipeline(copied(_pipelines["sd1"]).to(torch.bfloat16))
    assert rounded.fingerprint == print_before
    tiny = copied(_pipelines["sd1"])
    with torch.no_grad():
        tiny.unet.conv_out.weight.fill_(1e-9)  # zero in half precision
    assert (
        Backbone.from_pipeline(tiny).fingerprint == Backbone.from_pipeline(copied(tiny).to(torch.float16)).fingerprint
    )
    torch.manual_seed(99)
    changed = copied(_pipelines["sd1"])
    with torch.no_grad():
        changed.unet.conv_out.weight.neg_()
    assert Backbone.from_pipeline(changed).fingerprint != print_before
    assert Backbone.from_pipeline(build_pipeline(tokenizer, 24, "epsilon")).fingerprint != print_before


@pytest.mark.parametrize("family", ["ldm", "sd2"])
def test_a_folder_loads_as_the_pipeline_was(folders, family, _pipelines):
    folder = folders[family]
    loaded, wanted = load(folder, device="cpu"), Backbone.from_pipeline(_pipelines[family])
    assert loaded.fingerprint == wanted.fingerprint
    for ours, theirs in zip(snapshot(loaded)[0], snapshot(wanted)[0], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert loaded.schedule.prediction_type == wanted.schedule.prediction_type
    prompts = ["a photo of a mug"]
    assert torch.equal(tokenize(loaded, prompts)["text_encoder"], tokenize(wanted, prompts)["text_encoder"])
    assert load(folder, device="cpu", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_latent_diffusion_trains_one_tensor(ldm, tmp_path, picture):
    backbone = Backbone.from_pipeline(ldm, "tiny")
    before = snapshot(backbone)
    config = TrainConfig(steps=3, blended=0, evaluate_every=1, learning_rate=0.05)
    concept, history = train_concept(backbone, [picture], Initialization("a zebra"), config, token="<c>")
    assert history.learned
    assert same(before, snapshot(backbone))
    assert {name: tuple(rows.shape) for name, rows in concept.rows.items()} == {"text_encoder": (6, 16)}
    path = concept.save(tmp_path / "c.safetensors")
    assert list(load_file(path)) == ["<c>"]
    read = Concept.load(path)
    assert read.to_bytes() == concept.to_bytes()
    assert read.metadata["modelspec.architecture"] == "latent-diffusion/textual-inversion"


def test_two_text_encoders_load_and_train(xl, tmp_path, picture):
    xl.save_pretrained(tmp_path / "model")
    backbone = load(tmp_path / "model", device="cpu")
    assert backbone.fingerprint == Backbone.from_pipeline(xl).fingerprint
    assert text_widths(tmp_path / "model") == {encoder.name: encoder.dim for encoder in backbone.text_encoders}
    config = TrainConfig(steps=3, blended=0, evaluate_every=1, learning_rate=0.05)
    concept, history = train_concept(backbone, [picture], Initialization("a mug"), config, token="<c>")
    assert history.learned
    for encoder in backbone.text_encoders:
        start = encoder.table.weight[encoder.text_ids("a mug")]
        assert concept.rows[encoder.name].shape == start.shape
        assert not torch.equal(concept.rows[encoder.name], start)
    path = concept.save(tmp_path / "c.safetensors")
    assert Concept.load(path).to_bytes() == concept.to_bytes()


@pytest.mark.parametrize("family", ["ldm", "sd2"])
def test_widths_are_known_before_the_weights(folders, family):
    backbone = load(folders[family], device="cpu")
    assert text_widths(folders[family]) == {"text_encoder": backbone.text_encoders[0].dim}


@pytest.mark.parametrize(
    ("family", "missing"),
    [
        *(("sd2", part) for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "unet/config.json")),
        *(("ldm", part) for part in ("vqvae", "vqvae/config.json", "bert", "tokenizer")),
    ],
)
def test_an_incomplete_folder_is_told_in_one_line(folders, family, tmp_path, missing):
    shutil.copytree(folders[family], tmp_path / "model")
    path = tmp_path / "model" / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ModelError, match=missing.split("/")[0]) as error:
        load(tmp_path / "model", device="cpu")
    assert "\n" not in str(error.value)


def test_a_truncated_weight_file_is_told_in_one_line(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="unet") as error:
        load(tmp_path / "model", device="cpu")
    assert "\n" not in str(error.value)


def test_names_that_are_no_model(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.ckpt").write_bytes(b"PK")
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    for name, message in (
        ("nothing-here", "sd15"),
        (tmp_path / "empty", "model_index.json"),
        (tmp_path / "model.ckpt", "run code"),
        (tmp_path / "model.safetensors", "safetensors"),
        (tmp_path / "other", "FluxPipeline"),
    ):
        with pytest.raises(ModelError, match=message) as error:
            load(name, device="cpu")
        assert "\n" not in str(error.value)


def test_offline_is_told_in_one_line(monkeypatch):
    from huggingface_hub.errors import OfflineModeIsEnabled

    def refuse(*_args, **_options):
        raise OfflineModeIsEnabled("offline\nmode")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(ModelError, match="go online, or give a folder"):
        load("sd15", device="cpu")


def test_short_names_are_hub_ids():
    assert all(names.is_hub_id(name) for name in names.SHORT_NAMES.values())


def test_a_scheduler_that_never_heard_of_clipping_is_welcome(folders, tmp_path):
    """Euler's config has no clip_sample, for which DDIMScheduler's default is true."""
    shutil.copytree(folders["sd2"], tmp_path / "model")
    EulerDiscreteScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction").save_pretrained(
        tmp_path / "model/scheduler"
    )
    assert "clip_sample" not in json.loads((tmp_path / "model/scheduler/scheduler_config.json").read_text())
    assert len(ddim_steps(load(tmp_path / "model", device="cpu").schedule, 5)) == 5


def test_a_tokenizer_alone_has_the_limit_of_its_text_encoder(folders):
    for family, path in folders.items():
        (words,) = load_tokenizers(path)
        assert words.model_max_length == load(path, device="cpu").text_encoders[0].tokenizer.model_max_length
        assert words.model_max_length == (77 if family == "ldm" else 40)


def test_a_repository_of_something_else_is_told_in_one_line(monkeypatch):
    response = SimpleNamespace(headers={}, request=None)

    def missing(*_args, **_options):
        raise RemoteEntryNotFoundError("404\nnot there", response=response)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", missing)
    monkeypatch.setattr("sentinv.models.parts._go_offline_if_unreachable", lambda: None)
    with pytest.raises(ModelError, match=r"sd15 on the hub has no model_index.json: expected a model in the layout"):
        load("sd15", device="cpu")


@pytest.mark.parametrize("scheduler", [EDMEulerScheduler(), FlowMatchEulerDiscreteScheduler()])
def test_other_noise_processes_are_refused(sd1, scheduler):
    sd1.scheduler = scheduler
    with pytest.raises(ModelError, match=f"with betas.*got {type(scheduler).__name__}"):
        Backbone.from_pipeline(sd1, "tiny")
    sd1.scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="epsilon")
    with pytest.raises(ModelError, match="not supported"):
        Backbone.from_pipeline(sd1, "tiny")


def test_the_grid_does_not_depend_on_what_else_a_scheduler_has_by_default(sd1):
    """Euler's own default spacing is another; a folder with that scheduler is sampled by DDIM's, and so is a pipeline."""
    wanted = ddim_steps(Backbone.from_pipeline(sd1, "tiny").schedule, 10)
    own = {name: value for name, value in sd1.scheduler.config.items() if name != "timestep_spacing"}
    sd1.scheduler = EulerDiscreteScheduler.from_config(own)
    assert sd1.scheduler.config.timestep_spacing == "linspace"
    assert ddim_steps(Backbone.from_pipeline(sd1, "tiny").schedule, 10) == wanted


def test_latents_are_normalised_as_their_autoencoder_says(sd1):
    """As StableDiffusionXLPipeline does it: latents * std / scaling_factor + mean, on the way back."""
    mean, std = [0.5, -1.0, 2.0, 0.1], [2.0, 0.5, 1.0, 3.0]
    sd1.vae.register_to_config(latents_mean=mean, latents_std=std)
    backbone = Backbone.from_pipeline(sd1, "tiny")
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    m, s = (torch.tensor(values).reshape(1, 4, 1, 1) for values in (mean, std))
    unscaled = latents * s / backbone.vae.config.scaling_factor + m
    assert torch.allclose(backbone.decode(latents), backbone.vae.decode(unscaled).sample.clamp(-1, 1), atol=1e-5)
    zeros = torch.zeros_like(unscaled)
    assert torch.allclose(backbone.sample_latents(unscaled, zeros, zeros), latents, atol=1e-5)


def test_constants_tell_what_weights_do_not(sd1):
    backbone = Backbone.from_pipeline(sd1, "tiny")
    seen = {backbone.constants}
    assert Backbone.from_pipeline(sd1, "other").constants in seen
    for changed in ({"prediction_type": "v_prediction"}, {"timestep_spacing": "trailing"}, {"beta_end": 0.02}):
        other = DDIMScheduler.from_config(sd1.scheduler.config, **changed)
        same_weights = Backbone("tiny", sd1.unet, sd1.vae, backbone.text_encoders, other)
        assert same_weights.fingerprint == backbone.fingerprint
        seen.add(same_weights.constants)
    sd1.vae.register_to_config(scaling_factor=0.5)
    seen.add(Backbone.from_pipeline(sd1, "tiny").constants)
    assert len(seen) == 5


def test_the_fingerprint_is_the_same_under_the_names_of_older_transformers(sd1):
    new = Backbone.from_pipeline(sd1, "tiny")
    old = Backbone.from_pipeline(sd1, "tiny")
    model = old.text_encoders[0].model
    prefixed = [(f"text_model.{name.removeprefix('text_model.')}", one) for name, one in model.named_parameters()]
    model.named_parameters = lambda: prefixed
    assert old.fingerprint == new.fingerprint
