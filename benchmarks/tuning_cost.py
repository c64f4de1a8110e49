"""What a step of a LoRA costs, against a step of a word alone.

python benchmarks/tuning_cost.py [--steps 5]

Of a network in the shape of Stable Diffusion 1.5, on torch's "meta" device: bytes that are kept for the backward pass, and
floating-point operations. Of the built-in model: CPU time of steps, both kinds in turn, in one process; and the peak of a
process for each kind, all included.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import sentinv
from sentinv.bench.sd15 import models
from sentinv.concepts.initialization import Initialization
from sentinv.files.images import read_image
from sentinv.training.config import TrainConfig, TuneConfig
from sentinv.training.memory import adapt, step_peak

PEAK = """
import resource, sys
import sentinv
from sentinv.files.images import read_image
backbone, picture = sentinv.load("toybox"), read_image(sys.argv[2])
word = sentinv.invert(backbone, picture, "a snail", sentinv.TrainConfig(steps=3 if sys.argv[1] == "word" else 0))
if sys.argv[1] == "LoRA":
    sentinv.tune(backbone, word, picture, sentinv.TuneConfig(steps=3))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""
PICTURE = Path(__file__).resolve().parent / "concepts" / "snail" / "image.png"


def shaped() -> None:
    """Memory and operations of Stable Diffusion 1.5, in half precision."""
    with torch.device("meta"):
        unet, vae, text = (one.half().requires_grad_(False).eval() for one in models())
    weights = sum(weight.nbytes for part in (unet, vae, text) for weight in part.parameters())
    word, tuned = TrainConfig(), TuneConfig()
    kept = {"word": step_peak(unet, [text], word.items)}
    flops = {"word": operations(unet, word.items) + text_operations(text, word.items)}
    adapt(unet, tuned)
    part = -(-tuned.items // tuned.parts(64))
    kept["LoRA"] = step_peak(unet, [text], part, rows=False)
    kept["LoRA, in one part"] = step_peak(unet, [text], tuned.items, rows=False)
    asked = tuned.blended + 2 * tuned.others
    flops["LoRA"] = operations(unet, tuned.items) + asked * operations(unet, 1, backward=False)
    for name, count in kept.items():
        total = (weights + count) / (weights + kept["word"])
        print(f"Stable Diffusion 1.5, {name}: {count / 1e9:.2f} GB kept, peak with weights {total:.2f} of the word's")
    print(f"Stable Diffusion 1.5: operations of a step {flops['LoRA'] / flops['word']:.2f} of the word's")


def operations(unet: Any, count: int, *, backward: bool = True) -> int:
    """Of a step of so many items."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        hidden = torch.empty(count, 77, 768, dtype=unet.dtype, requires_grad=backward)
        latents = torch.empty(count, 4, 64, 64, dtype=unet.dtype)
        answer = unet(latents, torch.empty(count, dtype=torch.int64), hidden).sample
        if backward:
            answer.sum().backward()
    return counter.get_total_flops()


def text_operations(text: Any, count: int) -> int:
    """Of the text encoder, which a word alone goes through in both directions."""
    handle = text.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        text(torch.empty(count, 77, dtype=torch.int64)).last_hidden_state.sum().backward()
    handle.remove()
    return counter.get_total_flops()


def timed(steps: int) -> None:
    """CPU time of a step of the built-in model; the first one of each run is left out, and no evaluation is in it."""
    backbone = sentinv.load("toybox")
    picture = read_image(PICTURE)
    none = {"evaluate_every": 10**6, "evaluation_timesteps": 1, "evaluation_noises": 1}
    start, _ = sentinv.train_concept(backbone, [picture], Initialization("a snail"), TrainConfig(steps=0))
    kinds: dict[str, Callable[[Any], Any]] = {
        "word": lambda note: sentinv.train_concept(
            backbone, [picture], Initialization("a snail"), TrainConfig(steps=steps + 1, **none), on_step=note
        ),
        "LoRA": lambda note: sentinv.tune(backbone, start, picture, TuneConfig(steps=steps + 1, **none), on_step=note),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(2):
        for name, run in kinds.items():
            moments: list[float] = []
            run(lambda record, moments=moments: moments.append(time.process_time()))
            seconds[name] += [after - before for before, after in pairwise(moments[:-1])]
    ratio = median(seconds["LoRA"]) / median(seconds["word"])
    size = len(sentinv.tune(backbone, start, picture, TuneConfig(steps=0)).lora.to_bytes())
    print(
        f"built-in model: a step {ratio:.2f} of the word's, medians of {len(seconds['word'])} steps; file {size / 1e6:.2f} MB"
    )


def peaks() -> None:
    """Peak memory of a process that learns with the built-in model."""
    command = [sys.executable, "-c", PEAK]
    found = {
        kind: float(subprocess.run([*command, kind, str(PICTURE)], check=True, capture_output=True).stdout)
        for kind in ("word", "LoRA")
    }
    ratio = found["LoRA"] / found["word"]
    print(f"built-in model: peak of a process {found['LoRA']:.0f} MB, {ratio:.2f} of a word's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    shaped()
    timed(given.steps)
    peaks()


if __name__ == "__main__":
    main()
