"""LoRAs in files: the dialects of diffusers (new and old), kohya, ComfyUI and OneTrainer, read into one form.

A name tells three things: which part of a model, which layer in it, which of the two factors. Dialects write the first two in
different ways (`unet.mid_block.attentions.0…`, `lora_unet_mid_block_attentions_0_…`, `diffusion_model.middle_block.1.…`), so
names are brought to one spelling, with `_` for `.`, and compared with those of a model's own layers, spelt alike.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from sentinv.concepts.kinds import is_lora, why_no_word
from sentinv.errors import ConceptError
from sentinv.files.atomic import StrPath, shown
from sentinv.files.tensors import read_tensors

MAX_RANK = 1024

_FACTOR = re.compile(
    r"(?P<body>.+?)(?:\.lora_(?P<ab>[AB])(?:\.[\w-]+)?\.weight"
    r"|[._]lora(?:_linear_layer)?[._](?P<way>down|up)\.weight|(?P<alpha>\.alpha))"
)
_PARTS = (
    ("unet", ("lora_unet_", "lora_unet.", "model.diffusion_model.", "diffusion_model.", "unet.")),
    ("text_encoder_2", ("lora_te2_", "lora_te2.", "text_encoders.clip_g.transformer.", "text_encoder_2.")),
    (
        "text_encoder",
        ("lora_te1_", "lora_te1.", "lora_te_", "lora_te.", "text_encoders.clip_l.transformer.", "text_encoder."),
    ),
)
_UNET_STARTS = ("down_blocks", "mid_block", "up_blocks", "input_blocks", "middle_block", "output_blocks")
_RESNET = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
"""Layers inside a residual block in the names of the original code → in those of diffusers."""


@dataclass(frozen=True)
class LoraLayer:
    """Two factors of what is added to a layer's weight: up · down · alpha / rank.

    Attributes:
        down: `[rank, in]`, or `[rank, in, h, w]` for a convolution.
        up: `[out, rank]`, or `[out, rank, 1, 1]`.
        alpha: the file's; the rank where it says none, as all programs take it.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Rank of what is added, at most."""
        return self.down.shape[0]


@dataclass(frozen=True)
class LoraFile:
    """What a file holds.

    Attributes:
        dialect: "diffusers", "diffusers (old)", "kohya" or "ComfyUI", whose names it has.
        layers: part of the model ("unet", "text_encoder", "text_encoder_2") → name with `_` for `.` → layer.
        unknown: names of tensors that belong to no layer.
        header: the file's texts.
    """

    dialect: str
    layers: Mapping[str, Mapping[str, LoraLayer]]
    unknown: tuple[str, ...] = ()
    header: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of layers."""
        return sum(map(len, self.layers.values()))

    def matched(self, part: str, names: Iterable[str], per_block: int = 2) -> tuple[dict[str, LoraLayer], list[str]]:
        """Find the layers of a model that the file is for.

        Args:
            part: "unet", "text_encoder" or "text_encoder_2".
            names: of the model's layers, such as "mid_block.attentions.0.transformer_blocks.0.attn1.to_q".
            per_block: residual blocks in each block of the UNet (its config's `layers_per_block`), for files that number them
                as the original code does.

        Returns:
            The model's name → layer, and the names in the file that no layer has.
        """
        spelt = {_plain(part, name.replace(".", "_"), per_block): name for name in names}
        found, missing = {}, []
        for name, layer in self.layers.get(part, {}).items():
            own = spelt.get(_plain(part, name, per_block))
            if own is None:
                missing.append(name)
            else:
                found[own] = layer
        return found, missing


def read_lora(path: StrPath, *, allow_pickle: bool = False) -> LoraFile:
    """Read a LoRA of any of the known dialects.

    Raises:
        ConceptError: If the file cannot be read, holds no LoRA, one factor of a layer without the other, factors that do not
            fit each other, an alpha that is not a positive number, or a rank above `MAX_RANK`: one line that names the file.
    """
    name = shown(path)
    tensors, header = read_tensors(path, allow_pickle=allow_pickle)
    if not is_lora(tensors):
        raise ConceptError(f"{name} is {why_no_word(tensors) or 'no LoRA'}; expected a LoRA")
    other = next((key for key in tensors if ".dora_scale" in key or ".lora_mid" in key), None)
    if other is not None:
        raise ConceptError(f"{name} is a DoRA or LoCon ({shown(other[:60])}); expected a plain LoRA")
    factors: dict[tuple[str, str], dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        known = _FACTOR.fullmatch(key)
        place = _place(known["body"]) if known else None
        if not known or place is None:
            unknown.append(key)
            continue
        which = "alpha" if known["alpha"] else {"A": "down", "B": "up"}.get(known["ab"]) or known["way"]
        factors.setdefault(place, {})[which] = tensor
    alphas = _alphas(header)
    layers: dict[str, dict[str, LoraLayer]] = {}
    for (part, layer), parts in factors.items():
        layers.setdefault(part, {})[layer] = _layer(name, f"{part}: {layer}", parts, alphas.get(part))
    if not layers:
        raise ConceptError(
            f"{name} has no layer of a UNet or text encoder that is known by name: {shown(unknown[0][:60])}"
        )
    return LoraFile(_dialect(tensors), layers, tuple(unknown), header)


def _place(body: str) -> tuple[str, str] | None:
    """Part of the model and layer, with `_` for `.`; None if the name tells no part."""
    body = body.removeprefix("base_model.model.")
    for part, starts in _PARTS:
        start = next((start for start in starts if body.startswith(start)), None)
        if start is not None:
            return part, _spelt(body[len(start) :].removeprefix("base_model.model."))
    return ("unet", _spelt(body)) if body.startswith(_UNET_STARTS) else None


def _spelt(name: str) -> str:
    """A layer's name with `_` for `.`; the processors of old files are taken for the layers they stood for."""
    name = name.replace(".processor.", ".").replace(".", "_")
    return re.sub(r"(attn\d)_(to_out)$", r"\1_\2_0", name)


def _plain(part: str, name: str, per_block: int) -> str:
    """One spelling for all: blocks numbered as diffusers does, text encoders without the module around them."""
    if part != "unet":
        return name.removeprefix("text_model_")
    known = re.fullmatch(r"(input_blocks|output_blocks)_(\d+)_(\d)_(.+)|middle_block_(\d)_(.+)", name)
    if not known:
        return re.sub(r"(attn\d)_(to_out)$", r"\1_\2_0", name)
    if known[5]:
        kind = "attentions_0" if known[5] == "1" else f"resnets_{int(known[5]) // 2}"
        return f"mid_block_{kind}_{_RESNET.get(known[6], known[6])}"
    down = known[1] == "input_blocks"
    block, layer = divmod(int(known[2]) - down, per_block + 1)
    side, rest = ("down" if down else "up"), known[4]
    if down and layer == per_block:
        return f"down_blocks_{block}_downsamplers_0_conv"
    if not down and rest == "conv":
        return f"up_blocks_{block}_upsamplers_0_conv"
    kind = "resnets" if known[3] == "0" else "attentions"
    return f"{side}_blocks_{block}_{kind}_{layer}_{_RESNET.get(rest, rest)}"


def _layer(file: str, name: str, parts: Mapping[str, Tensor], alpha: float | None) -> LoraLayer:
    if "down" not in parts or "up" not in parts:
        raise ConceptError(f"{file} has one factor without the other for {name[:80]}: get it again")
    down, up = parts["down"].float(), parts["up"].float()
    rank = down.shape[0] if down.ndim else 0
    if down.ndim not in (2, 4) or up.ndim != down.ndim or up.shape[1] != rank or not 0 < rank <= MAX_RANK:
        raise ConceptError(
            f"{file} has factors of shapes {list(down.shape)} and {list(up.shape)} for {name[:80]}; expected [rank, in] and "
            f"[out, rank] with a rank of at most {MAX_RANK}"
        )
    told = float(parts["alpha"].reshape(-1)[0]) if "alpha" in parts and parts["alpha"].numel() == 1 else alpha
    value = float(rank) if told is None else told
    if not (math.isfinite(value) and value > 0):
        raise ConceptError(f"{file} has alpha {value:g} for {name[:80]}; expected a number above 0")
    return LoraLayer(down, up, value)


def _alphas(header: Mapping[str, str]) -> dict[str, float]:
    """Part → alpha, as diffusers writes peft's settings into the header; nothing if they cannot be read."""
    try:
        told = json.loads(header.get("lora_adapter_metadata", "{}"))
        return {part: float(told[f"{part}.lora_alpha"]) for part, _ in _PARTS if f"{part}.lora_alpha" in told}
    except (ValueError, TypeError, RecursionError):
        return {}


def _dialect(keys: Iterable[str]) -> str:
    names = list(keys)
    if any(key.startswith("lora_") for key in names):
        return "kohya"
    if any("diffusion_model." in key or key.startswith("text_encoders.") for key in names):
        return "ComfyUI"
    return "diffusers" if any(".lora_A" in key for key in names) else "diffusers (old)"
