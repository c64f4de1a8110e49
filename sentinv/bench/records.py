"""Records of studies, one JSON object each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sentinv.bench.study import key_of
from sentinv.errors import SentinvError
from sentinv.files.atomic import shown

Record = dict[str, Any]
"""``key``, ``settings``, ``result``, and ``timing``, the only part that differs between two runs of the same study."""


GONE = {"warmup_steps": 0, "final_learning_rate": 0.0, "weight_decay": 0.0, "pull": 0.0, "max_norm": None}
"""Hyper-parameters that there are no more → the value at which they had no effect."""


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
    """A record's key; that without the hyper-parameters that there are no more, if they had no effect."""
    settings = record.get("settings", {})
    train = settings.get("train", {})
    gone = {name: value for name, value in train.items() if name in GONE}
    if not gone or any(value != GONE[name] for name, value in gone.items()):
        return record["key"]
    return key_of({**settings, "train": {name: value for name, value in train.items() if name not in gone}})


def same_settings(there: Any, now: Any) -> bool:
    """Whether settings of a record are those of today. One that there is no more must have been off (0, false or null)."""
    if isinstance(there, dict) and isinstance(now, dict):
        gone = there.keys() - now.keys()
        return not any(there[name] for name in gone) and all(
            name in there and same_settings(there[name], own) for name, own in now.items()
        )
    return there == now
