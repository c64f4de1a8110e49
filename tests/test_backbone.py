import shutil

import pytest
import torch
from conftest import build_pipeline, copied, snapshot

from sentinv import models
from sentinv.backbone import Backbone
from sentinv.concept import Concept
from sentinv.config import TrainConfig
from sentinv.errors import ModelError
from sentinv.initialization import Initialization
from sentinv.models import load
from sentinv.training import train_concept


@pytest.fixture(scope="module")
def folder(tmp_path_factory, _pipelines):
    path = tmp_path_factory.mktemp("model")
    _pipelines["sd2"].save_pretrained(path)
    return path


def test_sizes_come_from_the_configs(pipeline, backbone):
    assert (backbone.vae_scale, backbone.resolution, backbone.train_timesteps) == (2, 16, 1000)
    assert backbone.prediction_type == pipeline.scheduler.config.prediction_type
    assert backbone.text_encoders[0].max_length == 40
    assert backbone.final_alpha_cumprod == float(backbone.alphas_cumprod[0])


def test_moments_are_those_of_the_vae(pipeline, backbone):
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moments = backbone.encode(pixels)
    posterior = pipeline.vae.encode(pixels).latent_dist
    noise = torch.randn(moments.mean.shape, generator=torch.Generator().manual_seed(1))
    wanted = posterior.sample(torch.Generator().manual_seed(1)) * 0.31
    assert torch.allclose(backbone.sample_latents(moments.mean, moments.std, noise), wanted, atol=1e-6)
    decoded = pipeline.vae.decode(wanted / 0.31).sample.clamp(-1, 1)
    assert torch.allclose(backbone.decode(wanted), decoded, atol=1e-6)
    with pytest.raises(ValueError, match="multiples of 2"):
        backbone.encode(pixels[..., :15])


def test_fingerprint_tells_models_apart_and_precisions_not(_pipelines, tokenizer):
    first = Backbone.from_pipeline(copied(_pipelines["sd1"]))
    print_before = first.fingerprint
    rounded = Backbone.from_pipeline(copied(_pipelines["sd1"]).to(torch.bfloat16))
    assert rounded.fingerprint == print_before
    torch.manual_seed(99)
    changed = copied(_pipelines["sd1"])
    with torch.no_grad():
        changed.unet.conv_out.weight.neg_()
    assert Backbone.from_pipeline(changed).fingerprint != print_before
    assert Backbone.from_pipeline(build_pipeline(tokenizer, 24, "epsilon")).fingerprint != print_before


def test_a_folder_loads_as_the_pipeline_was(folder, _pipelines):
    loaded, wanted = load(folder, device="cpu"), Backbone.from_pipeline(_pipelines["sd2"])
    assert loaded.fingerprint == wanted.fingerprint
    for ours, theirs in zip(snapshot(loaded)[0], snapshot(wanted)[0], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert loaded.prediction_type == "v_prediction"
    prompts = ["a photo of a mug"]
    assert torch.equal(loaded.tokenize(prompts)["text_encoder"], wanted.tokenize(prompts)["text_encoder"])
    assert load(folder, device="cpu", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_two_text_encoders_load_and_train(xl, tmp_path, picture):
    xl.save_pretrained(tmp_path / "model")
    backbone = load(tmp_path / "model", device="cpu")
    assert backbone.fingerprint == Backbone.from_pipeline(xl).fingerprint
    config = TrainConfig(steps=3, evaluate_every=1, learning_rate=0.05)
    concept, history = train_concept(backbone, [picture], Initialization("a mug"), config, token="<c>")
    assert history.learned
    for encoder in backbone.text_encoders:
        start = encoder.table.weight[encoder.text_ids("a mug")]
        assert concept.rows[encoder.name].shape == start.shape
        assert not torch.equal(concept.rows[encoder.name], start)
    path = concept.save(tmp_path / "c.safetensors")
    assert Concept.load(path).to_bytes() == concept.to_bytes()


@pytest.mark.parametrize("missing", ["unet", "vae", "text_encoder", "tokenizer", "scheduler", "unet/config.json"])
def test_an_incomplete_folder_is_told_in_one_line(folder, tmp_path, missing):
    shutil.copytree(folder, tmp_path / "model")
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
    (tmp_path / "model.ckpt").write_bytes(b"")
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
    assert all(models._is_hub_id(name) for name in models.SHORT_NAMES.values())
