"""Studies as users write them: TOML files."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from sentinv.bench.study import Study
from sentinv.errors import SentinvError
from sentinv.files.atomic import shown


def read_study(path: str | Path) -> Study:
    """Read a study from a TOML file: the fields of `Study`, with tables ``[train]``, ``[grid]`` and ``[arms.NAME]``.

    Raises:
        SentinvError: In one line, if it can't be read or has an unknown key or value.
    """
    table = _toml(path)
    known = {field.name: field.type for field in fields(Study)}
    unknown = [key for key in table if key not in known]
    if unknown:
        raise SentinvError(f"{shown(path)}: there is no key {unknown[0]!r}; keys are {', '.join(known)}")
    values: dict[str, Any] = {"title": Path(path).stem, **table}
    for key, value in values.items():
        wanted = dict if key in ("train", "grid", "arms") else list if "tuple" in str(known[key]) else None
        if wanted is not None and not isinstance(value, wanted):
            kind = "a table" if wanted is dict else "a list"
            raise SentinvError(f"{shown(path)}: {key} must be {kind}, got {value!r}")
        if wanted is list:
            values[key] = tuple(value)
    for name, options in values.get("grid", {}).items():
        if not isinstance(options, list):
            raise SentinvError(f"{shown(path)}: {name} in [grid] must be a list of values, got {options!r}")
    try:
        return Study(**values)
    except TypeError as error:
        raise SentinvError(f"{shown(path)}: {error}") from error


def _toml(path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SentinvError(f"cannot read the study {shown(path)}: {error.strerror}; check the name") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SentinvError(f"{shown(path)} is not valid TOML: {error}; correct it") from error
