"""Records of studies, one JSON object each, and where they come from."""

from __future__ import annotations

import json
import platform
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sentinv.bench.study import key_of
from sentinv.errors import SentinvError
from sentinv.files.atomic import shown

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone

Record = dict[str, Any]
"""``key``, ``settings``, ``result``, and ``timing``, the only part that differs between two runs of the same study."""


GONE = {"warmup_steps": 0, "final_learning_rate": 0.0, "weight_decay": 0.0, "pull": 0.0}
"""Hyper-parameters that there are no more → the value at which they had no effect."""

ADDED: dict[str, Any] = {
    "blended": 0,
    "scenes": None,
    "styles": None,
    "max_norm": None,
    "fixed_norms": False,
    "relative_learning_rate": None,  # older records have an absolute one
}
"""Hyper-parameters of the training that older records don't have → the value at which they have no effect."""

_NEW = {*ADDED, "weights"}
"""Settings that older records don't have, and that are off where they are 0, false, null or empty."""


def read_records(folder: str | Path) -> dict[str, Record]:
    """Read all records of a folder, by the key that their settings have today.

    The last line of a file may be torn, by a writer that was killed.

    Raises:
        SentinvError: If a file can't be read, or any other line of it is no record.
    """
    records: dict[str, Record] = {}
    for path in sorted(Path(folder).glob("records*.jsonl")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError as error:
            raise SentinvError(f"cannot read {shown(path)}: {error.strerror}; check the file") from error
        for number, line in enumerate(lines[:-1], start=1):  # what follows the last line break was torn off
            try:
                record = json.loads(line)
                records[_key_today(record)] = record
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise SentinvError(
                    f"{shown(path)}, line {number}, is no record of a study: remove that line"
                ) from error
    return records


def _key_today(record: Record) -> str:
    """The key that a record's settings have today.

    What there is no more is left out if it had no effect; what is new since then had none.
    """
    settings = record.get("settings", {})
    train = settings.get("train", {})
    if not train or any(train.get(name, off) != off for name, off in GONE.items()):
        return record["key"]
    kept = {name: value for name, value in train.items() if name not in GONE}
    return key_of({**settings, "train": {**ADDED, **kept}})


def same_settings(there: Any, now: Any) -> bool:
    """Whether settings of a record are those of today.

    One that there is no more must be off (0, false, null or empty), and so must one that is new since then, or as in `ADDED`.
    """
    if isinstance(there, dict) and isinstance(now, dict):
        gone, new = there.keys() - now.keys(), now.keys() - there.keys()
        return (
            new <= _NEW
            and not any(there[name] for name in gone)
            and all(now[name] == ADDED[name] if name in ADDED else not now[name] for name in new)
            and all(same_settings(there[name], now[name]) for name in there.keys() & now.keys())
        )
    if isinstance(there, list) and isinstance(now, list):
        return len(there) == len(now) and all(map(same_settings, there, now))
    return there == now


def machine(backbone: Backbone) -> dict[str, str]:
    """Model, machine, command and date, for a report."""
    device = backbone.device
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{_processor()}, {torch.get_num_threads()} threads"
    return {
        "model": f"{backbone.name} ({backbone.fingerprint[:12]}), {str(backbone.dtype).removeprefix('torch.')}",
        "machine": f"{where}, torch {torch.__version__}",
        "command": " ".join(
            ["sentinv", *(argument if " " not in argument else repr(argument) for argument in sys.argv[1:])]
        ),
        "date": date.today().isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
