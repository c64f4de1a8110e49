"""What people had in the place of a model, an autoencoder, a word or a LoRA, built tiny, and what is to be said of each.

Most were found in the threads of other programs, which are named. The tests ask the library; benchmarks/reliability/models.py
asks the command line and writes the table.
"""

# ruff: noqa: E501 - what a file holds, and what is said, is one line here

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from checkpoints import original
from conftest import (
    build_pipeline,
    build_scheduler,
    build_text_config,
    build_tokenizer,
    build_unet,
    build_vae,
)
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import zeros
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sentinv.models import single_file, vae

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 42\n"
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@dataclass(frozen=True)
class Case:
    """One of them.

    Attributes:
        source: thread where somebody had it; "" if nobody was found.
        what: it is.
        build: makes it in an empty folder; returns what `load` or the command is given.
        told: a part of what is to be said; "" if it is to work.
    """

    source: str
    what: str
    build: Callable[["Place"], dict[str, str]]
    told: str


class Place:
    """An empty folder, and whole models to make things of.

    Args:
        folder: the empty one.
        models: where the whole models are written once.
    """

    def __init__(self, folder: Path, models: "Models") -> None:
        self.folder, self.models = folder, models

    def file(self, weights, name="x.safetensors", metadata=None):
        save_file({key: value.contiguous() for key, value in weights.items()}, self.folder / name, metadata)
        return self.folder / name

    def bytes(self, content, name="x.safetensors"):
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def copy(self, which="sd1"):
        return Path(shutil.copytree(self.models.path / which, self.folder / "model"))

    def changed(self, part, change):
        """A folder with the weights of a part changed."""
        model = self.copy()
        save_file(
            {key: change(key, value).contiguous() for key, value in load_file(model / part).items()}, model / part
        )
        return model

    def written(self, part, content):
        """A folder with a file of it written anew; None takes it away."""
        model = self.copy()
        (model / part).unlink()
        if content is not None:
            (model / part).write_bytes(content)
        return model

    def configured(self, file, **changes):
        """A folder with a config changed."""
        model = self.copy()
        config = json.loads((model / file).read_text())
        return self._with(model, file, config | changes)

    @staticmethod
    def _with(model, file, config):
        (model / file).write_text(json.dumps(config))
        return model


class Models:
    """Tiny models of Stable Diffusion 1 and XL, in the folder that they are read with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sd1.save_pretrained(path / "sd1")
        self.xl.save_pretrained(path / "xl")

    @cached_property
    def tokenizer(self):
        return build_tokenizer(self.path / "tokenizer")

    @cached_property
    def sd1(self):
        return build_pipeline(self.tokenizer, 16, "epsilon")

    @cached_property
    def xl(self):
        torch.manual_seed(1)
        extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
        return StableDiffusionXLPipeline(
            vae=build_vae(),
            text_encoder=CLIPTextModel(build_text_config(self.tokenizer, 16)),
            text_encoder_2=CLIPTextModelWithProjection(build_text_config(self.tokenizer, 24, projection_dim=12)),
            tokenizer=self.tokenizer,
            tokenizer_2=CLIPTokenizer.from_pretrained(self.path / "tokenizer"),
            unet=build_unet(16 + 24, projection_class_embeddings_input_dim=6 * 8 + 12, **extra),
            scheduler=build_scheduler("epsilon"),
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )

    @cached_property
    def weights(self):
        """Of Stable Diffusion 1, as its first publisher named them."""
        return original(self.sd1)

    @cached_property
    def xl_weights(self):
        return original(self.xl)

    @property
    def configs(self):
        """Family → folder, in the place of `sentinv.models.single_file.CONFIGS`."""
        return {"sd1": str(self.path / "sd1"), "sd2": str(self.path / "sd1"), "xl": str(self.path / "xl")}


USERS = (single_file, vae)
"""Modules that look for `CONFIGS`."""


def _without(weights, *prefixes):
    return {key: value for key, value in weights.items() if not key.startswith(prefixes)}


def _only(weights, *prefixes):
    return {key: value for key, value in weights.items() if key.startswith(prefixes)}


def _nan(part):
    return lambda key, value: value * float("nan") if part in key else value


def _one(path):
    return {"name": str(path)}


def _zip(place):
    file = place.file(place.models.weights)
    with zipfile.ZipFile(place.folder / "x.zip", "w") as packed:
        packed.write(file, "x.safetensors")
    return place.folder / "x.zip"


def _empty(place):
    (place.folder / "x.safetensors").mkdir()
    return place.folder / "x.safetensors"


def _renamed(place, name):
    return place.file(place.models.weights).rename(place.folder / name)


def _half_of(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def _saved(place, dtype=torch.float32, **options):
    build_pipeline(place.models.tokenizer, 16, "epsilon").to(dtype).save_pretrained(place.folder / "model", **options)
    return place.folder / "model"


def _moved(place, name):
    model = place.copy()
    (model / UNET).rename(model / "unet" / name)
    return model


def _shard_gone(place):
    model = _saved(place, max_shard_size="40KB")
    sorted((model / "unet").glob("*-of-*"))[-1].unlink()
    return model


def _linked(place):
    model = place.copy()
    (model / UNET).unlink()
    (model / UNET).symlink_to("../../../blobs/4d7a")
    return model


def _other_part(place, part, which="xl"):
    model = place.copy()
    shutil.rmtree(model / part)
    shutil.copytree(place.models.path / which / part, model / part)
    return model


def _other_weights(place, file):
    model = place.copy()
    shutil.copy(place.models.path / "xl" / file, model / file)
    return model


def _of_eight_bits(key, value):
    return (value * 127).to(torch.int8) if value.ndim > 1 else value


def _in_one(place):
    parts = {"unet": place.models.sd1.unet, "vae": place.models.sd1.vae, "text_encoder": place.models.sd1.text_encoder}
    return place.file(
        {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    )


def _averaged(place, *, alone):
    own = place.models.weights
    names = {key: "model_ema." + key.removeprefix("model.").replace(".", "") for key in _only(own, "model.")}
    averaged = {new: 3 * own[key] for key, new in names.items()}
    return place.file({**(_without(own, "model.") if alone else own), **averaged})


def file_of(change, **options):
    return lambda place: _one(place.file(change(place.models), **options))


def folder_of(make):
    return lambda place: _one(make(place))


def named(text):
    return lambda place: {"name": text}


JUDGED = [
    Case(
        "vladmandic/sdnext#374",
        "a merge with NaN in the UNet",
        file_of(lambda m: {k: _nan("middle_block.0")(k, v) for k, v in m.weights.items()}),
        "10 weights (mid_block.resnets.0.norm1.weight, mid_block.resnets.0.norm1.bias, …) are NaN or infinite, and every picture would be black",
    ),
    Case(
        "vladmandic/sdnext#149",
        "NaN in the autoencoder",
        folder_of(lambda p: p.changed(VAE, _nan("decoder.conv_in"))),
        "cannot use vae of",
    ),
    Case(
        "",
        "NaN in the text encoder",
        folder_of(lambda p: p.changed(TEXT, _nan("layers.0.mlp"))),
        "cannot use text_encoder of",
    ),
    Case(
        "",
        "one infinite number",
        folder_of(
            lambda p: p.changed(
                UNET, lambda k, v: v.index_fill(0, torch.tensor(1), torch.inf) if k == "conv_out.bias" else v
            )
        ),
        "the weight conv_out.bias is NaN or infinite",
    ),
    Case(
        "",
        "weights as a variant that is neither whole nor fp16",
        folder_of(lambda p: _saved(p, torch.bfloat16, variant="bf16")),
        "",
    ),
    Case("", "weights in several files", folder_of(lambda p: _saved(p, max_shard_size="40KB")), ""),
    Case(
        "AUTOMATIC1111/stable-diffusion-webui#10199",
        "one of several files is missing",
        folder_of(_shard_gone),
        "diffusion_pytorch_model-00006-of-00006.safetensors",
    ),
    Case(
        "jy0205/Pyramid-Flow#11",
        "weights of flax only",
        folder_of(lambda p: _moved(p, "diffusion_flax_model.msgpack")),
        "unet holds diffusion_flax_model.msgpack: expected weights in",
    ),
    Case(
        "",
        "weights of ONNX only",
        folder_of(lambda p: _moved(p, "model.onnx")),
        "unet holds model.onnx: expected weights in",
    ),
    Case(
        "",
        "a file that the browser named",
        folder_of(lambda p: _moved(p, "diffusion_pytorch_model (1).safetensors")),
        "or give the file its right name",
    ),
    Case(
        "",
        "a folder for another library",
        folder_of(lambda p: p.configured("model_index.json", _class_name="OnnxStableDiffusionPipeline")),
        "it is made for another library: get it with .safetensors files",
    ),
    Case(
        "",
        "model_index.json as Windows' editor saves it",
        folder_of(
            lambda p: p.written(
                "model_index.json", b"\xef\xbb\xbf" + (p.models.path / "sd1/model_index.json").read_bytes()
            )
        ),
        "",
    ),
    Case(
        "",
        "model_index.json is a list",
        folder_of(lambda p: p.written("model_index.json", b"[]")),
        "its config holds a list, expected names with values",
    ),
    Case(
        "",
        "a config is a list",
        folder_of(lambda p: p.written("unet/config.json", b"[1]")),
        "cannot load unet of model: its config holds a list",
    ),
    Case(
        "",
        "a config with a comma too many",
        folder_of(lambda p: p.written("unet/config.json", b'{"sample_size": 8,}')),
        "is not a valid JSON file",
    ),
    Case(
        "",
        "a folder without its scheduler's config",
        folder_of(lambda p: p.written("scheduler/scheduler_config.json", None)),
        "cannot load scheduler of model",
    ),
    Case(
        "Comfy-Org/ComfyUI#13669",
        "the tokenizer is a pointer of Git LFS",
        folder_of(lambda p: p.written("tokenizer/tokenizer.json", LFS)),
        "tokenizer/tokenizer.json is a pointer of Git LFS",
    ),
    Case(
        "Comfy-Org/ComfyUI#13669",
        "a text encoder's config is a pointer of Git LFS",
        folder_of(lambda p: p.written("text_encoder/config.json", LFS)),
        "text_encoder/config.json is a pointer of Git LFS",
    ),
    Case(
        "",
        "empty weights",
        folder_of(lambda p: p.written(UNET, b"")),
        f"{UNET} is an empty file: get it again",
    ),
    Case(
        "huggingface/diffusers#11827",
        "weights that were cut off",
        folder_of(lambda p: p.written(UNET, (p.models.path / "sd1" / UNET).read_bytes()[:5000])),
        f"{UNET} is not a readable safetensors file",
    ),
    Case(
        "",
        "a page of the web for weights",
        folder_of(lambda p: p.written(VAE, b"<!DOCTYPE html><title>Sign in</title>")),
        f"{VAE} is a page of the web and not the file",
    ),
    Case(
        "",
        "a link into a cache that was emptied",
        folder_of(_linked),
        f"{UNET} is a link to a file that is gone: get it again",
    ),
    Case(
        "",
        "the UNet of XL in a folder of Stable Diffusion 1",
        folder_of(lambda p: _other_part(p, "unet")),
        "expected text encoders of width 40 together, as the UNet takes them, got 16",
    ),
    Case(
        "",
        "its weights alone",
        folder_of(lambda p: _other_weights(p, UNET)),
        "has the shape [8, 40], where its config says [8, 16]; the two do not belong together",
    ),
    Case(
        "",
        "a checkpoint of another width",
        file_of(lambda m: original(build_pipeline(m.tokenizer, 24, "epsilon"))),
        "has the shape [40, 24], where its config says [40, 16]",
    ),
    Case(
        "invoke-ai/InvokeAI#7495",
        "`ztsnr` without `v_pred`",
        file_of(lambda m: {**m.xl_weights, "ztsnr": zeros(1)}),
        "",
    ),
    Case(
        "",
        "a checkpoint of whole numbers",
        file_of(lambda m: {k: _of_eight_bits(k, v) for k, v in m.weights.items()}),
        "with quantised weights, which are not supported",
    ),
    Case(
        "",
        "a folder of whole numbers",
        folder_of(lambda p: p.changed(UNET, _of_eight_bits)),
        f"{UNET} is a checkpoint with quantised weights",
    ),
    Case(
        "",
        "a checkpoint of eight bits without a scale",
        file_of(lambda m: {k: v.to(torch.float8_e4m3fn) if v.ndim > 1 else v for k, v in m.weights.items()}),
        "",
    ),
    Case("", "a checkpoint of doubles", file_of(lambda m: {k: v.double() for k, v in m.weights.items()}), ""),
    Case(
        "huggingface/diffusers#6689",
        "SSD-1B, smaller than XL, in one file",
        file_of(
            lambda m: _without(
                m.xl_weights, "model.diffusion_model.middle_block.1.", "model.diffusion_model.middle_block.2."
            )
        ),
        "smaller than their family's (SSD-1B and the like) are read from diffusers folders",
    ),
    Case(
        "d8ahazard/sd_dreambooth_extension#6",
        "a text encoder with the names of NovelAI's first model",
        file_of(lambda m: {k.replace("transformer.text_model.", "transformer."): v for k, v in m.weights.items()}),
        "names of an old layout, without text_model: convert it",
    ),
    Case(
        "Comfy-Org/ComfyUI#16015",
        "XL without its first text encoder",
        file_of(lambda m: _without(m.xl_weights, "conditioner.embedders.0")),
        "without its first text encoder",
    ),
    Case(
        "Comfy-Org/ComfyUI#16015",
        "XL without its second text encoder",
        file_of(lambda m: _without(m.xl_weights, "conditioner.embedders.1")),
        "without its second text encoder",
    ),
    Case(
        "camenduru/converter-colab#2",
        "averaged weights beside the others",
        lambda p: _one(_averaged(p, alone=False)),
        "",
    ),
    Case(
        "camenduru/converter-colab#2",
        "averaged weights alone",
        lambda p: _one(_averaged(p, alone=True)),
        "only averaged weights (model_ema)",
    ),
    Case(
        "AUTOMATIC1111/stable-diffusion-webui#6728",
        "positions that a merge made fractions of",
        file_of(
            lambda m: {
                **m.weights,
                "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(40)[None] * 0.96,
            }
        ),
        "",
    ),
    Case(
        "",
        "what a LoRA left behind in a merge",
        file_of(lambda m: {**m.weights, "lora_te_x.lora_up.weight": zeros(4, 4)}),
        "",
    ),
    Case(
        "",
        "a word, an optimizer and betas beside the weights",
        file_of(
            lambda m: {
                **m.weights,
                "bundle_emb.bad.string_to_param.*": zeros(2, 16),
                "betas": zeros(1000),
                "optimizer.state.0": zeros(3),
            }
        ),
        "",
    ),
    Case(
        "Comfy-Org/ComfyUI#6744",
        "a checkpoint that was cut off",
        lambda p: _one(_half_of(p.file(p.models.weights))),
        "it may be cut off: get it again",
    ),
]
"""Models, or nearly: what is judged before anything is drawn."""

OLD = "model.diffusion_model.input_blocks.0.0.weight"
WHOLE = {"first_stage_model.a": zeros(1), "cond_stage_model.a": zeros(1)}


def holding(source, what, told, weights):
    return Case(source, what, lambda place: _one(place.file(weights)), told)


PARTS = [
    holding("invoke-ai/InvokeAI#6964", "a T2I-Adapter", "a ControlNet or the like", {"body.0.block1.weight": zeros(8, 8, 3, 3), "body.0.in_conv.weight": zeros(8, 8, 1, 1), "conv_in.weight": zeros(8, 192, 3, 3)}),
    holding("invoke-ai/InvokeAI#6964", "a T2I-Adapter of diffusers", "a ControlNet or the like", {"adapter.body.0.resnets.0.block1.weight": zeros(8, 8, 3, 3), "adapter.conv_in.weight": zeros(8, 768, 3, 3), "adapter.body.0.in_conv.bias": zeros(8)}),
    holding("invoke-ai/InvokeAI#6964", "a ControlLLLite", "a ControlNet or the like", {"lllite_unet_a.down.0.weight": zeros(8, 8), "lllite_unet_a.up.0.weight": zeros(8, 8), "lllite_unet_a.conditioning1.0.weight": zeros(8, 3, 4, 4)}),
    holding("invoke-ai/InvokeAI#6964", "an IP-Adapter of faces, which has LoRAs in it", "an IP-Adapter", {"image_proj.proj.0.weight": zeros(8, 8), "ip_adapter.0.to_q_lora.down.weight": zeros(8, 8), "ip_adapter.1.to_k_ip.weight": zeros(8, 8)}),
    holding("Comfy-Org/ComfyUI#5494", "SUPIR", "a ControlNet or the like", {"model.control_model.input_blocks.0.0.weight": zeros(8, 4, 3, 3), "first_stage_model.denoise_encoder.conv_in.weight": zeros(8, 3, 3, 3), "c": zeros(1)}),
    holding("", "an upscaler", "an upscaler, which makes pictures larger", {"model.0.weight": zeros(8, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight": zeros(8, 8, 3, 3), "model.10.bias": zeros(3)}),
    holding("", "another upscaler", "an upscaler, which makes pictures larger", {"conv_first.weight": zeros(8, 3, 3, 3), "body.0.rdb1.conv1.weight": zeros(8, 8, 3, 3), "conv_last.bias": zeros(3)}),
    holding("", "a hypernetwork", "a hypernetwork, which goes on top of a model", {"320.0.linear.0.weight": zeros(8, 8), "320.1.linear.0.weight": zeros(8, 8), "step": zeros(1)}),
    holding("Comfy-Org/ComfyUI#8439", "Lumina 2", "a model of another family", {"cap_embedder.0.weight": zeros(8), "layers.0.attention.qkv.weight": zeros(8, 8), "noise_refiner.0.a": zeros(8, 8)}),
    holding("Comfy-Org/ComfyUI#4952", "Stable Audio", "a model of another family", {"model.model.transformer.layers.0.a": zeros(8, 8), "pretransform.model.decoder.layers.0.weight_g": zeros(8, 1, 1), "conditioner.a": zeros(8)}),
    holding("Comfy-Org/ComfyUI#4329", "Flux in one file", "a model of another family", {"model.diffusion_model.double_blocks.0.a": zeros(8, 8), "text_encoders.t5xxl.logit_scale": zeros(1), "vae.decoder.conv_in.weight": zeros(8, 16, 3, 3)}),
    holding("invoke-ai/InvokeAI#7703", "Stable Diffusion 3.5", "a model of another family", {"model.diffusion_model.joint_blocks.0.a": zeros(8, 8), "text_encoders.clip_l.transformer.a": zeros(77, 8), "first_stage_model.decoder.conv_in.weight": zeros(8, 16, 3, 3)}),
    holding("vladmandic/sdnext#2910", "Stable Cascade", "a model of another family", {"down_blocks.0.0.channelwise.0.weight": zeros(8, 8), "clip_txt_pooled_mapper.weight": zeros(8, 8), "embedding.1.weight": zeros(8, 16, 1, 1)}),
    holding("", "Wan", "a model of another family", {"blocks.0.self_attn.q.weight": zeros(8, 8), "head.head.weight": zeros(8, 8), "patch_embedding.weight": zeros(8, 16, 1, 2, 2)}),
    holding("", "LTX", "a model of another family", {"model.diffusion_model.transformer_blocks.0.attn1.to_q.weight": zeros(8, 8), "model.diffusion_model.patchify_proj.weight": zeros(8, 8), "vae.decoder.conv_in.conv.weight": zeros(8, 8, 3, 3, 3)}),
    holding("", "AuraFlow", "a model of another family", {"model.cond_seq_linear.weight": zeros(8, 8), "model.double_layers.0.attn.w1k.weight": zeros(8, 8), "model.register_tokens": zeros(1, 8, 8)}),
    holding("", "Hunyuan-DiT", "a model of another family", {"blocks.0.attn1.Wqkv.weight": zeros(8, 8), "mlp_t5.0.weight": zeros(8, 8), "pooler.q_proj.weight": zeros(8, 8)}),
    holding("gligen/GLIGEN#67", "GLIGEN", "a model that takes more than words", {OLD: zeros(8, 4, 3, 3), "model.diffusion_model.position_net.linears.0.weight": zeros(8, 8), **WHOLE}),
    holding("", "unCLIP", "a model that takes more than words", {OLD: zeros(8, 4, 3, 3), "model.diffusion_model.label_emb.0.0.weight": zeros(8, 2048), "embedder.model.visual.conv1.weight": zeros(8, 3, 14, 14), **WHOLE}),
    holding("kijai/ComfyUI-KwaiKolorsWrapper#25", "the UNet of Kolors", "a UNet alone", {"encoder_hid_proj.weight": zeros(8, 8), "conv_in.weight": zeros(8, 4, 3, 3), "down_blocks.0.resnets.0.conv1.weight": zeros(8, 8, 3, 3)}),
    holding("invoke-ai/InvokeAI#6964", "CLIP-G alone", "a text encoder alone", {"text_model.embeddings.token_embedding.weight": zeros(30, 1280), "text_projection.weight": zeros(1280, 1280), "text_model.final_layer_norm.bias": zeros(1280)}),
    holding("", "BLIP", "a CLIP of pictures or another model that looks at them", {"text_decoder.bert.embeddings.word_embeddings.weight": zeros(9, 8), "vision_model.embeddings.class_embedding": zeros(8), "a": zeros(1)}),
    holding("", "a tiny autoencoder", "half of an autoencoder, or a tiny one", {"decoder.1.weight": zeros(64, 4, 3, 3), "encoder.0.weight": zeros(64, 3, 3, 3), "decoder.3.conv.0.bias": zeros(64)}),
    holding("", "a LoRA that was trained whole", "a LoRA", {"lora_unet_a.diff": zeros(8, 8), "lora_unet_a.diff_b": zeros(8), "lora_unet_b.diff": zeros(8, 8)}),
    Case("huggingface/diffusers#11033", "a UNet of XL in the original layout", file_of(lambda m: {k.removeprefix("model.diffusion_model."): v for k, v in _only(m.xl_weights, "model.").items()}), "a UNet alone"),
    Case("", "a pipeline of diffusers in one file", lambda p: _one(_in_one(p)), "a pipeline of diffusers in one file"),
    Case("sming256/OpenTAD#44", "names with `module.` before them", file_of(lambda m: {f"module.{k}": v for k, v in m.weights.items()}), "is not a checkpoint of Stable Diffusion (it holds module."),
    Case("", "one of several files", lambda p: _one(p.file(_only(p.models.weights, "model."), "model-00001-of-00002.safetensors")), "is one of several files that are a model together"),
    Case("", "a safetensors file called .ckpt", folder_of(lambda p: _renamed(p, "x.ckpt")), "a safetensors file by another name: rename it"),
    Case("", "one called .sft", folder_of(lambda p: _renamed(p, "x.sft")), "a safetensors file by another name: rename it"),
    Case("", "one called .SAFETENSORS", folder_of(lambda p: _renamed(p, "X.SAFETENSORS")), "a safetensors file by another name: rename it"),
    Case("", "an archive", folder_of(_zip), "an archive (.zip): unpack it"),
    Case("", "a download that goes on", lambda p: _one(_half_of(_renamed(p, "x.safetensors.crdownload"))), "a download that has not ended (.crdownload)"),
    Case("", "an empty folder", folder_of(_empty), "which is an empty folder"),
    Case("", "an address of the hub", named("https://huggingface.co/runwayml/stable-diffusion-v1-5/tree/main"), "give the hub id runwayml/stable-diffusion-v1-5"),
    Case("", "another address", named("https://example.org/models/4384"), "download the file and give its path"),
    Case("", "an address of a file", named("file:///models/x.safetensors"), "give the path /models/x.safetensors"),
    Case("", "a short name in capitals", named("SDXL"), "do you mean sdxl?"),
    Case("", "a short name with a dot", named("sd1.5"), "do you mean sd15?"),
    Case("", "a path in quotes", named('"x.safetensors"'), "leave quotes and blanks around it out"),
    Case("AUTOMATIC1111/stable-diffusion-webui#16658", "nothing", named(""), "expected the name of a model, got nothing"),
    Case("Jiaxuan-Li/EVCap#8", "a name without its owner", named("stable-diffusion-v1-5"), "which does not exist"),
]  # fmt: skip
"""Parts of models, and what is none: one line that names it."""


def with_vae(make):
    """A checkpoint without an autoencoder, and what is given as one."""

    def build(place):
        bare = place.file(_without(place.models.weights, "first_stage_model."), "bare.safetensors")
        return {"name": str(bare), "vae": str(make(place))}

    return build


def vae_file(change, **options):
    return with_vae(lambda place: place.file(change(place.models), "v.safetensors", **options))


def _own(models):
    return _only(models.weights, "first_stage_model.")


VAES = [
    Case("", "the whole checkpoint's", vae_file(lambda m: m.weights), ""),
    Case("LostRuins/koboldcpp#845", "in half precision", vae_file(lambda m: {k: v.half() for k, v in _own(m).items()}), ""),
    Case("", "without the prefix", vae_file(lambda m: {k.removeprefix("first_stage_model."): v for k, v in _own(m).items()}), ""),
    Case("", "as diffusers names it", vae_file(lambda m: m.sd1.vae.state_dict()), ""),
    Case("vladmandic/sdnext#149", "with NaN", vae_file(lambda m: {k: v * torch.nan for k, v in _own(m).items()}), "cannot use autoencoder of v.safetensors"),
    Case("", "the decoder alone", vae_file(lambda m: {k: v for k, v in _own(m).items() if "decoder" in k}), "weights of it are missing; it is incomplete"),
    Case("", "without some weights", vae_file(lambda m: {k: v for k, v in _own(m).items() if "mid.block_1" not in k}), "weights of it are missing; it is incomplete"),
    Case("", "of whole numbers", vae_file(lambda m: {k: _of_eight_bits(k, v) for k, v in _own(m).items()}), "quantised weights"),
    Case("", "of XL, by its checkpoint", vae_file(lambda m: m.xl_weights), "has the autoencoder of Stable Diffusion XL, whose latents are not those of 1 and 2"),
    Case("", "of XL, by its header", vae_file(_own, metadata={"modelspec.architecture": "stable-diffusion-xl-v1-base/vae"}), "has the autoencoder of Stable Diffusion XL"),
    Case("", "of Flux, with sixteen channels", vae_file(lambda m: {"decoder.conv_in.weight": zeros(8, 16, 3, 3), "encoder.conv_in.weight": zeros(8, 3, 3, 3), "encoder.conv_out.bias": zeros(32)}), "the two do not belong together"),
    Case("", "for video", vae_file(lambda m: {"decoder.conv_in.weight": zeros(8, 4, 3, 3, 3), "encoder.conv_in.weight": zeros(8, 3, 3, 3, 3)}), "the two do not belong together"),
    Case("", "a LoRA", vae_file(lambda m: {"a.lora.down.weight": zeros(4, 8), "a.lora.up.weight": zeros(8, 4)}), "which holds no autoencoder"),
    Case("invoke-ai/InvokeAI#7357", "a file that can run code", with_vae(lambda p: p.bytes(b"PK\3\4" + bytes(90), "v.vae.pt")), "is .pt, expected a .safetensors checkpoint"),
    Case("", "a config that is a list", with_vae(lambda p: p.written("vae/config.json", b"[1]") / "vae"), "its config holds a list"),
    Case("", "a folder without weights", with_vae(lambda p: p.written(VAE, None) / "vae"), "holds none: expected weights in"),
    Case("", "another scale", with_vae(lambda p: p.configured("vae/config.json", scaling_factor=0.13) / "vae"), "it belongs to another family"),
    Case("", "a UNet's folder", with_vae(lambda p: p.copy() / "unet"), "got a UNet2DConditionModel"),
    Case("", "an address", with_vae(lambda p: "https://huggingface.co/stabilityai/sd-vae-ft-mse"), "which does not exist"),
    Case("", "nothing", with_vae(lambda p: ""), "expected --vae to be a folder"),
]  # fmt: skip
"""What is given as --vae."""


def given(option, weights=None, content=None):
    """A whole model, and something in the place of a word or a LoRA; for the command line alone."""

    def build(place):
        own = place.models.weights if weights == "whole" else weights
        file = place.file(own, "c.safetensors") if content is None else place.bytes(content, "c.safetensors")
        return {"name": str(place.copy()), option: str(file)}

    return build


FILES = [
    Case("", "a checkpoint as --concept", given("concept", "whole"), "is a model's weights (368 tensors), not a word: it goes to --model"),
    Case("invoke-ai/InvokeAI#3279", "a word with NaN", given("concept", {"<c>": torch.full((1, 16), torch.nan)}), "that are NaN or infinite"),
    Case("", "a word of whole numbers", given("concept", {"<c>": torch.ones(1, 16, dtype=torch.int64)}), "expected float32, float16 or bfloat16"),
    Case("", "a word of XL on Stable Diffusion 1", given("concept", {"clip_l": torch.ones(1, 16), "clip_g": torch.ones(1, 24)}), "these rows do not fit the model"),
    Case("Nerogar/OneTrainer#514", "a word of Flux", given("concept", {"clip_l": torch.ones(1, 16), "t5": torch.ones(1, 32)}), "is a word for a model with a T5 text encoder"),
    Case("Comfy-Org/ComfyUI#13669", "a pointer of Git LFS as --concept", given("concept", content=LFS), "is a pointer of Git LFS and not the file itself"),
    Case("", "a page of the web as --concept", given("concept", content=b"<!DOCTYPE html><html>"), "is a page of the web and not the file"),
    Case("", "a checkpoint as --lora", given("lora", "whole"), "expected the tensors of a LoRA"),
    Case("", "a word as --lora", given("lora", {"<c>": torch.ones(1, 16)}), "expected the tensors of a LoRA, got '<c>'; is it one?"),
    Case("", "nothing but zeros as --lora", given("lora", {"unet.a.lora.down.weight": zeros(4, 8)}), "holds nothing but zeros"),
    Case("Comfy-Org/ComfyUI#13669", "a pointer of Git LFS as --lora", given("lora", content=LFS), "is a pointer of Git LFS and not the file itself"),
    Case("", "GGUF as --lora", given("lora", content=b"GGUF" + bytes(90)), "is a quantised model in GGUF"),
]  # fmt: skip
"""What is given as --concept and --lora."""

CASES = {"a model is judged once": JUDGED, "parts of models": PARTS, "--vae": VAES, "--concept and --lora": FILES}
