"""How low-rank layers are laid out in safetensors files, by us and by others, and what is refused.

A module's name is told in five ways: as diffusers has it ("down_blocks.0.attentions.0…to_q"), with ".processor." in it, as the
original Stable Diffusion has it ("input_blocks.1.1…to_q"), and either with "_" for every ".". So names are compared with "_"
for "." (see `sentinv.adapters.names`), and only what stands before and behind them is taken apart here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sentinv.adapters import MAX_RANK
from sentinv.concepts.layouts import BUNDLED
from sentinv.errors import ConceptError
from sentinv.files.atomic import shown

ADAPTER_METADATA = "lora_adapter_metadata"
"""The header's entry in which diffusers and peft look for rank and alpha."""

_UNET = (
    "unet.base_model.model.",
    "base_model.model.unet.",
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "lora_unet.",
    "lora_unet_",
    "unet.",
)
_TEXT = ("lora_te", "text_encoder", "clip_l.", "clip_g.", "base_model.model.text", "text_model.", "te1.", "te2.")
AS_WORDS = "bundled as words"
"""What `Read.left_out` calls rows of words, which are read as words."""

_PARTS = (
    re.compile(r"(.+)\.(lora_A|lora_B|lora_down|lora_up)(?:\.[\w-]+)?\.weight"),
    re.compile(r"(.+?)(?:\.lora_linear_layer|\.lora|_lora)\.(down|up)\.weight"),
    re.compile(r"(.+?)(?:\.lora_linear_layer|\.lora|_lora)?\.(alpha)"),
)
_PART = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up", "down": "down", "up": "up"}
_OTHER_KINDS = {
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "lora_mid": "a LoRA with Tucker-decomposed convolutions",
    "oft_": "an OFT",
    "lora_embedding": "a LoRA of an embedding table",
}


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """What is added to one linear layer or convolution: alpha / rank × up · down.

    Attributes:
        down: `[rank, in]`, or `[rank, in, h, w]` for a convolution; float32 on the CPU.
        up: `[out, rank]`, or `[out, rank, 1, 1]`.
        alpha: its strength, in units of 1 / rank.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What up · down is multiplied by."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class Read:
    """What a file's tensors come to.

    Attributes:
        layers: name of a UNet's module, as the file has it → layer.
        left_out: what else there is, in words → how many of it.
    """

    layers: dict[str, LoraLayer]
    left_out: dict[str, int]


def to_tensors(layers: Mapping[str, LoraLayer]) -> dict[str, Tensor]:
    """Lay layers out as diffusers does: the name of the module in the UNet, no alpha among the tensors."""
    tensors = {}
    for name, layer in layers.items():
        tensors[f"unet.{name}.lora_A.weight"] = layer.down
        tensors[f"unet.{name}.lora_B.weight"] = layer.up
    return tensors


def narrowed(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], torch.dtype]:
    """Tensors in float16 if that loses nothing, else in float32; and which it is."""
    exact = all(torch.equal(value.half().float(), value.float()) for value in tensors.values())
    dtype = torch.float16 if exact else torch.float32
    return {key: value.to(dtype).contiguous() for key, value in tensors.items()}, dtype


def adapter_metadata(layers: Mapping[str, LoraLayer]) -> str:
    """Rank and alpha of every layer as diffusers and peft read them from the header."""
    ranks, alphas = ({n: getattr(layer, key) for n, layer in layers.items()} for key in ("rank", "alpha"))
    rank, alpha = (max(set(found.values()), key=lambda one: [*found.values()].count(one)) for found in (ranks, alphas))
    config: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(layers),
        "rank_pattern": {f"^{name}": own for name, own in sorted(ranks.items()) if own != rank},
        "alpha_pattern": {f"^{name}": own for name, own in sorted(alphas.items()) if own != alpha},
    }
    return json.dumps({f"unet.{key}": value for key, value in config.items()}, sort_keys=True)


def from_tensors(file: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Read:
    """Find the layers of a UNet in a file's tensors.

    Args:
        file: its name, for messages.
        tensors: as `sentinv.files.tensors.read_tensors` gives them.
        header: its texts, where rank and alpha may be.

    Raises:
        ConceptError: If there are none, or something of them makes no sense.
    """
    found: dict[str, dict[str, Tensor]] = {}
    left_out: dict[str, int] = {}
    for key, tensor in tensors.items():
        _refuse_other_kinds(file, key)
        module, part = _parted(file, key)
        if part == BUNDLED or module.startswith(_TEXT):
            what = AS_WORDS if part == BUNDLED else "of the text encoder"
            left_out[what] = left_out.get(what, 0) + (part in (BUNDLED, "down"))
        else:
            found.setdefault(_module(module), {})[part] = tensor
    if not found:
        others = ", ".join(f"{count} {what}" for what, count in left_out.items()) or "none"
        raise ConceptError(f"{file}: expected layers of a UNet, got {others}; is it a LoRA for this kind of model?")
    alphas = _alphas(file, header)
    layers = {name: _layer(file, name, parts, alphas) for name, parts in sorted(found.items())}
    return Read(layers, dict(sorted(left_out.items())))


def _refuse_other_kinds(file: str, key: str) -> None:
    if key.endswith((".diff", ".diff_b")):
        raise ConceptError(f"{file} has whole differences of weights, which is not supported; expected a plain LoRA")
    for mark, kind in _OTHER_KINDS.items():
        if mark in key:
            raise ConceptError(f"{file} is {kind}, which is not supported; expected a plain LoRA")


def _parted(file: str, key: str) -> tuple[str, str]:
    """The name of a module, and which of its tensors a key is of."""
    if key.startswith(BUNDLED):
        return key, BUNDLED
    for pattern in _PARTS:
        if match := pattern.fullmatch(key):
            return match[1], _PART.get(match[2], match[2])
    raise ConceptError(f"{file}: expected the tensors of a LoRA, got {shown(key[:60])!r}; is it one?")


def _module(name: str) -> str:
    """The module's name, without what says that it is of the UNet, and as it is called since there are no processors."""
    bare = next((name.removeprefix(prefix) for prefix in _UNET if name.startswith(prefix)), name)
    bare = bare.replace(".processor.", ".").replace("_processor_", "_")
    return re.sub(r"([._])to_out$", r"\1to_out\g<1>0", bare)


def _alphas(file: str, header: Mapping[str, str]) -> Any:
    """From a module's name and rank to the alpha that the header says; 0 if it says nothing."""
    try:
        told = json.loads(header.get(ADAPTER_METADATA, "{}"))
        config = {key.removeprefix("unet."): value for key, value in told.items()}
        usual, rooted = float(config.get("lora_alpha") or 0), bool(config.get("use_rslora"))
        own = config.get("alpha_pattern", {}).items()
        endings = {_plain(key): float(value) for key, value in own}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConceptError(f"{file}: its header's {ADAPTER_METADATA} makes no sense; get it again") from error

    def alpha(name: str, rank: int) -> float:
        found = next((value for ending, value in endings.items() if f".{name}".endswith(f".{ending}")), usual)
        return found * rank**0.5 if rooted else found

    return alpha


def _plain(pattern: str) -> str:
    """The end of a module's name that a pattern of peft's stands for.

    They are regular expressions, and could take for ever; files have names in them, and nothing else is taken.

    Raises:
        ValueError: If it is none.
    """
    name = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"[\w.]+", name):
        raise ValueError("a pattern that is no name")
    return name


def _layer(file: str, name: str, parts: Mapping[str, Tensor], alphas: Any) -> LoraLayer:
    """Make a layer of its tensors.

    Raises:
        ConceptError: If one is missing, or they do not fit each other.
    """
    short = shown(name[:80])
    if "down" not in parts or "up" not in parts:
        raise ConceptError(f"{file}: {short} lacks one of its two matrices; get the file again")
    down, up = (parts[key].detach().to("cpu", torch.float32).contiguous() for key in ("down", "up"))
    if (
        down.ndim not in (2, 4)
        or up.ndim not in (2, 4)
        or 0 in (*down.shape, *up.shape)
        or down.shape[0] != up.shape[1]
    ):
        shapes = f"{list(down.shape)} and {list(up.shape)}"
        raise ConceptError(
            f"{file}: expected matrices [rank, in] and [out, rank] for {short}, got {shapes}; is it a LoRA?"
        )
    rank = down.shape[0]
    if rank > MAX_RANK:
        raise ConceptError(
            f"{file}: expected a rank of at most {MAX_RANK}, got {rank} in {short}; it is no LoRA of use"
        )
    alpha = parts["alpha"].reshape(-1) if "alpha" in parts else None
    if alpha is not None and len(alpha) != 1:
        raise ConceptError(f"{file}: expected one number as alpha of {short}, got {len(alpha)}; get the file again")
    own = alpha.item() if alpha is not None else alphas(name, rank) or rank
    if not 0 < abs(own) < float("inf"):
        raise ConceptError(
            f"{file}: the alpha of {short} is {own:g}, with which it does nothing: the file is of no use"
        )
    return LoraLayer(down, up, own)
