"""Files are written whole or not at all, whatever fails and whoever is killed."""

import errno
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sentinv.errors import SentinvError
from sentinv.files import atomic as files
from sentinv.files import locks
from sentinv.files.atomic import atomic_folder, atomic_write, make_folder, remove_leftovers
from sentinv.files.json_lines import JsonLines
from sentinv.files.locks import lock
from sentinv.files.processes import HOST, alive, started

CODES = [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT]
OLD, NEW = b"old" * 1000, b"new" * 2000
CALLS = ("open", "write", "fsync", "chmod", "link", "replace", "rename", "mkdir", "ftruncate")


class FaultyOs:
    """Stands in for a module's `os`: call number `at` (from 0) of those in CALLS raises OSError(code), or runs `act`.

    Attributes:
        calls: names of the calls made so far.
    """

    def __init__(self, at: int = -1, code: int = 0, act: Callable[[], object] | None = None) -> None:
        self.calls: list[str] = []
        self._at, self._code, self._act = at, code, act

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) - 1 == self._at:
                if name == "write" and len(arguments[1]) > 1:  # a full disk takes a part first
                    os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                if self._act:
                    self._act()
                raise OSError(self._code, os.strerror(self._code))
            return real(*arguments, **options)

        return call


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_bytes_and_writers(tmp_path: Path) -> None:
    assert atomic_write(tmp_path / "a", NEW) == tmp_path / "a"
    atomic_write(tmp_path / "b", lambda path: path.write_bytes(NEW))
    assert contents(tmp_path) == {"a": NEW, "b": NEW}


def test_a_file_is_replaced_only_when_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    atomic_write(path, OLD)
    with pytest.raises(SentinvError, match="exists already"):
        atomic_write(path, NEW)
    assert contents(tmp_path) == {"a": OLD}
    atomic_write(path, NEW, overwrite=True)
    assert contents(tmp_path) == {"a": NEW}


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def writer(temporary: Path) -> None:
        temporary.write_bytes(NEW)
        path.write_bytes(OLD)

    with pytest.raises(SentinvError, match="exists already"):
        atomic_write(path, writer)
    assert contents(tmp_path) == {"a": OLD}


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    def writer(temporary: Path) -> None:  # as safetensors writes
        temporary.unlink()
        temporary.touch(0o600)

    before = os.umask(umask)
    try:
        atomic_write(tmp_path / "a", NEW)
        atomic_write(tmp_path / "b", writer)
    finally:
        os.umask(before)
    for name in "ab":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_a_link_is_followed(tmp_path: Path) -> None:
    make_folder(tmp_path / "far")
    (tmp_path / "link").symlink_to("far/file")
    atomic_write(tmp_path / "link", NEW)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far/file").read_bytes() == NEW


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, ValueError])
def test_an_interrupted_writer_leaves_nothing(tmp_path: Path, interrupt: type[BaseException]) -> None:
    def writer(temporary: Path) -> None:
        temporary.write_bytes(NEW)
        raise interrupt

    atomic_write(tmp_path / "a", OLD)
    with pytest.raises(interrupt):
        atomic_write(tmp_path / "a", writer, overwrite=True)
    with pytest.raises(interrupt), atomic_folder(tmp_path / "f") as folder:
        writer(folder / "x")
    assert contents(tmp_path) == {"a": OLD}


def test_messages_name_file_cause_and_remedy(tmp_path: Path) -> None:
    atomic_write(tmp_path / "file", OLD)
    for path, message in [
        (tmp_path / "none" / "a", f"the folder {tmp_path / 'none'} does not exist; create it first"),
        (tmp_path / ("x" * 300), "the name is too long; choose a shorter one"),
        (tmp_path / "file" / "a", "a part of its path is a file, not a folder; choose another place"),
        (tmp_path, "a folder has that name; choose another name"),
        (tmp_path / "nul\0", "no file can have that name; choose another"),
        (tmp_path / "\ud800", "no file can have that name; choose another"),
        (Path("/dev/null"), "it is not a plain file; choose another name"),
    ]:
        with pytest.raises(SentinvError) as error:
            atomic_write(path, NEW, overwrite=True)
        shown = str(path) if str(path).isprintable() else ascii(str(path))
        assert str(error.value) == f"cannot write {shown}: {message}"
    for operation in (atomic_folder, lock):
        with pytest.raises(SentinvError, match="no file can have that name"), operation(tmp_path / "nul\0"):
            pass
    assert contents(tmp_path) == {"file": OLD}


def replace(folder: Path) -> None:
    atomic_write(folder / "a", NEW, overwrite=True)


def create(folder: Path) -> None:
    atomic_write(folder / "b", NEW)


def whole_folder(folder: Path) -> None:
    with atomic_folder(folder / "f") as inside:
        (inside / "x").write_bytes(NEW)
        (inside / "y").write_bytes(NEW)


OPERATIONS: dict[Callable[[Path], None], dict[str, bytes]] = {
    replace: {"a": NEW},
    create: {"a": OLD, "b": NEW},
    whole_folder: {"a": OLD, "f/x": NEW, "f/y": NEW},
}


def calls_of(operation: Callable[[Path], None], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    make_folder(folder)
    (folder / "a").write_bytes(OLD)
    with monkeypatch.context() as patch:
        system = FaultyOs()
        patch.setattr(files, "os", system)
        operation(folder)
    return system.calls


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_call_that_can_fail_fails_cleanly(
    operation: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of(operation, tmp_path / "whole", monkeypatch)
    assert contents(tmp_path / "whole") == OPERATIONS[operation]
    assert calls.count("fsync") >= 2
    for at in range(len(calls)):
        for code in CODES:
            folder = tmp_path / f"{at}-{code}"
            make_folder(folder)
            (folder / "a").write_bytes(OLD)
            with monkeypatch.context() as patch:
                patch.setattr(files, "os", FaultyOs(at, code))
                with pytest.raises(SentinvError, match="cannot write") as error:
                    operation(folder)
            assert str(error.value).isprintable()
            # Only the last sync, of the folder, comes after the new content is in its place.
            after = {**OPERATIONS[operation]} if at >= len(calls) - 2 else {"a": OLD}
            assert contents(folder) == after, calls[at]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_point_where_it_may_be_killed(
    operation: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of(operation, tmp_path / "whole", monkeypatch)
    for at in range(len(calls)):
        folder = tmp_path / str(at)
        make_folder(folder)
        (folder / "a").write_bytes(OLD)
        child = os.fork()
        if not child:
            files.os = FaultyOs(at, act=lambda: os._exit(9))  # type: ignore[assignment]
            operation(folder)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        remove_leftovers(folder)
        assert contents(folder) in ({"a": OLD}, OPERATIONS[operation]), calls[at]


WRITER = """
import sys
from sentinv.files.atomic import atomic_write, remove_leftovers
remove_leftovers(sys.argv[1])
for i in range(10**9):
    atomic_write(sys.argv[1] + "/a", bytes([i % 251]) * 300_000, overwrite=True)
    if not i: print("ready", flush=True)
"""


def test_kill_at_any_time_tears_nothing(tmp_path: Path) -> None:
    for attempt in range(6):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.003 * attempt)
            writer.kill()
        remove_leftovers(tmp_path)
        assert list(contents(tmp_path)) == ["a"]
        data = (tmp_path / "a").read_bytes()
        assert data == data[:1] * 300_000


def test_sweep_takes_only_what_dead_writers_left(tmp_path: Path) -> None:
    me, start = os.getpid(), started(os.getpid())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = [
        f".sentinv-{HOST}-{me}-{start}-0.tmp",
        f".sentinv-elsewhere-{dead.pid}-1-0.tmp",
        ".sentinv-x.tmp",
        "photo.tmp",
        f"sentinv-{HOST}-{dead.pid}-1-0.tmp",
    ]
    gone = [f".sentinv-{HOST}-{dead.pid}-1-0.tmp", f".sentinv-{HOST}-{me}-{start + 1}-0.tmp"]
    for name in kept + gone:
        (tmp_path / name).touch()
    left_folder = tmp_path / f".sentinv-{HOST}-{dead.pid}-1-7.tmp"
    (make_folder(left_folder / "deep") / "x").touch()
    assert {path.name for path in remove_leftovers(tmp_path)} == {*gone, left_folder.name}
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
    assert remove_leftovers(tmp_path / "none") == []


def test_who_is_alive() -> None:
    me = os.getpid()
    assert alive(HOST, me, started(me))
    assert not alive(HOST, me, started(me) + 1)
    assert alive("elsewhere", me, 0)
    assert not alive(HOST, 2**40, 0)
    child = os.fork()
    if not child:
        os._exit(0)
    start = started(child)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert not alive(HOST, child, start or 1)
    os.waitpid(child, 0)


def contend(path: Path, start: object, results: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    try:
        with lock(path):
            results.put((os.getpid(), ""))  # type: ignore[attr-defined]
            time.sleep(0.2)
    except SentinvError as error:
        results.put((os.getpid(), str(error)))  # type: ignore[attr-defined]


def test_of_many_writers_one_wins_and_is_named(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        start, results = context.Barrier(6), context.Queue()
        writers = [context.Process(target=contend, args=(tmp_path / "out", start, results)) for _ in range(6)]
        for writer in writers:
            writer.start()
        got = [results.get(timeout=20) for _ in writers]
        for writer in writers:
            writer.join()
        (winner,) = [pid for pid, message in got if not message]
        told = [message for _, message in got if message]
        assert all("is being written by" in message for message in told)
        assert any(f"process {winner} on {HOST}" in message for message in told)
        assert not list(tmp_path.iterdir())


def test_a_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        with lock(tmp_path / "out"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert json.loads((tmp_path / "out.lock").read_bytes())["pid"] == child
    with lock(tmp_path / "out"):
        assert json.loads((tmp_path / "out.lock").read_bytes())["pid"] == os.getpid()
    assert not (tmp_path / "out.lock").exists()


def test_a_lock_without_the_help_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock(tmp_path / "out"), pytest.raises(SentinvError, match=f"process {os.getpid()} on"), lock(tmp_path / "out"):
        pass
    for stale in ({"host": HOST, "pid": os.getpid(), "started": 1}, {}, [1], "no holder"):
        (tmp_path / "out.lock").write_text(json.dumps(stale))
        with lock(tmp_path / "out"):
            pass


def test_a_lock_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SentinvError, match="does not exist; create it first"), lock(tmp_path / "none" / "out"):
        pass
    for at in range(3):  # open, ftruncate, write
        with monkeypatch.context() as patch:
            patch.setattr(locks, "os", FaultyOs(at, errno.ENOSPC))
            patch.setattr(files, "os", FaultyOs(0 if at == 2 else -1, errno.ENOSPC))
            with pytest.raises(SentinvError, match="the disk is full"), lock(tmp_path / "out"):
                pass
    with lock(tmp_path / "out"):
        pass


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonLines(path) as lines:
        lines.write({"step": 1, "loss": float("nan"), "rows": [1.0, float("inf")], "name": "ü"})
        assert path.read_text() == '{"step": 1, "loss": null, "rows": [1.0, null], "name": "ü"}\n'
    with path.open("a") as file:
        file.write('{"step": 2, "lo')  # torn by a kill
    with JsonLines(path) as lines:
        lines.write({"step": 2})
        lines.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    with pytest.raises(SentinvError, match="does not exist"):
        JsonLines(tmp_path / "none" / "metrics.jsonl")


@pytest.mark.parametrize("code", CODES)
def test_a_line_that_does_not_fit_leaves_the_others_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonLines(path) as lines:
        lines.write({"step": 1})
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", FaultyOs(0, code))
            with pytest.raises(SentinvError, match="cannot write"):
                lines.write({"step": 2})
        lines.write({"step": 3})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]


def test_a_limit_of_the_system_is_told(tmp_path: Path) -> None:
    program = f"""
import resource
from sentinv.files.atomic import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
atomic_write({str(tmp_path / "a")!r}, b"x" * 2000)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "the file is larger than allowed here; raise the limit" in done.stderr
    assert not list(tmp_path.iterdir())
