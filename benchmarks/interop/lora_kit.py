"""What the readers of LoRAs share: the cases, the modules of the real UNets, and the judgement."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import kit
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sentinv.adapters.bases import bare_unet
from sentinv.concepts.layouts import ENCODER_KEYS

__all__ = [
    "BUNDLED",
    "ENCODER_KEYS",
    "Case",
    "Tree",
    "diffusers_names",
    "empty_unet",
    "main",
    "original_modules",
    "original_names",
]

BUNDLED = "word:"


@dataclass(frozen=True)
class Case:
    """A file, and what a program should make of it.

    Attributes:
        base: "sd1", "sd2", "sdxl".
        file: the LoRA.
        alpha: of every layer.
        word: what a bundled word is called in the file; "" where there is none.
        wanted: "<module of diffusers' UNet>.down" and ".up" → matrix; text encoder → rows of a bundled word.
    """

    base: str
    file: Path
    alpha: float
    word: str
    wanted: dict[str, Tensor]


Reader = Callable[[Case], Iterator[tuple[str, Tensor]]]
"""Reads a LoRA by the program's own code: module of diffusers' UNet → what is added to its weight, one after another; and
"word:<text encoder>" → the rows of a bundled word."""

DEPTHS = {
    "sd1": ([1, 1, 2, 4], [1, 1, 1, 1, 1, 1, 0, 0], [1] * 9 + [0] * 3, 1),
    "sd2": ([1, 1, 2, 4], [1, 1, 1, 1, 1, 1, 0, 0], [1] * 9 + [0] * 3, 1),
    "sdxl": ([1, 2, 4], [0, 0, 2, 2, 10, 10], [0, 0, 0, 2, 2, 2, 10, 10, 10], 10),
}
"""Base → channel_mult and depths of transformers on the way down, on the way up, and in the middle, as ComfyUI finds them."""


def unet_config(base: str) -> dict[str, Any]:
    """Of the original UNet, as ComfyUI tells it from a checkpoint."""
    multiples, down, up, middle = DEPTHS[base]
    return {
        "num_res_blocks": [2] * len(multiples),
        "channel_mult": multiples,
        "transformer_depth": list(down),
        "transformer_depth_output": list(up),
        "transformer_depth_middle": middle,
    }


def empty_unet(base: str) -> nn.Module:
    """A UNet with modules that layers can be put on, in memory that nobody has written to."""
    with torch.device("meta"):
        unet = type(bare_unet(base)).from_config(bare_unet(base).config)
    return unet.to(torch.float16).to_empty(device="cpu")


@cache
def original_names(base: str) -> dict[str, str]:
    """diffusers' name of a module → the original's, by ComfyUI's table."""
    path = Path(os.environ["COMFYUI"]) / "comfy" / "utils.py"
    names: dict[str, Any] = {}
    for constant in ("UNET_MAP_ATTENTIONS", "TRANSFORMER_BLOCKS", "UNET_MAP_RESNET", "UNET_MAP_BASIC"):
        kit.run_part(kit.assigned(path, constant), names)
    table = kit.run_part(kit.part(path, "unet_to_diffusers"), names)["unet_to_diffusers"](unet_config(base))
    modules = dict(bare_unet(base).named_modules())
    found = {key.removesuffix(".weight"): value.removesuffix(".weight") for key, value in table.items()}
    return {name: original for name, original in found.items() if name in modules}


def original_modules(base: str) -> dict[str, nn.Module]:
    """The original's name → module of the right kind and shape, without values."""
    modules = dict(bare_unet(base).named_modules())
    return {original: modules[name] for name, original in original_names(base).items()}


def diffusers_names(base: str) -> dict[str, str]:
    """The original's name → diffusers'."""
    return {original: name for name, original in original_names(base).items()}


class Tree(nn.Module):
    """A module whose parts have given names."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            *way, last = name.split(".")
            place: nn.Module = self
            for step in way:
                if step not in place._modules:
                    place.add_module(step, Tree({}))
                place = place._modules[step]  # type: ignore[assignment]
            place.add_module(last, module)


def main(read: Reader) -> None:
    """Read every case of the file that is named first on the command line, and print what became of each."""
    answers = []
    with redirect_stdout(sys.stderr), torch.no_grad():
        for case in json.loads(Path(sys.argv[1]).read_text()):
            wanted = load_file(case.pop("wanted"))
            answers.append(judge(read, Case(file=Path(case.pop("file")), wanted=wanted, **case)))
    print(json.dumps(answers))


def judge(read: Reader, case: Case) -> str:
    """Say "ok" if exactly the layers of the file are there, each in its place, and each adds alpha / rank · up · down."""
    layers = {key.removesuffix(".down") for key in case.wanted if key.endswith(".down")}
    words = {key for key in case.wanted if key.startswith(BUNDLED)}
    seen = set()
    try:
        for name, got in read(case):
            if name not in layers | words:
                return f"wrong: something at {name}"
            if name in words:
                right = torch.equal(got.float().cpu(), case.wanted[name])
            else:
                down, up = case.wanted[f"{name}.down"], case.wanted[f"{name}.up"]
                expected = case.alpha / len(down) * (up.flatten(1) @ down.flatten(1)).flatten()
                right = torch.allclose(got.float().cpu().flatten(), expected, rtol=1e-4, atol=1e-5)
            if not right:
                return f"wrong: another {'row' if name in words else 'product'} at {name}"
            seen.add(name)
    except Exception as error:
        if os.environ.get("SHOW"):
            traceback.print_exc()
        return f"refused: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    missing = (layers | words) - seen
    return f"wrong: {len(missing)} of {len(layers | words)} not found, such as {min(missing)}" if missing else "ok"
