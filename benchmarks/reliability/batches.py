"""A batch on a local Ray cluster of two workers, whose workers and driver are killed: every word exactly once, and the same.

python benchmarks/reliability/batches.py [--jobs 500] [--kills 100] [--drivers 10] [--seed 0]

Kills are spread over the results: one each time so many more are there. Every record is looked at as soon as it appears; one
that is written again later counts as rewritten.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from kit import report
from PIL import Image
from tiny import pipeline_folder

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from test_batch_command import _kill, _workers_of

OPTIONS = ("--word", "mug", "--steps", "2", "--at-once", "2", "-q")


def pictures(folder: Path, count: int) -> Path:
    """So many small pictures, all different."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(count):
        pixels = noise.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((24, 20), Image.Resampling.BICUBIC).save(folder / f"p{number:04d}.png")
    return folder


def started(photos: Path, out: Path, model: Path, *more: str) -> subprocess.Popen:
    """A batch as a process, with what it says in a file."""
    command = [
        sys.executable,
        "-m",
        "sentinv",
        "batch",
        str(photos),
        "-o",
        str(out),
        "--model",
        str(model),
        *OPTIONS,
        *more,
    ]
    with (out.parent / "said.txt").open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said)


def records(out: Path, seen: dict[str, int]) -> int:
    """How many records there are; those that are new are noted with the time of their file."""
    for path in out.glob("p*.json"):
        seen.setdefault(path.name, path.stat().st_mtime_ns)
    return len(seen)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.safetensors")}


def disturbed(photos: Path, out: Path, model: Path, given: argparse.Namespace) -> dict:
    """Run it to its end, and kill on the way."""
    chance, seen = random.Random(given.seed), dict[str, int]()
    victims = ["driver"] * given.drivers + ["worker"] * (given.kills - given.drivers)
    chance.shuffle(victims)
    every, killed, starts = given.jobs / (given.kills + 1), {"driver": 0, "worker": 0}, 1
    ray = ("--workers", "2", "--ray")
    driver = started(photos, out, model, *ray)
    while True:
        done = records(out, seen)
        if driver.poll() is not None:
            if done >= given.jobs and driver.returncode == 0:
                break
            driver, starts = started(photos, out, model, *ray), starts + 1
        if victims and done >= every * (sum(killed.values()) + 1):
            if victims[0] == "driver":
                driver.kill()
                driver.wait()
                hit = True
            else:
                workers = _workers_of(driver.pid)
                hit = bool(workers) and _kill(chance.choice(workers))
            if hit:
                killed[victims.pop(0)] += 1
                print(f"{done} done, killed {killed}", flush=True)
        time.sleep(0.01)
    rewritten = sum((out / name).stat().st_mtime_ns != when for name, when in seen.items())
    return {"killed": killed, "starts": starts, "rewritten": rewritten, "records": len(seen)}


def main() -> None:
    """Run undisturbed and disturbed, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("jobs", 500), ("kills", 100), ("drivers", 10), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, photos = pipeline_folder(folder / "model"), pictures(folder / "photos", given.jobs)
        (folder / "whole").mkdir()
        if started(photos, folder / "whole" / "words", model).wait():
            sys.exit((folder / "whole" / "said.txt").read_text())
        (folder / "hit").mkdir()
        begun = time.monotonic()
        found = disturbed(photos, folder / "hit" / "words", model, given)
        whole, hit = contents(folder / "whole" / "words"), contents(folder / "hit" / "words")
    same = sum(whole[name] == hit.get(name) for name in whole)
    killed = found["killed"]
    line = (
        f"{found['records']} of {given.jobs} words, {same} of them as undisturbed, {found['rewritten']} written again, after "
        f"{killed['worker']} kills of workers and {killed['driver']} of the driver"
    )
    report(
        "batches", line, **found, jobs=given.jobs, same=same, seconds=time.monotonic() - begun, arguments=sys.argv[1:]
    )


if __name__ == "__main__":
    main()
