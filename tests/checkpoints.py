"""Checkpoints in one file, in the original layout, written from tiny pipelines."""

import re

import torch

_UNET = (
    (r"^time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
    (r"^add_embedding\.linear_(\d)", lambda m: f"label_emb.0.{2 * int(m[1]) - 2}"),
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
    second = getattr(pipeline, "text_encoder_2", None)
    first = "cond_stage_model" if second is None else "conditioner.embedders.0"
    for name, tensor in pipeline.text_encoder.state_dict().items():
        inner = name if name.startswith("text_model.") else f"text_model.{name}"
        found[f"{first}.transformer.{inner}"] = tensor
    if second is not None:
        found |= {f"conditioner.embedders.1.model.{name}": tensor for name, tensor in _open_clip(second).items()}
    return {name: tensor.contiguous().clone() for name, tensor in found.items()}


_OPEN_CLIP = (
    (r"^text_model\.", ""),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^embeddings\.token_embedding", "token_embedding"),
    (r"^final_layer_norm", "ln_final"),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"layer_norm(\d)", r"ln_\1"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"^text_projection\.weight", "text_projection"),
)


def _open_clip(encoder):
    """The weights of a text encoder as OpenCLIP names them: one tensor for queries, keys and values."""
    weights, found = encoder.state_dict(), {}
    for name, tensor in weights.items():
        if "self_attn.q_proj" in name:
            parts = [weights[name.replace("q_proj", f"{which}_proj")] for which in "qkv"]
            end = "in_proj_" + name.rsplit(".", 1)[1]
            key = _renamed(name, _OPEN_CLIP).split(".self_attn")[0]
            found[f"{key}.attn.{end}"] = torch.cat(parts)
        elif ".k_proj" not in name and ".v_proj" not in name:
            found[_renamed(name, _OPEN_CLIP)] = tensor.T if name.startswith("text_projection") else tensor
    return found
