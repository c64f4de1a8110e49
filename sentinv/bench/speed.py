"""What a training step costs, here and in other trainers' scripts: seconds, memory, FLOPs; the same weights, in pairs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from sentinv.bench.peers import last_line, peer_program
from sentinv.bench.step_meter import OURS
from sentinv.errors import Interrupted, SentinvError
from sentinv.report.tables import Table

_HEADER = (
    *("trainer", "s/step [min, max]", "images/s", "peak MiB"),
    *("GFLOP/step", "of the floor", "our time", "our memory"),
)


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """What is measured.

    Attributes:
        model: a diffusers folder: peers read it too.
        images: pictures to train on.
        resolution: side of the training images in pixels.
        batch_size: of each step.
        steps: timed steps per run.
        warmup: steps before them.
        repeats: paired runs of each trainer.
        dtype: of the frozen weights: "float32", "float16", "bfloat16".
        device: "cpu" or "cuda".
        threads: of torch, on the CPU.
        timeout: seconds that one run may take.
    """

    model: Path
    images: tuple[Path, ...]
    resolution: int
    batch_size: int = 4
    steps: int = 10
    warmup: int = 2
    repeats: int = 3
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    timeout: float = 3600.0


@dataclass
class Timed:
    """A trainer's measured runs.

    Attributes:
        name: what the table calls it.
        runs: results of the harness.
        failure: why it did not run; "" if it did.
    """

    name: str
    runs: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""

    @property
    def seconds(self) -> float | None:
        """Median over runs of the median step."""
        return median(run["seconds"] for run in self.runs) if self.runs else None


def measure_speed(config: SpeedConfig, peers: Sequence[str], tell: Callable[[str], None] | None = None) -> list[Timed]:
    """Measure our trainer and peers, alternating, each run in a process of its own.

    Args:
        config: what is measured.
        peers: scripts: a path, or a path with options in which {model}, {folder}, {resolution}, {batch_size}, {steps}
            and {output} are filled in.
        tell: called with a line for each run.

    Returns:
        Ours first. A peer that does not run says why.
    """
    tell = tell or (lambda _: None)
    trainers = [Timed("sentinv"), *(Timed(Path(shlex.split(peer)[0]).name) for peer in peers)]
    programs = [None, *peers]
    for repeat in range(config.repeats):
        order = list(zip(trainers, programs, strict=True))
        for trainer, program in order if repeat % 2 == 0 else reversed(order):
            if trainer.failure:
                continue
            try:
                trainer.runs.append(_run(config, program))
                tell(
                    f"{trainer.name}, run {repeat + 1} of {config.repeats}: {trainer.runs[-1]['seconds']:.4g} s per step"
                )
            except Interrupted:
                raise
            except SentinvError as error:
                trainer.failure = str(error)
                tell(f"{trainer.name}: FAILED: {error}")
    return trainers


def speed_table(trainers: Sequence[Timed], config: SpeedConfig) -> Table:
    """Seconds, memory and FLOPs per step, and what they are of ours."""
    ours = trainers[0]
    floor = ours.runs[0]["floor"] if ours.runs else None
    rows = []
    for trainer in trainers:
        if trainer.failure or not trainer.runs:
            rows.append([trainer.name, f"failed: {trainer.failure}", *[""] * 6])
            continue
        seconds = [run["seconds"] for run in trainer.runs]
        middle, flops = median(seconds), trainer.runs[0]["flops"]
        peaks = [run["peak"] for run in trainer.runs if run["peak"]]
        pairs = [mine["seconds"] / run["seconds"] for mine, run in zip(ours.runs, trainer.runs, strict=False)]
        rows.append(
            [
                trainer.name,
                f"{middle:.4g} [{min(seconds):.4g}, {max(seconds):.4g}]",
                f"{config.batch_size / middle:.3g}",
                f"{median(peaks) / 2**20:.0f}" if peaks else "-",
                f"{flops / 1e9:.4g}",
                f"{flops / floor:.3f}" if floor else "-",
                f"{median(pairs):.3f}" if pairs else "-",
                _memory_share(ours, trainer),
            ]
        )
    note = (
        f"Batch {config.batch_size}, {config.resolution} pixels, {config.dtype}, {config.device}, {config.threads} threads; "
        f"median of {config.repeats} alternating runs of the median of {config.steps} steps after {config.warmup + 1}. FLOPs "
        "of one step by torch's counter. The floor: UNet forward and backward to the text's hidden states, text encoder "
        "forward and backward to the rows. Our time and memory: median ratio of ours to theirs. Peak during the timed steps, "
        "weights included."
    )
    return Table("Cost of a training step", _HEADER, rows, note)


def _memory_share(ours: Timed, trainer: Timed) -> str:
    pairs = [
        mine["peak"] / run["peak"]
        for mine, run in zip(ours.runs, trainer.runs, strict=False)
        if mine["peak"] and run["peak"]
    ]
    return f"{median(pairs):.3f}" if pairs else "-"


def _run(config: SpeedConfig, peer: str | None) -> dict[str, Any]:
    """One run in a child process.

    Raises:
        SentinvError: If it fails, saying in one line why.
    """
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        windows = [size for size in range(1, 11) if config.steps % size == 0]
        window = 1 if config.device == "cpu" else windows[-1]
        meter = json.dumps({"steps": config.steps, "warmup": config.warmup, "window": window})
        program = _our_program(config) if peer is None else _peer_program(config, peer, Path(scratch))
        command = [sys.executable, "-m", "sentinv.bench.step_meter", str(result), meter, *program]
        threads = str(config.threads)
        hidden = {} if config.device != "cpu" else {"CUDA_VISIBLE_DEVICES": ""}
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **hidden}
        try:
            ended = subprocess.run(  # noqa: S603 - the user named the script to run
                command, env=environment, capture_output=True, text=True, timeout=config.timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise SentinvError(f"it took longer than {config.timeout:g} s") from error
        if ended.returncode or not result.is_file():
            raise SentinvError(last_line(ended.stderr) or f"it ended with exit code {ended.returncode}")
        found = json.loads(result.read_text(encoding="utf-8"))
    if found["seconds"] is None:
        raise SentinvError(
            f"it made {found['steps']} optimizer steps, {config.steps + config.warmup + 1} were to be measured"
        )
    return found


def _our_program(config: SpeedConfig) -> list[str]:
    settings = {
        "model": str(config.model),
        "images": [str(path) for path in config.images],
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "device": config.device,
    }
    return [OURS, json.dumps(settings)]


def _peer_program(config: SpeedConfig, peer: str, scratch: Path) -> list[str]:
    values = {
        "model": config.model,
        "resolution": config.resolution,
        "batch_size": config.batch_size,
        "steps": config.steps + config.warmup + 2,
        "seed": 0,
    }
    program = peer_program(peer, scratch, config.images, values)
    if config.dtype != "float32" and len(shlex.split(peer)) == 1:
        program += ["--mixed_precision", {"float16": "fp16", "bfloat16": "bf16"}[config.dtype]]
    return program
