"""Which process is this, and does that one still run: for locks and temporary names."""

import os
import re
import socket
from pathlib import Path

HOST = re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname())[:64]


def started(pid: int) -> int:
    """Start time in clock ticks since boot; 0 where the system doesn't tell, or if dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def alive(host: str, pid: int, start: int) -> bool:
    """Whether that process may still run; yes when it can't be known from here."""
    if host != HOST or os.name == "nt":  # there, os.kill would end it
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return started(pid) == start
