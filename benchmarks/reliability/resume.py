"""R7, R9, R10: killed and resumed to the same bytes; stopped by signals in time; what saving costs.

    python benchmarks/reliability/resume.py [--kills 300] [--signals 200]

Children are forked from a parent that has imported everything and has trained once.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import torch
from kit import report
from tiny import backbone, command, ended, forked, picture, pipeline_folder

from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.files.atomic import remove_leftovers
from sentinv.models.backbone import Backbone
from sentinv.training import train as training
from sentinv.training.checkpoint import Checkpoints, read_checkpoint
from sentinv.training.config import TrainConfig, TuneConfig
from sentinv.training.history import History
from sentinv.training.loop import Loop
from sentinv.training.train import train_concept
from sentinv.training.tune import tune

Learn = Callable[[Backbone, Path], bytes]
"""Trains, or goes on where a checkpoint is; what came of it."""

CONFIG = TrainConfig(steps=20, batch_size=2, evaluate_every=5, evaluation_timesteps=2, checkpoint_every=1)
TUNING = TuneConfig(
    steps=20,
    batch_size=1,
    blended=1,
    others=1,
    rank=2,
    train_rows=True,
    evaluate_every=5,
    evaluation_timesteps=2,
    checkpoint_every=1,
)
INVERT = ["invert", "mug.png", "--word", "red", "--steps", "40", "--samples", "0", "--batch-size", "1", "--model"]


def result(model: Backbone, folder: Path) -> bytes:
    """Train, or go on where a checkpoint is: the concept's file and every loss of the way."""
    concept, history = train_concept(
        model, [picture()], Initialization("red cat"), CONFIG, checkpoints=_checkpoints(folder)
    )
    return concept.to_bytes() + _losses(history)


def tuned_result(model: Backbone, folder: Path) -> bytes:
    """The same of a LoRA around a word that learns on: both files."""
    word = Concept(token="<c>", rows=starting_rows(Initialization("red cat"), model).rows)
    tuned = tune(model, word, picture(), TUNING, words="a red cat", checkpoints=_checkpoints(folder))
    return tuned.lora.to_bytes() + tuned.concept.to_bytes() + _losses(tuned.history)


def _checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(folder, folder.is_dir() and any(folder.glob("step-*")))


def _losses(history: History) -> bytes:
    return json.dumps([[asdict(record) for record in history.records], history.evaluations]).encode()


def forgetful_restore(run: Loop, checkpoint: object, restore: object = Loop.restore) -> None:
    """The negative control: all is restored but the random state."""
    restore(run, checkpoint)
    run.generator.manual_seed(run.config.seed)


def one_run(
    model: Backbone, learn: Learn, seconds: float, chance: random.Random, *, control: bool = False
) -> tuple[int, int, bytes]:
    """Kill and resume until a run is done: kills, those of them that were in a run that had been resumed, its result."""
    with tempfile.TemporaryDirectory() as name:
        done, folder = Path(name) / "done", Path(name) / "checkpoints"

        def child() -> None:
            if control:
                Loop.restore = forgetful_restore  # type: ignore[method-assign]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                done.write_bytes(learn(model, folder))

        kills = resumed = 0
        while True:
            process = forked(child)
            time.sleep(seconds * chance.random() * (0.5 if kills < 4 else 1.5))
            os.kill(process, signal.SIGKILL)
            code = ended(process)
            if code == 0:
                return kills, resumed, done.read_bytes()
            if code != -signal.SIGKILL:
                raise SystemExit(f"a child ended with {code}")
            kills += 1
            done.unlink(missing_ok=True)
            steps = [int(path.name[5:11]) for path in folder.glob("step-*")] if folder.is_dir() else []
            resumed += 0 < max(steps, default=0) < CONFIG.steps


def killed(count: int, controls: int, learn: Learn = result) -> dict[str, int]:
    """R7: so many kills, and as many runs of the control."""
    model, chance = backbone(), random.Random(7)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = learn(model, Path(name) / "warm")
        begun = time.perf_counter()
        if learn(model, Path(name) / "again") != whole:
            raise SystemExit("two uninterrupted runs differ")
        seconds = time.perf_counter() - begun
    found = {"kills": 0, "resumed": 0, "runs": 0, "equal": 0, "controls": 0, "equal controls": 0}
    while found["kills"] < count:
        kills, resumed, got = one_run(model, learn, seconds, chance)
        found["kills"] += kills
        found["resumed"] += resumed
        found["runs"] += 1
        found["equal"] += got == whole
    while found["controls"] < controls:
        _, resumed, got = one_run(model, learn, seconds, chance, control=True)
        if resumed:
            found["controls"] += 1
            found["equal controls"] += got == whole
    return found


def stopped(folder: Path, model: Path, wait: float, numbers: list[int]) -> tuple[int, float, list[str]]:
    """Send signals to a run after a while: exit code, seconds until it ended, and what is wrong with what it left."""
    picture().save(folder / "mug.png")
    said = folder.with_suffix(".txt")

    def told() -> int:
        code, text = command(folder, *INVERT, str(model))
        said.write_text(text)
        return code

    process = forked(told)
    time.sleep(wait)
    for number in numbers:
        sent = time.perf_counter()
        with suppress(ProcessLookupError):
            os.kill(process, number)
        time.sleep(0.004 if len(numbers) > 1 else 0)
    code = ended(process)
    seconds = time.perf_counter() - sent
    remove_leftovers(folder / "mug-run/checkpoints")
    concept, metrics = folder / "mug-concept.safetensors", folder / "mug-run/metrics.jsonl"
    wrong = [f"stray {path.name}" for path in folder.rglob(".*")] + [
        f"lock {path.name}" for path in folder.rglob("*.lock")
    ]
    steps = [read_checkpoint(path).step for path in folder.glob("mug-run/checkpoints/step-*")]
    told = metrics.read_text().count("\n") if metrics.exists() else 0
    if concept.exists():
        Concept.load(concept)
    elif len(numbers) == 1 and told - max(steps, default=0) > 1:
        wrong.append(f"{told} steps done, {steps} saved")
    codes = {0, *(128 + number for number in numbers), *(-number for number in numbers if len(numbers) > 1)}
    return code, seconds, wrong + ([] if code in codes else [f"exit code {code}: {said.read_text().splitlines()[-1:]}"])


def signalled(count: int) -> tuple[dict[str, int], dict[str, float], list[str]]:
    """R9: single and double signals at random times: exit codes, slowest end, and what was wrong."""
    chance, wrong, codes = random.Random(9), [], {}
    slowest = {"one signal": 0.0, "two signals": 0.0}
    with tempfile.TemporaryDirectory() as name:
        model = pipeline_folder(Path(name) / "model")
        for number in range(-1, count):
            folder = Path(name) / f"run{number}"
            folder.mkdir()
            if number < 0:  # imports everything, and says how long a run takes
                picture().save(folder / "mug.png")
                command(folder, *INVERT, str(model))
                begun = time.perf_counter()
                command(folder, *INVERT, str(model), "--force")
                whole = time.perf_counter() - begun
                continue
            kind = (signal.SIGINT, signal.SIGTERM)[number % 2]
            twice = number % 4 > 1
            numbers = [kind, chance.choice((signal.SIGINT, signal.SIGTERM))] if twice else [kind]
            code, seconds, faults = stopped(folder, model, chance.random() * whole, numbers)
            codes[str(code)] = codes.get(str(code), 0) + 1
            label = "two signals" if twice else "one signal"
            slowest[label] = max(slowest[label], seconds)
            wrong += [f"{label} {number}: {fault}" for fault in faults]
            limit = max(3, 2 * whole) if twice else max(10, 4 * whole)  # a busy machine takes longer for all
            wrong += [f"{label} {number}: took {seconds:.1f} s, a run {whole:.1f} s"] if seconds > limit else []
    return codes, slowest, wrong


def saving(model: Backbone, repeats: int = 5) -> tuple[float, float]:
    """R10: milliseconds of one save, and the share of a 100-step run that its saves take; medians."""
    config, times, shares = replace(TrainConfig(), evaluation_timesteps=2), [], []
    honest = training.save_checkpoint
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(repeats):
            spent = []

            def timed(*arguments: object, spent: list[float] = spent) -> object:
                begun = time.perf_counter()
                answer = honest(*arguments)
                spent.append(time.perf_counter() - begun)
                return answer

            training.save_checkpoint = timed
            try:
                folder = Path(name) / str(number)
                _, history = train_concept(
                    model, [picture()], Initialization("red cat"), config, checkpoints=Checkpoints(folder)
                )
            finally:
                training.save_checkpoint = honest
            times += spent
            shares.append(sum(spent) / (history.seconds + sum(spent)))
    return 1000 * statistics.median(times), statistics.median(shares)


def main() -> None:
    """All three."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # of a job in the background it is ignored
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--signals", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kills, tuned = killed(arguments.kills, 20), killed(arguments.kills // 3, 5, tuned_result)
    codes, slowest, wrong = signalled(arguments.signals)
    milliseconds, share = saving(backbone())
    report(
        "resume",
        f"{kills['kills']} kills ({kills['resumed']} with a checkpoint to go on from) in {kills['runs']} runs: "
        f"{kills['equal']} bit-identical; control: {kills['equal controls']} of {kills['controls']}; LoRAs: {tuned['kills']} "
        f"kills in {tuned['runs']} runs, {tuned['equal']} bit-identical; "
        f"{arguments.signals} runs signalled: {len(wrong)} wrong, slowest end {max(slowest.values()):.1f} s; "
        f"a save takes {milliseconds:.0f} ms, {share:.1%} of 100 steps of the tiny model",
        kills=kills,
        tuned=tuned,
        codes=codes,
        slowest=slowest,
        wrong=wrong[:20],
    )
    sys.exit(bool(wrong or any(one["equal"] < one["runs"] or one["equal controls"] for one in (kills, tuned))))


if __name__ == "__main__":
    main()
