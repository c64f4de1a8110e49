"""The one layer through which every file of the product is written.

A file is written beside its target under a temporary name, synced, renamed and its
folder synced: whoever looks sees the old content or the new, never a part of it.
A temporary name carries its writer (host, process, start time), so the next start can
`remove_leftovers` of a killed writer. Every failure is a one-line `SentinvError`.

All system calls go through this module's `os`: a test replaces it to fail any of them.
"""

# ruff: noqa: PTH101, PTH102, PTH103, PTH104, PTH105, PTH108, PTH116

import errno
import itertools
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sentinv.errors import SentinvError
from sentinv.files.processes import HOST, alive, started

StrPath = str | os.PathLike[str]
Writer = Callable[[Path], object]

_TEMPORARY = re.compile(r"\.sentinv-(.+)-(\d+)-(\d+)-\d+\.tmp")
_serial = itertools.count()
UNSUPPORTED = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}


def atomic_write(path: StrPath, data: bytes | Writer, *, overwrite: bool = False) -> Path:
    """Write a whole file or nothing.

    Args:
        path: The target. A symbolic link is followed. Its folder must exist.
        data: The content, or a callable that writes it to the path it is given.
        overwrite: Replace an existing file; without it that is an error, also when
            another process creates the file while this one is writing.

    Returns:
        The path as given.

    Raises:
        SentinvError: If the file exists or can't be written; what was there is intact.
    """
    target = Path(path)
    with told(target):
        real = Path(os.path.realpath(target))
        _refuse_occupied(target, real, overwrite)
        temporary = _temporary_beside(real)
        try:
            mode = _fill(temporary, data)
            os.chmod(temporary, mode)
            _sync(temporary)
            _publish(temporary, real, overwrite)
        finally:
            with suppress(OSError):
                os.unlink(temporary)
        _sync_folder(real.parent)
    return target


@contextmanager
def atomic_folder(path: StrPath) -> Iterator[Path]:
    """Write a whole folder or nothing.

    Args:
        path: The target, which must not exist yet.

    Yields:
        A temporary folder beside the target, which becomes the target at the end of
        the block, and is removed when the block ends in an error.

    Raises:
        SentinvError: If the target exists or can't be written.
    """
    target = Path(path)
    with told(target):
        temporary = _temporary_beside(Path(os.path.realpath(target)))
    try:
        with told(target):
            _refuse_occupied(target, target, overwrite=False)
            os.mkdir(temporary)
        yield temporary
        with told(target):
            for folder, _, names in os.walk(temporary, topdown=False):
                for name in names:
                    _sync(Path(folder, name))
                _sync_folder(Path(folder))
            os.rename(temporary, target)
            _sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(path: StrPath) -> Path:
    """Create a folder and its parents; an existing folder is fine.

    Raises:
        SentinvError: If it can't be created, or a file is in the way.
    """
    with told(Path(path)):
        os.makedirs(path, exist_ok=True)
    return Path(path)


def is_one_of(path: StrPath, files: Iterable[StrPath]) -> bool:
    """Whether a path is one of files, or of the files in folders, by whatever name."""
    own, given = os.path.realpath(path), map(Path, files)
    return any(own == os.path.realpath(one) for file in given for one in (file.iterdir() if file.is_dir() else [file]))


def check_writable(path: StrPath) -> None:
    """Refuse a file that could not be written, before any work; nothing is left behind.

    Raises:
        SentinvError: As `atomic_write` would, as far as it can be known.
    """
    target = Path(path)
    with told(target):
        temporary = _temporary_beside(Path(os.path.realpath(target)))
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        finally:
            with suppress(OSError):
                os.unlink(temporary)


def shown(path: StrPath) -> str:
    """A path as it can stand in a one-line message, whatever is in it."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def remove_leftovers(folder: StrPath) -> list[Path]:
    """Remove what killed writers left in a folder (not in its subfolders).

    Only temporary names of this module are looked at, and only those whose writer ran
    on this machine and is dead. A folder that doesn't exist or can't be read is left.

    Returns:
        The removed paths.
    """
    removed = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            writer = _TEMPORARY.fullmatch(entry.name)
            if not writer or alive(writer[1], int(writer[2]), int(writer[3])):
                continue
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
                removed.append(Path(entry.path))
    return removed


def _temporary_beside(target: Path) -> Path:
    pid = os.getpid()
    return target.with_name(f".sentinv-{HOST}-{pid}-{started(pid)}-{next(_serial)}.tmp")


def _refuse_occupied(target: Path, real: Path, overwrite: bool) -> None:
    try:
        found = os.stat(real)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise SentinvError(f"cannot write {shown(target)}: a folder has that name; choose another name")
    if not stat.S_ISREG(found.st_mode):
        raise SentinvError(f"cannot write {shown(target)}: it is not a plain file; choose another name")
    if not overwrite:
        raise SentinvError(_exists(target))


def _exists(target: Path) -> str:
    return f"cannot write {shown(target)}: it exists already; allow overwriting or choose another name"


def _fill(temporary: Path, data: bytes | Writer) -> int:
    """Write the content; the mode that the umask gave is returned for later."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    descriptor = os.open(temporary, flags, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if isinstance(data, bytes):
            write_all(descriptor, data)
    finally:
        os.close(descriptor)
    if not isinstance(data, bytes):
        data(temporary)
    return mode


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, in as many calls as the system wants."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _publish(temporary: Path, real: Path, overwrite: bool) -> None:
    """Give the temporary file its name: by link, which never replaces, or by rename."""
    if not overwrite:
        try:
            os.link(temporary, real)
            return
        except FileExistsError:
            raise SentinvError(_exists(real)) from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
    os.replace(temporary, real)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows has no such call; its renames are journaled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, *UNSUPPORTED):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn what the system refuses into one line: what, which file, why, what to do."""
    try:
        if b"\0" in os.fsencode(path):
            raise ValueError("a NUL character")
    except ValueError as error:
        raise SentinvError(f"cannot write {shown(path)}: no file can have that name; choose another") from error
    try:
        yield
    except OSError as error:
        raise SentinvError(f"cannot write {shown(path)}: {_reason(error, path)}") from error


def _reason(error: OSError, path: Path) -> str:
    if error.errno == errno.ENOENT and not path.parent.exists():
        return f"the folder {shown(path.parent)} does not exist; create it first"
    return _REASONS.get(error.errno or 0) or f"{error.strerror or error}; choose another place"


_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another place",
    errno.EFBIG: "the file is larger than allowed here; raise the limit (ulimit -f)",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.EIO: "the disk reports an input/output error; check it or choose another place",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOTDIR: "a part of its path is a file, not a folder; choose another place",
    errno.EEXIST: "a file has that name; choose another name",
    errno.ELOOP: "its symbolic links lead in a circle; choose another place",
}
