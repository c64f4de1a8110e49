"""Is what `--plan` says of memory what a run takes at its highest?

    python benchmarks/memory.py FOLDER --dtype float32 --batch-size 1 --side 256

Learns one step on a picture of noise and draws two images of the report in one step of sampling, in a process of its own;
what that takes at its highest, less what a process takes that only imports, is held against the plan. FOLDER is a model in
the layout of diffusers; `sentinv bench speed --full-size` writes one of Stable Diffusion 1.5's shape. On a GPU the peak is that
of torch's allocator.

A processor without bfloat16 takes hours for a step in it. With --without-arithmetic convolutions, products and attention answer
zeros that are written to memory: all tensors are there for as long as they are, and only what these operations take for
themselves is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

IMPORTS = (
    "import torch, transformers, diffusers; from diffusers import AutoencoderKL, UNet2DConditionModel, DDIMScheduler; "
)
IMPORTS += "from transformers import CLIPTextModel; import peft, sentinv.training.train, sentinv.training.samples"


def resized(folder: Path, scratch: Path, side: int) -> Path:
    """The same model, made for another side in pixels: its files by links, its config anew."""
    target = scratch / "model"
    for part in folder.iterdir():
        if part.name != "unet":
            target.mkdir(exist_ok=True)
            (target / part.name).symlink_to(part.resolve())
    (target / "unet").mkdir()
    for file in (folder / "unet").iterdir():
        (target / "unet" / file.name).symlink_to(file.resolve())
    config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    vae = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
    (target / "unet" / "config.json").unlink()
    config["sample_size"] = side // 2 ** (len(vae["block_out_channels"]) - 1)
    (target / "unet" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


def run(options: argparse.Namespace) -> None:
    """Load, learn a step, draw; print the peak on an accelerator, or 0."""
    import torch
    from PIL import Image

    from sentinv import load
    from sentinv.concepts.initialization import Initialization
    from sentinv.generation.generate import generate_beside
    from sentinv.training.config import TrainConfig
    from sentinv.training.samples import SAMPLING
    from sentinv.training.train import train_concept

    backbone = load(options.folder, dtype=getattr(torch, options.dtype), device=options.device)
    picture = Image.effect_noise((backbone.resolution,) * 2, 80).convert("RGB")
    config = TrainConfig(
        steps=1,
        batch_size=options.batch_size,
        evaluation_timesteps=1,
        evaluation_noises=1,
        gradient_checkpointing=options.gradient_checkpointing,
    )
    with no_arithmetic() if options.without_arithmetic else nullcontext():
        concept, _ = train_concept(backbone, [picture], Initialization("a cat"), config)
        if options.images:
            once = replace(SAMPLING, steps=1, batch_size=options.images)
            generate_beside(backbone, "a <concept>", (concept, concept), count=options.images, config=once)
    print(torch.cuda.max_memory_allocated() if options.device == "cuda" else 0)


def no_arithmetic():
    """A mode in which the large operations make their tensors and do not compute."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map_only

    names = ("convolution", "addmm", "baddbmm", "bmm", "mm", "matmul", "linear", "scaled_dot_product")

    def empty(tensor):
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    def zeros(tensor):
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).zero_()

    class NoArithmetic(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if not any(name in func.name() for name in names):
                return func(*args, **(kwargs or {}))
            shapes = func(*tree_map_only(torch.Tensor, empty, args), **tree_map_only(torch.Tensor, empty, kwargs or {}))
            return tree_map_only(torch.Tensor, zeros, shapes)

    return NoArithmetic()


def highest(command: list[str]) -> tuple[int, int]:
    """Bytes that a process takes at its highest, and what it printed last."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    output, _ = process.communicate() if process.stdout is None else (process.stdout.read(), None)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the run ended with status {status}: {output}")
    return usage.ru_maxrss * 1024, int(output.split()[-1]) if output.split() else 0


def main() -> None:
    """Measure, and print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--side", type=int, help="in pixels, if not the model's own")
    parser.add_argument("--images", type=int, default=2, help="of the report, at a time; 0 for none")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--without-arithmetic", action="store_true")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options)
        return
    from sentinv.models.names import Place
    from sentinv.training.config import TrainConfig
    from sentinv.training.memory import training_memory

    with tempfile.TemporaryDirectory() as scratch:
        folder = resized(options.folder, Path(scratch), options.side) if options.side else options.folder
        config = TrainConfig(batch_size=options.batch_size, gradient_checkpointing=options.gradient_checkpointing)
        plan = training_memory(
            Place(model=str(folder), dtype=options.dtype, device=options.device), config, images=options.images > 0
        )
        own = [sys.argv[0], str(folder), "--run", *(word for word in sys.argv[1:] if word != str(options.folder))]
        taken, on_device = highest([sys.executable, *own])
    if options.device == "cpu":
        bare, _ = highest([sys.executable, "-c", IMPORTS])
        on_device = taken - bare
    assert plan is not None
    megabytes = {name: round(count / 1e6) for name, count in plan.items()}
    print(
        json.dumps(
            {"plan": megabytes, "measured": round(on_device / 1e6), "ratio": round(plan["total"] / on_device, 3)}
        )
    )


if __name__ == "__main__":
    main()
