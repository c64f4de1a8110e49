"""R6, R8, R12: writers killed at every call and at any time, calls that fail, and many writers of one output.

python benchmarks/reliability/kills.py [--count 1000] [--rounds 100]
"""

import argparse
import errno
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from kit import report

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from test_files import FaultyOs

from sentinv.concepts.concept import Concept
from sentinv.errors import SentinvError
from sentinv.files import atomic as files
from sentinv.files.atomic import atomic_folder, atomic_write, remove_leftovers
from sentinv.files.locks import lock

CODES = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)
LARGE = 4_000_000


def concept(value: float) -> Concept:
    """A concept whose rows all have one value, by which it is known again."""
    return Concept(token="<cat>", rows={"text_encoder": torch.full((4, 768), value)})


def save_concept(folder: Path, value: int) -> None:
    """Replace a concept file."""
    concept(float(value)).save(folder / "cat.safetensors", overwrite=True)


def save_large(folder: Path, value: int) -> None:
    """Replace a file of 4 MB."""
    atomic_write(folder / "large", bytes([value % 251]) * LARGE, overwrite=True)


def save_folder(folder: Path, value: int) -> None:
    """Write a new folder of two files that belong together."""
    with atomic_folder(folder / f"step-{value}-{os.getpid()}") as inside:
        (inside / "a").write_bytes(bytes([value % 251]) * 100_000)
        (inside / "b").write_bytes(bytes([value % 251]) * 100_000)


OPERATIONS: tuple[Callable[[Path, int], None], ...] = (save_concept, save_large, save_folder)


def torn(folder: Path) -> list[str]:
    """What is in the folder after a sweep that is not whole or should not be there."""
    remove_leftovers(folder)
    found = []
    for path in folder.iterdir():
        if path.name == "cat.safetensors":
            rows = Concept.load(path).rows["text_encoder"]
            whole = bool((rows == rows[0, 0]).all())
        elif path.name == "large":
            data = path.read_bytes()
            whole = data == data[:1] * LARGE
        else:
            whole = path.name.startswith("step-") and (path / "a").read_bytes() == (path / "b").read_bytes()
        if not whole:
            found.append(path.name)
    return found


def forked(action: Callable[[], object]) -> int:
    """Process id of a child that does it and ends."""
    child = os.fork()
    if not child:
        action()
        os._exit(0)
    return child


def write_for_ever(folder: Path) -> None:
    """One operation after the other."""
    value = 1
    while True:
        OPERATIONS[value % len(OPERATIONS)](folder, value)
        value += 1


def killed_at_random(count: int) -> tuple[int, list[str]]:
    """Temporary files that kills left to sweep, and what was torn or stray after that."""
    chance, swept, found = random.Random(6), 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(count):
            child = forked(lambda: write_for_ever(folder))
            time.sleep(0.005 + chance.random() * 0.04)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            swept += len(remove_leftovers(folder))
            found += torn(folder)
            for path in folder.glob("step-*"):
                shutil.rmtree(path)
    return swept, found


def calls_of(operation: Callable[[Path, int], None], folder: Path) -> int:
    """How many calls that change the disk an operation makes."""
    system = FaultyOs()
    files.os = system
    operation(folder, 2)
    files.os = os
    return len(system.calls)


def each_call() -> tuple[int, int, list[str]]:
    """Kills at every call, failures of every call with every code, and what was wrong after them."""
    kills = faults = 0
    wrong = []
    for operation in OPERATIONS:
        with tempfile.TemporaryDirectory() as name:
            count = calls_of(operation, Path(name))
        for at in range(count):
            for code in (None, *CODES):
                with tempfile.TemporaryDirectory() as name:
                    folder, case = Path(name), f"{operation.__name__} call {at} {code}"
                    save_concept(folder, 1)
                    save_large(folder, 1)
                    if code is None:
                        kills += 1
                        faulty = FaultyOs(at, act=partial(os._exit, 9))
                        os.waitpid(forked(partial(operation_with, faulty, operation, folder)), 0)
                    else:
                        faults += 1
                        try:
                            operation_with(FaultyOs(at, code), operation, folder)
                            wrong.append(f"{case}: no error")
                        except SentinvError as error:
                            wrong += [] if str(error).isprintable() else [f"{case}: {error}"]
                        left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
                        wrong += [f"{case}: left {left}"] if left else []
                    wrong += [f"{case}: torn {path}" for path in torn(folder)]
    return kills, faults, wrong


def operation_with(system: FaultyOs, operation: Callable[[Path, int], None], folder: Path) -> None:
    """Run an operation on a faulty system."""
    files.os = system
    try:
        operation(folder, 2)
    finally:
        files.os = os


def contend(path: Path, start: object, results: object) -> None:
    """One of many writers of one output."""
    start.wait()
    try:
        with lock(path):
            results.put("won")
            time.sleep(0.1)
    except SentinvError as error:
        results.put("told" if "is being written by" in str(error) else str(error))


def contended(rounds: int) -> list[str]:
    """Rounds of eight writers that did not end with one winner and seven that were told."""
    context, wrong = multiprocessing.get_context("fork"), []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            start, results = context.Barrier(8), context.Queue()
            writers = [context.Process(target=contend, args=(Path(folder) / "out", start, results)) for _ in range(8)]
            for writer in writers:
                writer.start()
            ends = Counter(results.get(timeout=60) for _ in writers)
            for writer in writers:
                writer.join()
            if ends != {"won": 1, "told": 7}:
                wrong.append(f"round {number}: {dict(ends)}")
    return wrong


def main() -> None:
    """All three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    swept, found = killed_at_random(arguments.count)
    points, faults, wrong = each_call()
    rounds = contended(arguments.rounds)
    report(
        "kills",
        f"{arguments.count} kills at random ({swept} in the middle of a write) and {points} at every call: "
        f"{len(found)} torn or stray after the next start; "
        f"{faults} failed calls: {len(wrong)} wrong; {arguments.rounds} rounds of 8 writers: {len(rounds)} wrong",
        found=found[:20],
        wrong=wrong[:20],
        rounds=rounds[:20],
    )
    sys.exit(bool(found or wrong or rounds))


if __name__ == "__main__":
    main()
