"""Many workers: a Ray cluster learns the words, and its head keeps the book.

Scheduling, placement, restarts of workers that died and retries of what they were at are Ray's. Each worker is an actor that
keeps its models and writes its results into the folder that all see, so that a chunk that is tried again finds what was done.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentinv.batch.book import Book, Record
from sentinv.batch.learner import Learner, OnResult
from sentinv.errors import SentinvError

if TYPE_CHECKING:
    from sentinv.batch.tasks import Assignment
    from sentinv.models.names import Place

LOCAL = "local"
"""The address that starts a cluster on this machine."""

RETRIES = 5
"""How often Ray tries a chunk again whose worker died; then its pictures are tried one by one."""

_ANSWER = 5.0  # seconds in which an address has to answer


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where workers run.

    Attributes:
        address: of a running cluster, "host:port", "auto" or "ray://host:port"; `LOCAL` starts one here.
        workers: how many; one for each GPU, or for each share of `threads` CPU cores, if None.
        threads: CPU cores of a worker, ≥ 1.
        at_once: words that a worker trains at a time.
    """

    address: str = LOCAL
    workers: int | None = None
    threads: int = 1
    at_once: int = 8


class Worker:
    """An actor: a learner with its models. It looks at the folder first, for a chunk may have been begun by another.

    The work is done in a thread of its own, so that signals end the process and not the step.
    """

    def __init__(self, folder: str, base: Place, at_once: int, threads: int) -> None:
        import torch

        self.book = Book(folder, base)
        self.learner = Learner(self.book, at_once)
        self.thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))

    def learn(self, assignments: Sequence[Assignment]) -> list[Record]:
        """Do what is not done yet of some assignments, and return the records of all."""
        return self.thread.submit(self._learn, assignments).result()

    def _learn(self, assignments: Sequence[Assignment]) -> list[Record]:
        left = [one for one in assignments if self.book.state(one) != "done"]
        self.learner.learn(left, lambda _: None)
        return [self.book.record(one.task) for one in assignments]


def check_cluster(address: str) -> None:
    """Refuse a cluster that cannot be reached, before any work.

    Raises:
        SentinvError: If Ray is not installed, or nothing answers at the address within seconds.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise SentinvError("--ray needs Ray, which is not installed: pip install 'sentinv[ray]'") from error
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if address in (LOCAL, "auto"):
        return
    if not separator or not port.isdigit():
        raise SentinvError(f"--ray: expected an address such as 10.0.0.1:6379 or auto, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise SentinvError(
            f"--ray: nothing answers at {address} ({error}): start a cluster there with ray start --head, or give "
            "--ray alone for one on this machine"
        ) from error


def learn_with(
    cluster: Cluster, folder: Path, base: Place, assignments: Sequence[Assignment], on_result: OnResult
) -> None:
    """Do assignments on the workers of a cluster, and tell of each.

    Args:
        cluster: where.
        folder: of the results, under a path that all machines have.
        base: the model.
        assignments: what to do.
        on_result: called with each record.

    Raises:
        SentinvError: If the cluster cannot be used, or a worker cannot load the model or write.
    """
    with _connected(cluster) as ray:
        kind = _kind(ray, cluster)
        count = cluster.workers or _fitting(ray, kind)
        remote = ray.remote(Worker).options(**kind, max_restarts=-1, max_task_retries=RETRIES)
        arguments = (str(folder.absolute()), base, cluster.at_once, cluster.threads)
        chunks = _chunks(assignments, count, cluster.at_once)
        actors = [remote.remote(*arguments) for _ in range(min(count, len(chunks)))]
        for record in _handed_out(ray, actors, chunks, Book(folder, base)):
            on_result(record)


def _handed_out(ray: Any, idle: list[Any], chunks: list[list[Assignment]], book: Book) -> Iterator[Record]:
    """Hand chunks to actors that are free, and take back what an actor could not do."""
    under_way: dict[Any, tuple[Any, list[Assignment]]] = {}
    while chunks or under_way:
        while chunks and idle:
            actor, chunk = idle.pop(), chunks.pop(0)
            under_way[actor.learn.remote(chunk)] = (actor, chunk)
        (done, *_), _ = ray.wait(list(under_way), num_returns=1)
        actor, chunk = under_way.pop(done)
        idle.append(actor)
        try:
            yield from ray.get(done)
        except ray.exceptions.RayTaskError as error:
            cause = error.as_instanceof_cause()
            raise cause if isinstance(cause, SentinvError) else error from None
        except ray.exceptions.RayActorError:
            if len(chunk) > 1:
                chunks += [[one] for one in chunk]
            else:
                died = f"the worker died {RETRIES + 1} times while it was at this picture: look at its machine's memory"
                yield book.write(chunk[0], {"status": "failed", "error": died})


@contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns of that otherwise
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": "ERROR"}
    if cluster.address == LOCAL:
        cores = cluster.workers and cluster.workers * cluster.threads
        options |= {"address": LOCAL, "num_cpus": cores or os.cpu_count(), "include_dashboard": False}
    else:
        options["address"] = cluster.address
    before = signal.getsignal(signal.SIGTERM)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # where Ray tells of workers that died
        _begin(ray, cluster.address, options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has one of its own, which would end this process at once
        try:
            yield ray
        finally:
            ray.shutdown()


def _begin(ray: Any, address: str, options: dict[str, Any]) -> None:
    try:
        ray.init(**options)
    except Exception as error:  # Ray's own are of no common kind
        raise SentinvError(
            f"--ray {address}: {' '.join(str(error).split())} Try again, or look at that cluster"
        ) from error


def _kind(ray: Any, cluster: Cluster) -> dict[str, Any]:
    """What a worker takes of a machine: a GPU where there are any, else its share of CPU cores."""
    gpus = ray.cluster_resources().get("GPU", 0)
    return {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": cluster.threads}


def _fitting(ray: Any, kind: dict[str, Any]) -> int:
    """How many workers the cluster has room for, at least one."""
    there = ray.cluster_resources()
    return max(
        1, int(min(there.get(name.removeprefix("num_").rstrip("s").upper(), 0) / share for name, share in kind.items()))
    )


def _chunks(assignments: Sequence[Assignment], workers: int, at_once: int) -> list[list[Assignment]]:
    """Portions for one call of a worker: whole batches, but enough of them that all workers end at about the same time."""
    size = min(4 * at_once, len(assignments) // (4 * workers))
    size = max(at_once, size - size % at_once)
    return [list(assignments[first : first + size]) for first in range(0, len(assignments), size)]
