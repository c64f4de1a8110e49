"""What is given as --model and is none: one line that says what it is, what is missing and what to do."""

# ruff: noqa: E501 - what a file holds is one line here

import json
import shutil

import pytest
import torch
from checkpoints import original
from click.testing import CliRunner
from conftest import build_pipeline
from safetensors.torch import save_file

from sentinv.cli.main import cli
from sentinv.errors import ModelError
from sentinv.models.loading import load, load_tokenizers

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OLD = "model.diffusion_model.input_blocks.0.0.weight"


def told(path):
    with pytest.raises(ModelError) as error:
        load(path, device="cpu")
    assert "\n" not in str(error.value) and "bug" not in str(error.value)
    with pytest.raises(ModelError) as again:
        load_tokenizers(path)
    assert str(again.value) == str(error.value)
    return str(error.value).replace(str(path), "it")


@pytest.fixture(scope="module")
def weights(tokenizer):
    return original(build_pipeline(tokenizer, 16, "epsilon"))


@pytest.mark.parametrize(
    ("prefixes", "line"),
    [
        (("model.diffusion_model.",), "it is a UNet alone, without autoencoder and text encoder: give a whole"),
        (("first_stage_model.",), "it is an autoencoder alone, without UNet and text encoder: give it with --vae, and"),
        (("cond_stage_model.",), "it is a text encoder alone, without UNet and autoencoder: give a whole"),
        (("model.", "cond"), "it is a checkpoint without an autoencoder: give one with --vae"),
        (("model.", "first"), "it is a UNet and autoencoder without a text encoder: give a whole"),
    ],
)
def test_parts_of_a_checkpoint(weights, tmp_path, prefixes, line):
    path = tmp_path / "part.safetensors"
    save_file({key: value for key, value in weights.items() if key.startswith(prefixes)}, path)
    with pytest.raises(ModelError) as error:
        load(path, device="cpu")
    assert str(error.value).replace(str(path), "it").startswith(line)


@pytest.mark.parametrize(
    ("shapes", "line"),
    [
        ({f"lora_unet_{BLOCK}.lora_up.weight": (8, 4), f"lora_unet_{BLOCK}.alpha": ()}, "a LoRA"),
        ({f"unet.{BLOCK}.lora_A.weight": (4, 8), f"unet.{BLOCK}.lora_B.weight": (8, 4)}, "a LoRA"),
        ({f"unet.{BLOCK}.lora.up.weight": (4, 8), f"unet.{BLOCK}.lora.down.weight": (8, 4)}, "a LoRA"),
        ({"lora_unet_x.hada_w1_a": (4, 4), "lora_unet_x.hada_w1_b": (4, 4)}, "a LoRA"),
        ({"lora_unet_x.lokr_w1": (4, 4), "lora_unet_x.lokr_w2": (4, 4)}, "a LoRA"),
        ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 4)}, "a LoRA"),
        ({"emb_params": (3, 768)}, "a learned word and no model: give it to `generate` or `edit` with --concept"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "a learned word"),
        ({"<cat-toy>": (768,)}, "a learned word"),
        ({"control_model.input_blocks.0.0.weight": (8, 4, 3, 3), "control_model.a": (1,), "b": (1,)}, "a ControlNet"),
        ({"controlnet_cond_embedding.conv_in.weight": (8, 3, 3, 3), "controlnet_down_blocks.0.weight": (8, 8, 1, 1)}, "a ControlNet"),
        ({"image_proj.proj.weight": (8, 4), "ip_adapter.1.to_k_ip.weight": (8, 4), "c": (1,)}, "an IP-Adapter"),
        ({f"down_blocks.0.motion_modules.0.{name}": (8, 8) for name in "abc"}, "a motion module"),
        ({f"model.diffusion_model.joint_blocks.0.{name}": (8, 8) for name in "abc"}, "a model of another family"),
        ({f"double_blocks.0.img_attn.{name}": (8, 8) for name in "abc"}, "a model of another family"),
        ({"transformer_blocks.0.norm1_context.linear.weight": (8, 8), "a": (1,), "b": (1,)}, "a model of another family"),
        ({"edm_mean": (1, 4, 1, 1), "edm_std": (1, 4, 1, 1), OLD: (8, 4, 3, 3)}, "a model of another noise process (EDM)"),
        ({"edm_vpred.sigma_max": (), "edm_vpred.sigma_min": (), OLD: (8, 4, 3, 3)}, "a model of another noise process"),
        ({"conditioner.embedders.0.model.ln_final.weight": (8,), OLD: (8, 4, 3, 3), "first_stage_model.a": (1,)}, "the refiner"),
        ({"conditioner.embedders.3.encoder.a": (8,), "conditioner.embedders.1.b": (1,), OLD: (8, 4, 3, 3)}, "a video model"),
        ({OLD: (8, 9, 3, 3), "first_stage_model.a": (1,), "cond_stage_model.a": (1,)}, "a model for inpainting or other"),
        ({OLD: (8, 8, 3, 3), "first_stage_model.a": (1,), "cond_stage_model.a": (1,)}, "a model for inpainting or other"),
        ({"conv_in.weight": (8, 4, 3, 3), "down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3), "a": (1,)}, "a UNet alone"),
        ({"input_blocks.0.0.weight": (8, 4, 3, 3), "out.2.bias": (4,), "time_embed.0.bias": (4,)}, "a UNet alone"),
        ({"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3), "quant_conv.bias": (8,)}, "an autoencoder alone"),
        ({"decoder.layers.0.weight": (8, 4, 3, 3), "decoder.layers.2.bias": (8,), "encoder.layers.0.weight": (8, 3, 3, 3)}, "half of an autoencoder, or a tiny one"),
        ({"text_model.embeddings.position_embedding.weight": (77, 8), "text_model.a": (1,), "b": (1,)}, "a text encoder alone"),
        ({"encoder.block.0.layer.0.SelfAttention.q.weight": (8, 8), "shared.weight": (9, 8), "b": (1,)}, "a text encoder alone"),
        ({"vision_model.embeddings.class_embedding": (8,), "text_model.a": (1,), "b": (1,)}, "a CLIP of pictures"),
        ({OLD: (8, 4, 3, 3), f"{OLD}.absmax": (4,), "first_stage_model.a": (1,), "cond_stage_model.a": (1,)}, "a checkpoint with quantised weights"),
        ({OLD: (8, 4, 3, 3), "scaled_fp8": (2,), "first_stage_model.a": (1,), "cond_stage_model.a": (1,)}, "a checkpoint with quantised weights"),
        ({"a.b": (3, 4, 5), "c": (1,), "d": (1,)}, "not a checkpoint of Stable Diffusion (it holds a.b …)"),
        ({}, "an empty safetensors file"),
    ],
)  # fmt: skip
def test_files_of_safetensors(tmp_path, shapes, line):
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / "x.safetensors")
    assert told(tmp_path / "x.safetensors").startswith(f"it is {line}")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("x.safetensors", b"", "it is an empty file: get it again"),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 42\n", "it is a pointer of Git LFS"),
        ("x.ckpt", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 42\n", "it is a pointer of Git LFS"),
        ("x.gguf", b"GGUF\3\0\0\0" + bytes(90), "it is a quantised model in GGUF"),
        ("x.safetensors", b"GGUF\3\0\0\0" + bytes(90), "it is a quantised model in GGUF"),
        ("x.safetensors", b"<!DOCTYPE html><title>Sign in</title>", "it is a page of the web and not the file"),
        ("x.safetensors", b"\n<html><head>", "it is a page of the web and not the file"),
        ("x.safetensors", b'<?xml version="1.0"?><Error>AccessDenied', "it is a page of the web and not the file"),
        ("x.ckpt", b"PK\3\4" + bytes(90), "it is .ckpt, expected a .safetensors checkpoint: other formats can run code"),
        ("x.safetensors", b"PK\3\4" + bytes(90), "it is .safetensors, expected a .safetensors checkpoint: other formats can run"),
        ("x.pt", b"\x80\2}q\0.", "it is .pt, expected"),
        ("x.onnx", b"\x08\x07\x12", "it is a model that is compiled for another program (.onnx)"),
        ("diffusion_pytorch_model.safetensors.index.json", b'{"weight_map": {}}', "it is the list of a model's parts"),
        ("config.json", b"{}", "it is a config and not a model: give the diffusers folder around it"),
        ("model_index.json", b"{}", "it is a config and not a model: give the diffusers folder around it"),
        ("x.safetensors", (200).to_bytes(8, "little") + b'{"a":', "it is not a readable safetensors file"),
        ("x.safetensors", b"\xff" * 64, "it is not a readable safetensors file"),
        ("x", b"hello there", "it is not a readable safetensors file"),
    ],
)  # fmt: skip
def test_files_of_other_kinds(tmp_path, name, content, line):
    (tmp_path / name).write_bytes(content)
    assert told(tmp_path / name).startswith(line)


def folder_with(path, **files):
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name.replace("__", ".")).write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"config__json": {"_class_name": "UNet2DConditionModel"}}, "which is a UNet alone: give a whole checkpoint"),
        ({"config__json": {"_class_name": "AutoencoderKL"}}, "which is an autoencoder alone: give it with --vae"),
        ({"config__json": {"architectures": ["CLIPTextModel"]}}, "which is a text encoder alone: give a whole"),
        ({"config__json": {"_class_name": "ControlNetModel"}}, "which is a ControlNet alone"),
        ({"config__json": {"_class_name": "FluxTransformer2DModel"}}, "which is a FluxTransformer2DModel alone"),
        ({"config__json": {"architectures": ["BlipForConditionalGeneration"]}}, "which is a BlipForConditionalGen"),
        ({"adapter_config__json": {}}, "which holds a LoRA, on top of a model"),
        ({"pytorch_lora_weights__safetensors": "x"}, "which holds a LoRA"),
        ({"learned_embeds__safetensors": "x"}, "which holds a learned word: give it to `generate` with --concept"),
        ({"tokenizer_config__json": {}}, "which is a tokenizer alone"),
        ({"dreamshaper__safetensors": "x"}, "which holds dreamshaper.safetensors: give one of these files"),
        ({"config__json": "[1]"}, "give the folder that holds it"),
    ],
)
def test_folders_that_are_none(tmp_path, files, line):
    path = folder_with(tmp_path / "folder", **files)
    said = told(path).removeprefix("expected a diffusers folder with model_index.json, got it")
    assert said.removeprefix(", ").removeprefix(": ").startswith(line)


def test_a_folder_around_the_model(model_folder, tmp_path):
    inner = tmp_path / "models--a--b" / "snapshots" / "0123"
    shutil.copytree(model_folder, inner)
    with pytest.raises(ModelError, match=r"the model is in snapshots.0123 inside it: give that folder"):
        load(tmp_path / "models--a--b", device="cpu")


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
        "vae/config.json",
    ],
)
def test_a_folder_that_was_cloned_without_its_large_files(model_folder, tmp_path, file):
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model" / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 42\n")
    with pytest.raises(ModelError, match=r"is a pointer of Git LFS and not the file itself: run `git lfs pull`"):
        load(tmp_path / "model", device="cpu")


def test_the_command_says_it_in_one_line(weights, tmp_path):
    path = tmp_path / "unet.safetensors"
    save_file({key: value for key, value in weights.items() if key.startswith("model.")}, path)
    result = CliRunner().invoke(cli, ["generate", "a cat", "--model", str(path), "-o", str(tmp_path / "made")])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"sentinv: error: {path} is a UNet alone")
