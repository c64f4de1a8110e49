"""A lock on an output: of two processes that want to write it, one wins."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sentinv.errors import SentinvError
from sentinv.files.atomic import UNSUPPORTED, StrPath, shown, told, write_all
from sentinv.files.processes import HOST, alive, started


@contextmanager
def lock(path: StrPath) -> Iterator[None]:
    """Hold an output for this process alone, by a lock file `<path>.lock` beside it.

    The kernel ends the lock with its holder, so a lock left by a killed process is
    taken over. Where the file system has no locks, the holder's name in the file
    decides: a holder that is dead, or unreadable, is not respected.

    Raises:
        SentinvError: If another process holds it (the message names it), or the lock
            file can't be written.
    """
    with told(Path(path)):
        file = Path(f"{os.path.realpath(path)}.lock")
    descriptor = _acquire(file, Path(path))
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()
        os.close(descriptor)


def _acquire(file: Path, path: Path) -> int:
    me = {"host": HOST, "pid": os.getpid(), "started": started(os.getpid())}
    while True:
        with told(file):
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if _held(descriptor):
                    raise SentinvError(_busy(path, descriptor))
                if _same_file(descriptor, file):  # else its holder has just removed it
                    try:
                        os.ftruncate(descriptor, 0)
                        write_all(descriptor, json.dumps(me).encode())
                    except BaseException:  # the lock is ours: leave nothing behind
                        with suppress(OSError):
                            file.unlink()
                        raise
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _held(descriptor: int) -> bool:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in UNSUPPORTED:
            raise
        holder = _holder(descriptor)
        return bool(holder) and alive(*holder)
    return False


def _holder(descriptor: int) -> tuple[str, int, int] | tuple[()]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        holder = json.loads(os.read(descriptor, 4096))
        return str(holder["host"]), int(holder["pid"]), int(holder["started"])
    except (ValueError, TypeError, KeyError):
        return ()


def _busy(path: Path, descriptor: int) -> str:
    holder = _holder(descriptor)
    name = f"process {holder[1]} on {holder[0]}" if holder else "another process"
    return f"{shown(path)} is being written by {name}; wait for it to end or choose another output"


def _same_file(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
