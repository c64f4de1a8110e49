"""Measures the training steps of any program that uses a torch optimizer, in a process of its own.

    python -m sentinv.bench.step_meter result.json '{"steps": 8, "warmup": 2, "window": 1}' script.py --its options

A hook that torch calls after each optimizer step takes the time, resets and reads peak memory, and lets one step run under
torch's FLOP counter. When enough steps are seen the program is ended. In the place of a script, ``ours`` trains with this
package; the next argument is then a JSON object with model, images, batch_size, dtype and device.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode

from sentinv.concepts.tokens import tokenize
from sentinv.files.atomic import atomic_write

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone

OURS = "ours"


class _Enough(SystemExit):
    """All steps that were wanted are seen."""


class Meter:
    """Watches optimizer steps: some to warm up, then one whose FLOPs are counted, then those that are timed.

    Args:
        steps: timed steps, ≥ 1.
        warmup: steps before, ≥ 1.
        window: steps timed together, so that an accelerator need not be waited for after each.
    """

    def __init__(self, steps: int, warmup: int, window: int) -> None:
        self.steps, self.warmup, self.window = steps, warmup, window
        self.seen = 0
        self.flops = 0
        self.seconds: list[float] = []
        self._counter: FlopCounterMode | None = None
        self._begun = 0.0

    def after_step(self, *_: Any) -> None:
        """Called by torch after each optimizer step."""
        self.seen += 1
        if self.seen == self.warmup:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()
        elif self.seen == self.warmup + 1 and self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.flops = self._counter.get_total_flops()
            _reset_peak()
            self._begun = _now()
        elif self.seen > self.warmup + 1 and (self.seen - self.warmup - 1) % self.window == 0:
            now = _now()
            self.seconds.append((now - self._begun) / self.window)
            self._begun = now
        if self.seen >= self.warmup + 1 + self.steps:
            raise _Enough(0)

    def result(self) -> dict[str, Any]:
        """What was measured, as JSON can say it."""
        seconds = median(self.seconds) if self.seconds else None
        return {
            "steps": self.seen,
            "seconds": seconds,
            "all_seconds": self.seconds,
            "flops": self.flops,
            "peak": _peak(),
        }


def floor_flops(backbone: Backbone, batch_size: int) -> int:
    """FLOPs that no trainer of rows can do without.

    UNet forward, its backward to the text's hidden states, text encoder forward, its backward to the token embeddings: all
    activations, no weight gradients, no VAE.
    """
    from sentinv.concepts.placeholder import PlaceholderRows

    side = backbone.latent_side
    latents = torch.zeros(batch_size, backbone.unet.config.in_channels, side, side, device=backbone.device)
    timesteps = torch.zeros(batch_size, dtype=torch.int64, device=backbone.device)
    rows = PlaceholderRows({"<concept>": {part.name: torch.zeros(1, part.dim) for part in backbone.text_encoders}})
    with rows.installed(backbone), FlopCounterMode(display=False) as counter:
        condition = backbone.encode_ids(tokenize(backbone, ["a photo of <concept>"] * batch_size, rows))
        backbone.predict(latents, timesteps, condition).sum().backward()
    return counter.get_total_flops()


def _ours(settings: dict[str, Any], meter: Meter) -> dict[str, Any]:
    """Train with this package; returns the counted floor."""
    from sentinv.concepts.initialization import Initialization
    from sentinv.files.images import read_image
    from sentinv.models.loading import load
    from sentinv.training.config import TrainConfig
    from sentinv.training.train import train_concept

    backbone = load(settings["model"], device=settings["device"], dtype=getattr(torch, settings["dtype"]))
    pictures = [read_image(path) for path in settings["images"]]
    steps = meter.warmup + 2 + meter.steps  # and no evaluation among them: peers have none
    config = TrainConfig(steps=steps, evaluate_every=steps, batch_size=settings["batch_size"], blended=0)
    try:
        train_concept(backbone, pictures, Initialization("*", "vanilla"), config)
    except _Enough:
        result = meter.result()
    else:
        result = meter.result()
    meter.steps = sys.maxsize  # the floor below has no optimizer; nothing else is to be watched
    return {**result, "floor": floor_flops(backbone, settings["batch_size"])}


def _theirs(script: str, arguments: list[str], meter: Meter) -> dict[str, Any]:
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    try:
        runpy.run_path(script, run_name="__main__")
    except _Enough:
        return meter.result()
    except SystemExit as ended:
        if ended.code:
            raise
    return meter.result()


def main() -> None:
    """Run what the command line names under the meter, and write the result."""
    target, options, program, *arguments = sys.argv[1:]
    meter = Meter(**json.loads(options))
    register_optimizer_step_post_hook(meter.after_step)
    result = _ours(json.loads(arguments[0]), meter) if program == OURS else _theirs(program, arguments, meter)
    atomic_write(target, json.dumps(result).encode(), overwrite=True)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5", encoding="ascii")  # makes VmHWM start anew; see proc(5)


def _peak() -> int | None:
    """Bytes at the highest, since the reset: of CUDA's allocator, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


if __name__ == "__main__":
    main()
