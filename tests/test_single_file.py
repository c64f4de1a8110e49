"""Checkpoints in one file, in the original layout: written here from tiny pipelines, read by diffusers and by us."""

import re
from types import SimpleNamespace

import pytest
import torch
from conftest import build_pipeline
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from sentinv.errors import ModelError
from sentinv.models.loading import load
from sentinv.models.names import SHORT_NAMES

_UNET = (
    (r"^time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
    (r"^down_blocks\.(\d)\.(resnets|attentions)\.(\d)", lambda m: _place("input", 1 + int(m[3]), m)),
    (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{2 * int(m[1]) + 2}.0.op"),
    (r"^up_blocks\.(\d)\.(resnets|attentions)\.(\d)", lambda m: _place("output", int(m[3]), m)),
    (r"^up_blocks\.0\.upsamplers\.0", "output_blocks.1.1"),
)
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_VAE = (
    (r"mid_block\.attentions\.0\.", "mid.attn_1."),
    (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
    (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{1 - int(m[1])}.block.{m[2]}"),
    (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{1 - int(m[1])}.upsample"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
    (r"group_norm", "norm"),
    (r"to_(q|k|v)\.", r"\1."),
    (r"to_out\.0", "proj_out"),
)


def _place(side, layer, match):
    return f"{side}_blocks.{2 * int(match[1]) + layer}.{int(match[2] == 'attentions')}"


def _renamed(name, rules):
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def original(pipeline):
    """The weights of a pipeline of two levels with one layer each, as the first Stable Diffusion named them."""
    found = {}
    for name, tensor in pipeline.unet.state_dict().items():
        new = _renamed(name, _UNET)
        if ".resnets." in name:
            new = _renamed(new, [(rf"\.{ours}\.", f".{theirs}.") for ours, theirs in _RESNET.items()])
        found[f"model.diffusion_model.{new}"] = tensor
    for name, tensor in pipeline.vae.state_dict().items():
        new = _renamed(name, _VAE)
        square = ".attn_1." in new and new.endswith("weight") and tensor.ndim == 2
        found[f"first_stage_model.{new}"] = tensor[..., None, None] if square else tensor
    for name, tensor in pipeline.text_encoder.state_dict().items():
        inner = name if name.startswith("text_model.") else f"text_model.{name}"
        found[f"cond_stage_model.transformer.{inner}"] = tensor
    return {name: tensor.contiguous() for name, tensor in found.items()}


@pytest.fixture
def written(tokenizer, tmp_path, monkeypatch):
    """A function that writes a checkpoint and lets diffusers find its configs; what it was asked for is in `asked`."""

    def write(width, prediction_type):
        pipeline = build_pipeline(tokenizer, width, prediction_type)
        pipeline.save_pretrained(tmp_path / "configs")
        save_file(original(pipeline), tmp_path / "model.safetensors")
        return pipeline, tmp_path / "model.safetensors"

    def from_single_file(path, config=None, **options):
        asked.append(config)
        return plain(path, config=str(tmp_path / "configs"), **options)

    asked, plain = [], StableDiffusionPipeline.from_single_file
    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", from_single_file)
    return SimpleNamespace(write=write, asked=asked)


def test_a_checkpoint_in_one_file_is_the_model_that_was_written(written):
    pipeline, path = written.write(16, "epsilon")
    backbone = load(path, device="cpu")
    pairs = ((pipeline.unet, backbone.unet), (pipeline.vae, backbone.vae))
    for ours, theirs in (*pairs, (pipeline.text_encoder, backbone.text_encoders[0].model)):
        weights = theirs.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in ours.state_dict().items())
    assert backbone.schedule.prediction_type == "epsilon" and written.asked == [None]


@pytest.mark.parametrize(("noisy", "kind", "size"), [(0.9, "epsilon", 128), (0.1, "v_prediction", 16)])
def test_what_a_file_of_stable_diffusion_2_predicts_is_seen_by_asking_it(written, monkeypatch, noisy, kind, size):
    """Such a file does not say it. The last answer of one that predicts noise is nearly the noise; of v, nearly -x0."""
    _, path = written.write(1024, "v_prediction")

    def answer(self, sample, timestep, encoder_hidden_states):
        assert timestep == 999
        return SimpleNamespace(sample=noisy * sample - (1 - noisy) * torch.ones_like(sample))

    monkeypatch.setattr(UNet2DConditionModel, "forward", answer)
    backbone = load(path, device="cpu")
    assert (backbone.schedule.prediction_type, backbone.resolution) == (kind, size)
    assert written.asked == [SHORT_NAMES["sd21"]]


def test_models_for_inpainting_are_told_in_one_line(written, monkeypatch):
    pipeline, path = written.write(16, "epsilon")
    pipeline.unet.register_to_config(in_channels=9)
    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", lambda *args, **options: pipeline)
    with pytest.raises(ModelError, match="takes the 4 channels of its latents, got one with 9: models for inpainting"):
        load(path, device="cpu")


def test_a_folder_with_weights_in_half_precision_only(tokenizer, tmp_path):
    pipeline = build_pipeline(tokenizer, 16, "epsilon")
    pipeline.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert not (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").exists()
    backbone = load(tmp_path, device="cpu")
    assert backbone.dtype == torch.float32
    half = pipeline.unet.state_dict()
    assert all(torch.equal(tensor.half(), half[name]) for name, tensor in backbone.unet.state_dict().items())
