"""R8, R13: every write of a whole run fails; numbers go wrong and memory ends at every step.

python benchmarks/reliability/faults.py
"""

import errno
import itertools
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from kit import report
from tiny import backbone, command, picture, pipeline_folder
from torch import Tensor

import sentinv.cli.invert
from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization
from sentinv.errors import SentinvError
from sentinv.files import atomic as files
from sentinv.files import locks
from sentinv.models.backbone import Backbone
from sentinv.training.checkpoint import read_checkpoint
from sentinv.training.config import TrainConfig
from sentinv.training.history import RUNAWAY, History
from sentinv.training.train import train_concept

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from test_files import FaultyOs

CODES = (errno.ENOSPC, errno.EIO, errno.EROFS)
INVERT = ["invert", "mug.png", "--word", "red", "--samples", "0", "--batch-size", "1", "--force", "--steps", "2"]
CONFIG = TrainConfig(steps=6, batch_size=2, evaluate_every=3, evaluation_timesteps=2)


@contextmanager
def system(faulty: FaultyOs) -> Iterator[None]:
    """Let files and locks be written through it."""
    before = files.os, locks.os
    files.os = locks.os = faulty  # type: ignore[assignment]
    try:
        yield
    finally:
        files.os, locks.os = before


def failing_writes(folder: Path, calls: Callable[[int], Sequence[int]] = range) -> tuple[int, list[str]]:
    """R8: runs that replace a concept, with a checkpoint each step: calls failed, and what was wrong after them.

    Args:
        folder: an empty one.
        calls: which calls to fail, of so many.
    """
    model = str(pipeline_folder(folder / "model"))
    picture().save(folder / "mug.png")
    honest = sentinv.cli.invert.train_config
    sentinv.cli.invert.train_config = lambda given: replace(honest(given), checkpoint_every=1)
    run = [*INVERT, "--model", model]
    concept = folder / "mug-concept.safetensors"
    try:
        command(folder, *run, "--seed", "1")
        old = concept.read_bytes()
        with system(counter := FaultyOs()):
            command(folder, *run)
        new, wrong, tried = concept.read_bytes(), [], 0
        if new == old:
            raise SystemExit("two seeds gave the same concept")
        for at, code in itertools.product(calls(len(counter.calls)), CODES):
            tried += 1
            concept.write_bytes(old)
            with system(FaultyOs(at, code)):
                end, said = command(folder, *run)
            case = f"call {at} ({counter.calls[at]}) {errno.errorcode[code]}"
            wrong += [f"{case}: {fault}" for fault in _left_wrong(folder, end, said, (old, new))]
    finally:
        sentinv.cli.invert.train_config = honest
    end, said = command(folder, *run)
    wrong += [f"the next run: {said}"] if end or concept.read_bytes() != new else []
    return tried, wrong


def _left_wrong(folder: Path, end: int, said: str, whole: tuple[bytes, bytes]) -> Iterator[str]:
    errors = [line for line in said.splitlines() if line.startswith("sentinv: error: ")]
    if end != 1 or len(errors) != 1 or "this is a bug" in errors[0] or "Traceback" in said:
        yield f"exit code {end}, {said!r}"
    if (folder / "mug-concept.safetensors").read_bytes() not in whole:
        yield "the concept is torn"
    for path in folder.glob("mug-run/checkpoints/step-*"):
        try:
            read_checkpoint(path)
        except SentinvError as error:
            yield str(error)
    for path in [*folder.rglob(".sentinv-*"), *folder.rglob("*.lock")]:
        yield f"left {path.name}"


@contextmanager
def predicting(meddle: Callable[[Backbone, int, Tensor], Tensor]) -> Iterator[None]:
    """Let a function see the number and answer of each of the UNet's calls, and change it or raise."""
    honest, calls = Backbone.predict, itertools.count(1)

    def predict(self: Backbone, latents: Tensor, timesteps: Tensor, condition: object) -> Tensor:
        return meddle(self, next(calls), honest(self, latents, timesteps, condition))

    Backbone.predict = predict  # type: ignore[method-assign]
    try:
        yield
    finally:
        Backbone.predict = honest  # type: ignore[method-assign]


def train(model: Backbone, config: TrainConfig) -> tuple[Concept, History]:
    """Train without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train_concept(model, [picture()], Initialization("red cat"), config)


def poisoned(kind: str, only_half: bool, at: int) -> Callable[[Backbone, int, Tensor], Tensor]:
    """Make call number `at`, and all after it, not finite: the answer, or its gradient; in half precision only, or always."""

    def meddle(model: Backbone, number: int, answer: Tensor) -> Tensor:
        if number < at or (only_half and model.dtype == torch.float32):
            return answer
        if kind == "gradient" and answer.requires_grad:
            answer.register_hook(lambda gradient: gradient * float("inf"))
        return answer * float(kind) if kind != "gradient" else answer

    return meddle


def bad_numbers() -> tuple[Counter[str], list[str]]:
    """R13: how runs ended into which one thing that is not finite was put, and which ended wrong."""
    ends, wrong = Counter[str](), []
    kinds = itertools.product((torch.float32, torch.bfloat16, torch.float16), ("nan", "inf", "gradient"), (False, True))
    for (dtype, kind, only_half), at in itertools.product(kinds, range(3, 11)):  # the start's evaluation is two calls
        if only_half and dtype == torch.float32:
            continue
        model = backbone()
        for part in (model.unet, model.vae, model.text_encoders[0].model):
            part.to(dtype)
        case = f"{dtype} {kind} from call {at}, {'half precision only' if only_half else 'always'}"
        with predicting(poisoned(kind, only_half, at)):
            concept, history = train(model, CONFIG)
        ends[history.stop] += 1
        if history.stop != ("steps" if only_half else "not finite") or not sound(concept, history, model):
            wrong.append(f"{case}: {history.stop} after {len(history.records)}")
        if model.dtype != dtype:
            wrong.append(f"{case}: left in {model.dtype}")
    return ends, wrong


def sound(concept: Concept, history: History, model: Backbone) -> bool:
    """Whether rows and losses are finite, and no row has run away."""
    rows = concept.rows["text_encoder"]
    longest = float(rows.norm(dim=1).max()) / model.text_encoders[0].median_norm
    losses = torch.tensor([record.loss for record in history.records])
    return bool(rows.isfinite().all()) and longest <= RUNAWAY and bool(losses.isfinite().all())


def learning_rates(count: int = 25) -> tuple[Counter[str], list[str]]:
    """R13: how runs end at rates from 1e-5 to 10, and which ended wrong."""
    ends, wrong, model = Counter[str](), [], backbone()
    for rate in torch.logspace(-5, 1, count).tolist():
        for schedule in ("constant", "cosine"):
            concept, history = train(model, replace(CONFIG, steps=30, learning_rate=rate, schedule=schedule))
            ends[history.stop] += 1
            if history.stop not in ("steps", "runaway") or not sound(concept, history, model):
                wrong.append(f"learning rate {rate:g}: {history.stop}")
    return ends, wrong


def ending_memory() -> tuple[int, list[str]]:
    """Runs whose memory ends at one call of the UNet, in one of two ways: how many, and which came to other rows."""
    model, wrong, tried = backbone(), [], 0
    free = train(model, CONFIG)[0].rows["text_encoder"]
    for at, error in itertools.product(range(1, 11), (torch.OutOfMemoryError, RuntimeError)):

        def meddle(model: Backbone, number: int, answer: Tensor) -> Tensor:
            if number == at:  # noqa: B023 - called in this round
                raise error("out of memory")  # noqa: B023
            return answer

        with predicting(meddle):
            rows = train(model, CONFIG)[0].rows["text_encoder"]
        tried += 1
        if not torch.allclose(rows, free, atol=1e-5):
            wrong.append(f"call {at}, {error.__name__}: {(rows - free).abs().max():.2g}")
    return tried, wrong


def main() -> None:
    """All four."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        writes, after = failing_writes(Path(name))
    numbers, wrong = bad_numbers()
    rates, unsound = learning_rates()
    ends, other = ending_memory()
    report(
        "faults",
        f"{writes} failed writes of whole runs: {len(after)} wrong; {numbers.total()} runs with numbers that are not finite: "
        f"{len(wrong)} wrong; {rates.total()} learning rates: {len(unsound)} unsound; memory ended in {ends} runs: "
        f"{len(other)} with other rows",
        numbers=dict(numbers),
        learning_rates=dict(rates),
        wrong=[*after, *wrong, *unsound, *other][:20],
    )
    sys.exit(bool(after or wrong or unsound or other))


if __name__ == "__main__":
    main()
