"""What a GPU makes of it: everything that could not be measured where this was written, as one command.

    python benchmarks/gpu.py                                     # writes benchmarks/results/gpu.md, some ten minutes
    python benchmarks/gpu.py --peer PATH/TO/textual_inversion.py # and beside diffusers' script
    python benchmarks/gpu.py --parts sd15,plan                   # some of it

On random weights in the shapes of Stable Diffusion 1.5 and XL, in bfloat16: seconds from the command to the written word
(`sentinv invert --phrase … --samples 0`, 100 steps of batch 4), seconds per step with the CUDA graph and without it, in
channels-last, at batch 8, with a fused optimizer and torch's own, those of a LoRA around a word, and the peaks of both against
what `--plan` says.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from sentinv.bench import sd15
from sentinv.files.atomic import atomic_write
from sentinv.report.tables import Table

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone
    from sentinv.training.config import TrainConfig

RESULT = Path(__file__).parent / "results" / "gpu.md"
Note = Callable[[str, Callable[[], str]], None]
"""Puts what is measured into the table under a name."""

DTYPE = torch.bfloat16
STEPS, BATCH = 100, 4
XL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
XL_TEXT: dict[str, Any] = {
    **sd15.TEXT,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}


def save_xl(folder: Path) -> None:
    """Write a pipeline in the shape of Stable Diffusion XL with random weights, 7 GB, made on torch's default device."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    words = sd15.TEXT["vocab_size"]
    ids = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    torch.manual_seed(0)
    tokenizer = sd15.tokenizer(folder / "scratch")
    pipeline: Any = StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(**XL_UNET).to(DTYPE),
        vae=AutoencoderKL(**{**sd15.VAE, "sample_size": 1024, "scaling_factor": 0.13025}).to(DTYPE),
        text_encoder=CLIPTextModel(CLIPTextConfig(**sd15.TEXT, **ids)).to(DTYPE),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**XL_TEXT, **ids)).to(DTYPE),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=DDIMScheduler(**sd15.SCHEDULE),
    )
    pipeline.save_pretrained(folder)


def command(model: Path, scratch: Path) -> dict[str, float]:
    """Seconds from the command to the written word, and part by part as its report has them."""
    picture = scratch / "picture.png"
    Image.effect_noise((640, 640), 80).convert("RGB").save(picture)
    output = scratch / f"{model.name}.safetensors"
    options = ["--phrase", "a red cat", "--steps", str(STEPS), "--samples", "0", "--json", "-q", "--force"]
    begun = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "sentinv", "invert", str(picture), "--model", str(model), "-o", str(output), *options],
        capture_output=True,
        text=True,
        check=True,
    )
    return {"from command to word": time.perf_counter() - begun, **json.loads(ended.stdout)["seconds"]}


def steps(
    backbone: Backbone,
    *,
    graph: bool = True,
    channels_last: bool = False,
    fused: bool = True,
    batch: int = BATCH,
    blended: int = 0,
    count: int = STEPS,
) -> float:
    """Median seconds of a step, of ten at a time, after the first thirty; of pictures alone, unless items are blended."""
    import sentinv.training.loop
    import sentinv.training.train
    from sentinv.concepts.initialization import Initialization
    from sentinv.training.config import TrainConfig

    if channels_last:
        backbone.unet.to(memory_format=torch.channels_last)
    own, optimizer = sentinv.training.train.with_graph, torch.optim.AdamW
    if not graph:
        sentinv.training.train.with_graph = lambda loop: False
    if not fused:
        torch.optim.AdamW = lambda *given, **options: optimizer(*given, **{**options, "fused": None})  # type: ignore
    seconds, last = [], [0.0]

    def watch(loop: Any) -> None:
        if loop.step % 10 == 0:
            torch.cuda.synchronize()
            now = time.perf_counter()
            seconds.append((now - last[0]) / 10)
            last[0] = now

    config = TrainConfig(steps=count, evaluate_every=10 * count, batch_size=batch, blended=blended)
    picture = Image.effect_noise((backbone.resolution,) * 2, 80).convert("RGB")
    try:
        sentinv.training.train.train_concept(backbone, [picture], Initialization("a red cat"), config, watch=watch)
    finally:
        sentinv.training.train.with_graph, torch.optim.AdamW = own, optimizer  # type: ignore[misc]
    return median(seconds[3:-1])  # the last ten are followed by the evaluation


def tuning_steps(backbone: Backbone, *, graph: bool = True, count: int = STEPS) -> float:
    """Median seconds of a step of a LoRA around a word, of ten at a time, without the first thirty."""
    import sentinv.training.tune
    from sentinv.concepts.concept import Concept
    from sentinv.concepts.initialization import Initialization, starting_rows
    from sentinv.training.config import TuneConfig
    from sentinv.training.tune import tune

    word = Concept(token="<concept>", rows=starting_rows(Initialization("a red cat"), backbone).rows)
    times = []

    def told(record: Any) -> None:  # ten steps at a time, when the host has waited for them
        if record.step % 10 == 0:
            times.append(time.perf_counter())

    config = TuneConfig(steps=count, evaluate_every=10 * count)
    picture = Image.effect_noise((backbone.resolution,) * 2, 80).convert("RGB")
    own = sentinv.training.tune.with_graph
    if not graph:
        sentinv.training.tune.with_graph = lambda loop: False
    try:
        tune(backbone, word, [picture], config, words="a red cat", on_step=told)
    finally:
        sentinv.training.tune.with_graph = own
    return median(  # of the first thirty some choose kernels and capture, the last ten wait for the evaluation
        (later - sooner) / 10 for sooner, later in list(pairwise(times[:-1]))[2:]
    )


def kernels(work: Callable[[], object], count: int = 8) -> str:
    """The kernels that some work spends most time in, all that is before its steps included, with shares of the GPU's time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        work()
    averages = sorted(found.key_averages(), key=lambda one: -one.self_device_time_total)
    whole = sum(one.self_device_time_total for one in averages)
    return ", ".join(f"{one.key[:60]} {one.self_device_time_total / whole:.0%}" for one in averages[:count])


def peaks(model: Path, config: TrainConfig, measure: Callable[[], object]) -> tuple[float, float]:
    """Gigabytes that a run took at its highest, and what the plan says."""
    from sentinv.models.names import Place
    from sentinv.training.memory import training_memory

    torch.cuda.reset_peak_memory_stats()
    measure()
    plan = training_memory(Place(model=str(model), dtype="bfloat16", device="cuda"), config, images=False)
    assert plan is not None
    return torch.cuda.max_memory_allocated() / 1e9, plan["total"] / 1e9


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="diffusers' textual_inversion.py")
    parser.add_argument("--parts", default="sd15,plan,peer,sdxl")
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here: run this on a machine with one")
    if options.parts == "peer" and not options.peer:
        raise SystemExit("expected the script that is to be run beside, got none: --peer PATH")
    parts, rows, part = options.parts.split(","), [], options.output.with_suffix(".part")
    said = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {DTYPE}, batch {BATCH}, {STEPS} steps, random weights."

    def note(name: str, measure: Callable[[], str]) -> None:
        try:
            with warnings.catch_warnings(record=True) as said_on_the_way:  # they change what a figure means
                warnings.simplefilter("always")
                measured = measure()
        except Exception as error:  # one that fails says so in the table
            measured = f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
        rows.append([name, "; ".join([measured, *dict.fromkeys(str(one.message) for one in said_on_the_way)])])
        print(*rows[-1], sep=": ", flush=True)
        table = Table("On a GPU", ["what", "measured"], rows, said).markdown()
        atomic_write(part, f"{table}\n`python benchmarks/gpu.py`\n".encode(), overwrite=True)

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        sd15_folder, xl_folder = scratch / "sd15", scratch / "sdxl"
        with torch.device("cuda"):  # where random numbers are quick
            if {"sd15", "plan", "peer"} & set(parts):
                sd15.save_pipeline(sd15_folder, DTYPE)
            if "sdxl" in parts:
                save_xl(xl_folder)
        if {"sd15", "plan"} & set(parts):
            _note_model(note, sd15_folder, VARIANTS, scratch, plan="plan" in parts)
        if "peer" in parts and options.peer:
            note("sd15: beside diffusers' script", lambda: _beside(sd15_folder, options.peer, scratch))
        if "sdxl" in parts:
            _note_model(note, xl_folder, dict(list(VARIANTS.items())[:3]), scratch, plan=False, count=60)
    part.replace(options.output)


VARIANTS: dict[str, dict[str, Any]] = {
    "four items of the picture": {},
    "two and two blended, the default": {"batch": 2, "blended": 2},
    "without a graph": {"graph": False},
    "torch's own optimizer": {"fused": False},
    "batch 8": {"batch": 8},
    "channels last": {"channels_last": True},  # last: the model stays so
}


def _note_model(
    note: Note, model: Path, variants: Mapping[str, dict[str, Any]], scratch: Path, *, plan: bool, count: int = STEPS
) -> None:
    """Note what a model takes: the whole command, a step in each variant and of a LoRA, and peaks beside their plan."""
    from sentinv import load
    from sentinv.training.config import TrainConfig, TuneConfig

    name = model.name
    for which in ("first", "again"):
        note(f"{name}: from command to word, {which}", lambda: _told(command(model, scratch)))
    backbone = load(model, device="cuda", dtype=DTYPE)
    if plan:
        runs: dict[str, tuple[TrainConfig, Callable[[], object]]] = {
            "a word": (TrainConfig(), lambda: steps(backbone, batch=2, blended=2)),
            "a LoRA": (TuneConfig(), lambda: tuning_steps(backbone)),
        }
        for what, (config, measure) in runs.items():
            note(
                f"{name}: peak and plan of {what}, GB",
                lambda c=config, m=measure: "{:.2f}, {:.2f}".format(*peaks(model, c, m)),  # type: ignore[misc]
            )
    note(f"{name}: s/step, a LoRA", lambda: f"{tuning_steps(backbone, count=count):.4f}")
    note(f"{name}: s/step, a LoRA without a graph", lambda: f"{tuning_steps(backbone, graph=False, count=count):.4f}")
    note(f"{name}: a LoRA's longest kernels", lambda: kernels(lambda: tuning_steps(backbone, count=60)))
    for label, how in variants.items():
        note(f"{name}: s/step, {label}", lambda how=how: f"{steps(backbone, count=count, **how):.4f}")  # type: ignore[misc]


def _told(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())


def _beside(model: Path, peer: str, scratch: Path) -> str:
    """Seconds per step of both in the same run, by the harness of `sentinv bench speed`."""
    from sentinv.bench.speed import SpeedConfig, measure_speed

    picture = scratch / "peer.png"
    Image.effect_noise((512, 512), 80).convert("RGB").save(picture)
    config = SpeedConfig(
        model=model, images=(picture,), resolution=512, steps=50, warmup=10, repeats=2, dtype="bfloat16", device="cuda"
    )
    trainers = measure_speed(config, [peer], print)
    return ", ".join(f"{one.name} {one.failure or f'{one.seconds:.4f} s'}" for one in trainers)


if __name__ == "__main__":
    main()
