"""The one training loop of every part: data-parallel, resumable to the step, with a log that a person can read.

Run a part with `python -m toybox.<part>`, or on several cores or devices with
`torchrun --nproc-per-node N -m toybox.<part>`: each process draws its own share of a step's batch. Two processes of
one thread are faster on two cores than one of two, and slow down gracefully when something else computes.

`TOYBOX_MINUTES` ends a run after so long, with a checkpoint: where a device is lent for minutes (see `pieces`).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

RUNS = Path(__file__).resolve().parent.parent / "runs" / "toybox"
"""Where checkpoints and logs go: ignored by git."""

Loss = Callable[[int, torch.Generator], tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""(step, generator of this process) → loss to minimise and what else to log."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a part is trained."""

    steps: int
    """Steps in all."""
    batch: int
    """Pictures a step, over all processes."""
    lr: float
    """Highest learning rate of AdamW: vectors and embeddings."""
    matrix_lr: float
    """Highest learning rate of Muon: matrices and kernels."""
    warmup: int = 200
    """Steps of linear warm-up."""
    decay_from: float = 0.5
    """Share of the steps after which the rate falls linearly to a hundredth."""
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    """Highest norm of the gradient."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is what is kept at the end."""
    seed: int = 1

    save_every: int = 200
    """Steps between checkpoints."""
    gpu_batch: int = 0
    """Pictures a step on a GPU, which takes as many steps less; 0: as elsewhere."""

    def on(self, device: str) -> Plan:
        """The plan for a device: the same number of pictures, on a GPU in fewer and larger steps."""
        if not device.startswith("cuda") or not self.gpu_batch:
            return self
        share = self.gpu_batch / self.batch
        steps, warmup = math.ceil(self.steps / share), min(self.warmup, math.ceil(self.steps / share / 10))
        return replace(self, batch=self.gpu_batch, steps=steps, warmup=warmup)

    def rate(self, step: int) -> float:
        """Share of the learning rates that holds at a step."""
        start = self.decay_from * self.steps
        fall = 1.0 if step < start else 1 - 0.99 * (step - start) / max(1, self.steps - start)
        return min(1.0, (step + 1) / self.warmup) * fall


@dataclass
class Workers:
    """This process among those that share the work."""

    rank: int
    count: int
    device: str

    @property
    def first(self) -> bool:
        return self.rank == 0


def workers() -> Workers:
    """Join the other processes if `torchrun` started several, and choose the device."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    gpu = torch.cuda.is_available()
    rank = int(os.environ.get("RANK", "0"))
    if count > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if gpu else "gloo")
    if count > 1 and not gpu:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    return Workers(rank, count, f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if gpu else "cpu")


def autocast(device: str) -> torch.autocast:
    """bfloat16 where the processor computes in it, else float32."""
    native = device.startswith("cuda") or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=native)


def use_fast_attention(model: PreTrainedModel, device: str) -> None:
    """On a CPU the backward pass of fused attention takes twice the time of plain attention's."""
    if device == "cpu":
        model.set_attn_implementation("eager")


def generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """Random numbers that depend only on the run's seed, the step and the process."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 64 + rank)


class Weights:
    """The trained parameters of several modules with their optimizers and their moving average.

    Matrices and kernels (as matrices) are stepped by Muon, each by one process, which then hands it to the others;
    vectors and embeddings by AdamW. Values and gradients lie in one buffer each, so that sharing is one call.
    """

    def __init__(self, modules: dict[str, nn.Module], plan: Plan, me: Workers):
        self.plan, self.me = plan, me
        named = [
            (f"{name}.{key}", parameter)
            for name, module in modules.items()
            for key, parameter in module.named_parameters()
            if parameter.requires_grad
        ]
        matrices = [(key, p) for key, p in named if p.ndim > 1 and "embedding" not in key]
        others = [(key, p) for key, p in named if p.ndim < 2 or "embedding" in key]
        self.keys = [key for key, _ in matrices + others]
        self.values = [p for _, p in matrices + others]
        self.value, self.gradient = self._gather("data"), self._gather("grad")
        self.average = self.value.clone()
        self.matrix_size = sum(p.numel() for _, p in matrices)
        flat = [nn.Parameter(p.data.flatten(1)) for _, p in matrices]
        for (_, p), matrix in zip(matrices, flat, strict=True):
            matrix.grad = p.grad.flatten(1)
        self.mine = list(range(me.rank, len(flat), me.count))
        self.flat = flat
        self.adamw = torch.optim.AdamW(
            [p for _, p in others], lr=plan.lr, betas=plan.betas, weight_decay=0.0, fused=True
        )
        owned = [flat[i] for i in self.mine] or [nn.Parameter(torch.zeros(1, 1, device=me.device))]
        self.muon = torch.optim.Muon(owned, lr=plan.matrix_lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    def _gather(self, what: str) -> torch.Tensor:
        """Move all values or gradients into one buffer, of which they become views."""
        buffer = torch.zeros(sum(p.numel() for p in self.values), device=self.me.device)
        for p, part in zip(self.values, buffer.split([p.numel() for p in self.values]), strict=True):
            view = part.view_as(p)
            if what == "data":
                view.copy_(p.data)
                p.data = view
            else:
                p.grad = view
        return buffer

    def update(self, step: int) -> torch.Tensor:
        """One optimizer step on the mean gradient of all processes; returns the gradient's norm."""
        if self.me.count > 1:
            dist.all_reduce(self.gradient)
            self.gradient /= self.me.count
        norm = self.gradient.norm()
        self.gradient *= (self.plan.clip / (norm + 1e-6)).clamp(max=1)
        share = self.plan.rate(step)
        self.adamw.param_groups[0]["lr"] = self.plan.lr * share
        self.muon.param_groups[0]["lr"] = self.plan.matrix_lr * share
        self.adamw.step()
        self.muon.step()
        self._share(self.value[: self.matrix_size], self.flat)
        self.gradient.zero_()
        self.average.lerp_(self.value, 1 - min(self.plan.ema, (1 + step) / (10 + step)))
        return norm

    def _share(self, buffer: torch.Tensor, parts: list[nn.Parameter] | list[torch.Tensor]) -> None:
        """Complete a buffer of which each process has stepped its own parts."""
        if self.me.count > 1:
            for i, part in enumerate(parts):
                if i % self.me.count != self.me.rank:
                    part.detach().zero_()
            dist.all_reduce(buffer)

    def momentum(self) -> torch.Tensor:
        """Muon's momentum of all matrices; every process must take part."""
        buffer = torch.zeros(self.matrix_size, device=self.me.device)
        parts = buffer.split([p.numel() for p in self.flat])
        for i in self.mine:
            state = self.muon.state.get(self.flat[i])
            if state:
                parts[i].copy_(state["momentum_buffer"].flatten())
        self._share(buffer, list(parts))
        return buffer

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that a run needs to go on, as named tensors; every process must take part."""
        tensors = {"value": self.value, "average": self.average, "momentum": self.momentum()}
        for i, p in enumerate(self.adamw.param_groups[0]["params"]):
            for slot, value in self.adamw.state.get(p, {}).items():
                tensors[f"{slot}/{i}"] = value
        return {k: v.detach().contiguous().cpu() for k, v in tensors.items()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take up the state of a run, by any number of processes."""
        self.value.copy_(tensors["value"])
        self.average.copy_(tensors["average"])
        if "momentum" in tensors:  # not in states that travelled
            parts = tensors["momentum"].to(self.me.device).split([p.numel() for p in self.flat])
            for i in self.mine:
                self.muon.state[self.flat[i]] = {"momentum_buffer": parts[i].view_as(self.flat[i]).clone()}
        for i, p in enumerate(self.adamw.param_groups[0]["params"]):
            if f"step/{i}" in tensors:
                slots = {s: tensors[f"{s}/{i}"] for s in ("step", "exp_avg", "exp_avg_sq")}
                self.adamw.state[p] = {s: v if s == "step" else v.to(p.device) for s, v in slots.items()}

    def use_average(self) -> None:
        """Put the moving average in the parameters' place."""
        self.value.copy_(self.average)


def save_checkpoint(path: Path, weights: Weights, step: int) -> None:
    """Write the state after a number of steps, whole or not at all; every process must take part."""
    tensors = weights.state()
    if weights.me.first:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary, metadata={"step": str(step), "plan": json.dumps(vars(weights.plan))})
        temporary.replace(path)


def load_checkpoint(path: Path, weights: Weights) -> int:
    """Go on from a checkpoint if there is one; returns the number of steps done, in steps of this plan's batch."""
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as f:
        step, batch = int(f.metadata()["step"]), json.loads(f.metadata()["plan"])["batch"]
    weights.load(load_file(path))
    return step * batch // weights.plan.batch


def fit(part: str, modules: dict[str, nn.Module], loss: Loss, plan: Plan) -> None:
    """Train the modules, going on from the last checkpoint of this part; at the end they hold the average weights.

    Args:
        part: name of the run's folder under `RUNS`.
        modules: what is trained, by name.
        loss: computes one process's share of a step.
        plan: how long and how fast.
    """
    me = workers()
    weights = Weights(modules, plan, me)
    path = RUNS / part / "state.safetensors"
    start = load_checkpoint(path, weights)
    log = _Log(RUNS / part / "log.txt", plan, start) if me.first else None
    last = time.monotonic() + 60 * float(os.environ.get("TOYBOX_MINUTES", "inf"))
    for step in range(start, plan.steps):
        with autocast(me.device):
            value, extra = loss(step, generator(plan.seed, step, me.rank))
        value.backward()
        norm = weights.update(step)
        if log:
            log.add(step, {"loss": value.detach(), "norm": norm, **extra})
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
            save_checkpoint(path, weights, step + 1)
        elif me.count == 1 and time.monotonic() > last:
            save_checkpoint(path, weights, step + 1)
            break
    weights.use_average()


class _Log:
    """Means over stretches of steps, one line each."""

    def __init__(self, path: Path, plan: Plan, start: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a", encoding="utf-8")
        self.plan, self.sums, self.count = plan, {}, 0
        self.every = max(10, plan.steps // 400)
        self.clock = time.monotonic()
        self.write(f"{time.strftime('%Y-%m-%d %H:%M')} from step {start} of {plan.steps}: {plan}")

    def write(self, line: str) -> None:
        print(line, flush=True)
        print(line, file=self.file, flush=True)

    def add(self, step: int, values: dict[str, torch.Tensor]) -> None:
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0) + value
        self.count += 1
        if (step + 1) % self.every:
            return
        seconds = time.monotonic() - self.clock
        means = "  ".join(f"{k} {float(v) / self.count:.4f}" for k, v in self.sums.items())
        speed = self.plan.batch * self.count / seconds
        left = (self.plan.steps - step - 1) * seconds / self.count / 60
        self.write(f"step {step + 1:6d}  {means}  rate {self.plan.rate(step):.2f}  {speed:5.1f}/s  {left:.0f} min left")
        self.sums, self.count, self.clock = {}, 0, time.monotonic()


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]."""
    return -10 * math.log10(mse)
