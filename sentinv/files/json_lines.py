"""Append-only files of JSON records, and values as JSON can say them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from sentinv.files.atomic import StrPath, told, write_all


class JsonLines:
    """An append-only file of JSON records, one a line, each on disk when `write` returns.

    "On disk" means handed to the system: it outlives this process, not a power cut. A
    line torn by a killed writer is cut off when the file is opened again.

    Raises:
        SentinvError: If the file can't be opened or written; the lines before stay whole.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        with told(self.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            self._descriptor = os.open(self.path, flags, 0o666)
            whole = self.path.read_bytes().rfind(b"\n") + 1
            os.ftruncate(self._descriptor, whole)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record. NaN and infinities become null."""
        line = json.dumps(finite(record), ensure_ascii=False) + "\n"
        with told(self.path):
            end = os.fstat(self._descriptor).st_size
            try:
                write_all(self._descriptor, line.encode())
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, end)
                raise

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def finite(value: Any) -> Any:
    """The value as JSON can say it: NaN and infinities become null, tuples lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
