"""What other programs call the modules of a UNet: as diffusers does, as the original Stable Diffusion did, with "_" for "."."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_ORIGINAL = ("input_blocks.", "middle_block.", "output_blocks.", "out.", "time_embed.", "label_emb.")
_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
_INSIDE = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def flat(name: str) -> str:
    """A name with "_" for every ".", as kohya's scripts write it."""
    return name.replace(".", "_")


def is_module_name(name: str) -> bool:
    """Whether diffusers could call a module so, and not only the original or kohya's scripts."""
    return name in ("conv_in", "conv_out") or ("." in name and not name.startswith(_ORIGINAL))


def adaptable(unet: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The modules that a LoRA can be for, by name."""
    return {name: module for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}


def aliases(unet: Any) -> dict[str, str]:
    """Every name that a file may have for a module, flat → the module's own."""
    names = {flat(name): name for name in adaptable(unet)}
    originals = {flat(found): name for name in adaptable(unet) if (found := original_name(name, unet.config))}
    return originals | names


def original_name(name: str, config: Any) -> str | None:
    """Name a module as the original Stable Diffusion does (`ldm`, `sgm`), whose blocks are one list each way.

    Args:
        name: as diffusers has it.
        config: of the UNet.

    Returns:
        The name; None for a UNet that the original could not have been, or a module that it has not.
    """
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    layers = config.layers_per_block
    if not isinstance(layers, int):
        return None
    if match := re.fullmatch(r"mid_block\.((?:resnets|attentions)\.[01])\.(.+)", name):
        kind = match[1].partition(".")[0]
        return f"middle_block.{_MIDDLE[match[1]]}.{_inner(kind, match[2])}" if match[1] in _MIDDLE else None
    match = _INSIDE.fullmatch(name)
    if match is None:
        return None
    way, block, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if way == "down":
        place = (block + 1) * (layers + 1) if kind == "downsamplers" else 1 + block * (layers + 1) + index
        return f"input_blocks.{place}.{int(kind == 'attentions')}.{_inner(kind, rest)}"
    attends = "Attn" in config.up_block_types[block]
    slot = {"resnets": 0, "attentions": 1, "upsamplers": 1 + attends}[kind]
    place = block * (layers + 1) + (layers if kind == "upsamplers" else index)
    return f"output_blocks.{place}.{slot}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    if kind == "resnets":
        return _RESNET.get(rest, rest)
    return "op" if kind == "downsamplers" else rest
