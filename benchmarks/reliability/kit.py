"""What the programs of this folder share: a watched child per try, and a result as one JSON file and one line."""

import json
import os
import platform
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinv.errors import SentinvError

RESULTS = Path(__file__).parent / "results"
MEMORY = 3 * 2**30
SECONDS = 10


@dataclass(frozen=True)
class Outcome:
    """How a child ended: "ok", "refused", "traceback", "signal" or "time"; what it said; peak memory in bytes, CPU time."""

    kind: str
    message: str
    memory: int
    seconds: float


def watched(action: Callable[[], Any], seconds: int = SECONDS) -> Outcome:
    """Run an action in a forked child with limits of memory (above what the parent has) and time."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os._exit(_child(action, writer, seconds))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status, usage = os.wait4(child, 0)
    took, code = usage.ru_utime + usage.ru_stime, os.waitstatus_to_exitcode(status)
    kind = {0: "ok", 1: "refused", 2: "traceback", -signal.SIGALRM: "time"}.get(code, "signal")
    return Outcome(kind, said if code >= 0 else f"signal {-code}", usage.ru_maxrss * 1024, took)


def _child(action: Callable[[], Any], writer: int, seconds: int) -> int:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    code, said = 0, ""
    try:
        said = str(action() or "")
    except SentinvError as error:
        code, said = 1, str(error)
        if not said.isprintable():
            code, said = 2, f"not one line: {said!r}"
    except BaseException:
        code, said = 2, traceback.format_exc()
    with suppress(OSError):
        os.write(writer, said.encode(errors="replace")[:60_000])
    return code


def report(name: str, line: str, **figures: Any) -> None:
    """Print the figure and write it, with what it was measured on, to results/<name>.json."""
    versions = {"python": platform.python_version()}
    for module in ("PIL", "torch", "safetensors"):
        if module in sys.modules:
            versions[module] = str(sys.modules[module].__version__)
    content = {"figure": line, **figures, "versions": versions, "command": f"python benchmarks/reliability/{name}.py"}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"{name}: {line}")
