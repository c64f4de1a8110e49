"""Checkpoints in one file, in the original layout: written here from tiny pipelines, read by diffusers and by us."""

import json

import pytest
import torch
from checkpoints import original
from conftest import build_pipeline
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from sentinv.concepts.tokens import tokenize
from sentinv.errors import ModelError
from sentinv.models import asking, single_file
from sentinv.models.backbone import Backbone
from sentinv.models.loading import load, load_tokenizers, text_widths
from sentinv.models.meta import networks_on_meta
from sentinv.models.names import Place
from sentinv.training.config import TrainConfig
from sentinv.training.memory import training_memory


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a pipeline as a checkpoint, and its configs where those of its family are looked for."""

    def written(pipeline, *, metadata=None, without=(), **more):
        pipeline.save_pretrained(tmp_path / "configs")
        configs = dict.fromkeys(single_file.CONFIGS, str(tmp_path / "configs"))
        monkeypatch.setattr(single_file, "CONFIGS", configs)
        monkeypatch.setattr("sentinv.models.vae.CONFIGS", configs)
        weights = {key: value for key, value in original(pipeline).items() if not key.startswith(tuple(without))}
        save_file({**weights, **more}, tmp_path / "model.safetensors", metadata)
        return tmp_path / "model.safetensors"

    return written


@pytest.fixture
def answering(monkeypatch):
    """A function that makes every model one of a kind that knows a gray picture by heart."""

    def answer(kind, asked=None):
        def predict(self, latents, timesteps, condition):
            if asked is not None:
                asked.append((int(timesteps[0]), self.device.type))
            level = self.schedule.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
            picture = torch.full_like(latents, 0.3)
            eps = (latents - level.sqrt() * picture * (level < 0.5)) / (1 - level).sqrt()
            return eps if kind == "epsilon" else level.sqrt() * eps - (1 - level).sqrt() * picture

        monkeypatch.setattr(Backbone, "predict", predict)

    return answer


def same_weights(pipeline, backbone):
    ours = [backbone.unet, backbone.vae, *(encoder.model for encoder in backbone.text_encoders)]
    theirs = [pipeline.unet, pipeline.vae, pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)]
    for one, other in zip(ours, [part for part in theirs if part is not None], strict=True):
        weights = one.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in other.state_dict().items())


def test_a_checkpoint_in_one_file_is_the_model_that_was_written(write, tokenizer):
    pipeline = build_pipeline(tokenizer, 16, "epsilon")
    backbone = load(write(pipeline), device="cpu")
    same_weights(pipeline, backbone)
    assert backbone.schedule.prediction_type == "epsilon"  # nobody trained it: that of its family


def test_a_checkpoint_of_xl_is_the_model_that_was_written(write, xl):
    backbone = load(write(xl), device="cpu")
    same_weights(xl, backbone)
    ids = tokenize(backbone, ["a photo of a cat"])
    wanted = Backbone.from_pipeline(xl, "tiny").encode_ids(ids)
    assert torch.equal(backbone.encode_ids(ids).hidden, wanted.hidden)
    assert torch.equal(backbone.encode_ids(ids).pooled, wanted.pooled)


@pytest.mark.parametrize("family", ["sd1", "sd2", "xl"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_file_that_does_not_say_what_it_predicts_is_asked(write, tokenizer, xl, answering, family, kind):
    """The last answer of a model that predicts noise is nearly the noise; of one that predicts v, nearly -x0."""
    asked = []
    answering(kind, asked)
    other = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[kind]
    pipeline = xl if family == "xl" else build_pipeline(tokenizer, 16 if family == "sd1" else 1024, other)
    backbone = load(write(pipeline), device="cpu")
    assert backbone.schedule.prediction_type == kind
    assert asked == [(49, "cpu"), (999, "cpu")]
    assert backbone.resolution == (128 if (family, kind) == ("sd2", "epsilon") else 16)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("said", [None, "epsilon", "v_prediction"])
def test_a_folder_that_does_not_say_what_it_predicts_is_asked(tokenizer, tmp_path, answering, kind, said):
    asked = []
    answering(kind, asked)
    build_pipeline(tokenizer, 16, "epsilon").save_pretrained(tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text()) | {"prediction_type": said}
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    backbone = load(tmp_path, device="cpu")
    assert backbone.schedule.prediction_type == (said or kind)
    assert asked == ([] if said else [(49, "cpu"), (999, "cpu")])


def unsaid(folder):
    """Take what the model predicts out of a scheduler's config, as that of Stable Diffusion 1.5 is written."""
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    del config["prediction_type"]
    file.write_text(json.dumps(config | {"_class_name": "PNDMScheduler"}))


@pytest.mark.parametrize("keys", [(), ("v_pred",)])
def test_what_is_found_is_not_lost_where_the_configs_do_not_say_it(write, tokenizer, tmp_path, answering, keys):
    answering("v_prediction")
    path = write(build_pipeline(tokenizer, 16, "epsilon"), **{key: torch.zeros(1) for key in keys})
    unsaid(tmp_path / "configs")
    assert load(path, device="cpu").schedule.prediction_type == "v_prediction"


def answers_with(unet, last):
    """Give a tiny UNet weights with which it answers its input, at the last timestep `last` times that beside a constant."""
    with torch.no_grad():
        for weight in unet.parameters():
            weight.zero_()
        for name, module in unet.named_modules():
            if "norm" in name and getattr(module, "weight", None) is not None:
                module.weight.fill_(1)
        for channel in range(4):  # x = silu(x) - silu(-x), and the two go through the skip connection
            for sign in (0, 1):
                unet.conv_in.weight[2 * channel + sign, channel, 1, 1] = 1 - 2 * sign
                unet.conv_out.weight[channel, 2 * channel + sign, 1, 1] = 1 - 2 * sign
        block = unet.up_blocks[-1].resnets[-1]
        skipped = block.conv_shortcut.in_channels - 8
        for channel in range(8):
            block.conv_shortcut.weight[channel, skipped + channel, 0, 0] = 1
        if last != 1:  # the time embedding's slowest wave is negative at the last timesteps alone
            gate_late(unet, block, 1 / last)


def gate_late(unet, block, large):
    width = unet.time_embedding.linear_1.in_features
    times = torch.tensor([49.0, 999.0])
    waves = unet.time_proj(times)
    early, late = waves
    direction = (late - early) / (late - early).square().sum()
    unet.time_embedding.linear_1.weight[0, :width] = direction
    unet.time_embedding.linear_1.bias[0] = -(direction @ early)  # 0 at 49, 1 at 999
    unet.time_embedding.linear_2.weight[0, 0] = 1
    block.time_emb_proj.weight[0, 0] = 100
    block.norm2.weight.fill_(1)
    block.conv2.weight[::2, 0, 1, 1] = large


@pytest.mark.parametrize(("last", "kind"), [(1, "epsilon"), (0.001, "v_prediction")])
def test_weights_that_answer_are_told_from_each_other(write, tokenizer, last, kind):
    """Through the UNet itself: constructed weights answer with the noise, always or only where there is little."""
    pipeline = build_pipeline(tokenizer, 16, {"epsilon": "v_prediction", "v_prediction": "epsilon"}[kind])
    answers_with(pipeline.unet, last)
    assert load(write(pipeline), device="cpu").schedule.prediction_type == kind


def test_an_answer_that_is_not_finite_says_nothing(tokenizer, monkeypatch):
    backbone = Backbone.from_pipeline(build_pipeline(tokenizer, 16, "epsilon"), "tiny")
    finite = 1
    monkeypatch.setattr(Backbone, "predict", lambda self, x, t, c: x if t[0] < finite else x * torch.nan)
    assert asking.asked_prediction(backbone) is None
    finite = 500
    assert asking.asked_prediction(backbone) is None


@pytest.mark.parametrize("family", ["sd1", "xl"])
def test_a_file_is_asked_on_its_device(write, tokenizer, xl, monkeypatch, family):
    seen = []
    monkeypatch.setattr(single_file, "asked_prediction", lambda backbone: seen.append(backbone.device.type))
    load(write(xl if family == "xl" else build_pipeline(tokenizer, 16, "epsilon")), device="cpu")
    monkeypatch.setattr(Backbone, "to", lambda self, device: seen.append(str(device)) or self)
    load(write(xl if family == "xl" else build_pipeline(tokenizer, 16, "epsilon")), device="meta")
    assert seen == ["cpu", "meta", "cpu"]  # the last only because nothing was moved


@pytest.mark.parametrize(
    ("metadata", "keys", "kind", "zero"),
    [
        ({"modelspec.prediction_type": "v"}, (), "v_prediction", False),
        ({"modelspec.prediction_type": "epsilon"}, (), "epsilon", False),
        ({"modelspec.prediction_type": "EPS"}, (), "epsilon", False),
        (None, ("v_pred",), "v_prediction", False),
        (None, ("v_pred", "ztsnr"), "v_prediction", True),
        ({"modelspec.prediction_type": "v-prediction"}, ("ztsnr",), "v_prediction", True),
        ({"modelspec.prediction_type": "epsilon"}, ("v_pred",), "v_prediction", False),
    ],
)
def test_a_file_that_says_what_it_predicts_is_believed(write, xl, answering, metadata, keys, kind, zero):
    asked = []
    answering("v_prediction" if kind == "epsilon" else "epsilon", asked)
    backbone = load(write(xl, metadata=metadata, **{key: torch.zeros(1) for key in keys}), device="cpu")
    assert (backbone.schedule.prediction_type, asked) == (kind, [])
    assert (backbone.schedule.alphas_cumprod[-1] == 0).item() is zero
    assert backbone.schedule.config["timestep_spacing"] == ("trailing" if zero else "leading")


def test_a_file_that_says_something_else_is_refused(write, xl):
    with pytest.raises(ModelError, match=r"modelspec.prediction_type 'flow': expected epsilon or v"):
        load(write(xl, metadata={"modelspec.prediction_type": "flow"}), device="cpu")


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.middle_block.0.in_layers.2.weight",
        "first_stage_model.decoder.mid.block_1.conv1.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm",
    ],
)
def test_a_checkpoint_without_some_weights_is_told_in_one_line(write, tokenizer, key):
    with pytest.raises(
        ModelError, match=r"cannot load (checkpoint|text_encoder) of .*missing; the model is incomplete"
    ) as error:
        load(write(build_pipeline(tokenizer, 16, "epsilon"), without=[key]), device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["input_blocks.7.0.in_layers.0.weight", "extra.weight", "middle_block.1.extra.weight"])
def test_a_checkpoint_with_weights_that_have_no_place_is_told(write, tokenizer, key):
    path = write(build_pipeline(tokenizer, 16, "epsilon"), **{f"model.diffusion_model.{key}": torch.ones(4)})
    with pytest.raises(ModelError, match=r"cannot load unet of .*without a place in it; the file is of another kind"):
        load(path, device="cpu")


def test_a_second_text_encoder_without_some_weights_is_told(write, xl):
    key = "conditioner.embedders.1.model.transformer.resblocks.1.ln_1"
    with pytest.raises(ModelError, match=r"text_encoder_2 of .*2 weights .*layers.1.layer_norm1.* missing"):
        load(write(xl, without=[key]), device="cpu")


def test_the_configs_that_are_missing_are_named_offline(write, tokenizer, monkeypatch):
    path = write(build_pipeline(tokenizer, 16, "epsilon"))
    monkeypatch.setattr(single_file, "CONFIGS", {"sd1": "nobody/configs"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("sentinv.models.parts._go_offline_if_unreachable", lambda: None)
    with pytest.raises(ModelError) as error:
        load(path, device="cpu")
    assert str(error.value).endswith(
        "without the configs of nobody/configs, which model.safetensors is read with and does not hold: the hub is out of "
        "reach; go online once"
    )


def test_words_of_a_file_are_known_without_its_weights(write, tokenizer, monkeypatch):
    path = write(build_pipeline(tokenizer, 16, "epsilon"))
    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", None)
    (words,) = load_tokenizers(path)
    assert words.get_vocab() == tokenizer.get_vocab()


def test_a_file_is_planned_for_like_the_folder_that_it_is_read_with(write, tokenizer, xl, tmp_path):
    for pipeline in (build_pipeline(tokenizer, 16, "epsilon"), xl):
        path = write(pipeline)
        there = training_memory(Place(model=str(tmp_path / "configs")), TrainConfig())
        assert training_memory(Place(model=str(path)), TrainConfig()) == there
        assert text_widths(path) == text_widths(tmp_path / "configs")


def test_what_a_file_says_it_predicts_decides_on_the_side_that_is_planned_for(write, tokenizer):
    pipeline = build_pipeline(tokenizer, 1024, "epsilon")  # as wide as Stable Diffusion 2's
    pipeline.unet.register_to_config(sample_size=96)
    sides = {}
    for told in ("epsilon", "v", None):
        path = write(pipeline, metadata=told and {"modelspec.prediction_type": told})
        unet, *_ = networks_on_meta(Place(model=str(path)))
        sides[told] = unet.config.sample_size
    assert sides == {"epsilon": 64, "v": 96, None: 96}


@pytest.mark.parametrize(
    ("told", "side"), [("512x512", 64), ("768 X 768", 96), ("832x1216", 8), ("64x64", 8), ("500x500", 8), ("large", 8)]
)
def test_a_side_that_a_file_tells_is_its_side(write, tokenizer, answering, told, side):
    answering("epsilon")
    path = write(build_pipeline(tokenizer, 16, "epsilon"), metadata={"modelspec.resolution": told})
    assert load(path, device="cpu").unet.config.sample_size == side
    unet, *_ = networks_on_meta(Place(model=str(path)))
    assert unet.config.sample_size == side


def test_a_file_that_no_run_would_take_is_not_planned_for(write, tokenizer, tmp_path):
    pipeline = build_pipeline(tokenizer, 16, "epsilon")
    path = write(pipeline, without=["model.diffusion_model.middle_block.1"])
    with pytest.raises(ModelError, match=r"cannot load checkpoint of .*unet.mid_block.attentions.* missing"):
        training_memory(Place(model=str(path)), TrainConfig())
    path = write(pipeline, without=["first_stage_model."])
    with pytest.raises(ModelError, match="without an autoencoder: give one with --vae"):
        training_memory(Place(model=str(path)), TrainConfig())
    given = Place(model=str(path), vae=str(tmp_path / "configs" / "vae"))
    assert training_memory(given, TrainConfig())["total"] > 0


def test_a_folder_with_weights_in_half_precision_only(tokenizer, tmp_path):
    pipeline = build_pipeline(tokenizer, 16, "epsilon")
    pipeline.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert not (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").exists()
    backbone = load(tmp_path, device="cpu")
    assert backbone.dtype == torch.float32
    half = pipeline.unet.state_dict()
    assert all(torch.equal(tensor.half(), half[name]) for name, tensor in backbone.unet.state_dict().items())
