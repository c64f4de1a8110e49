"""What pictures there are to learn: folders, patterns, and lists as CSV or JSON lines."""

from __future__ import annotations

import csv
import glob
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sentinv.errors import SentinvError
from sentinv.files.atomic import shown

PICTURES = [".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".heif", ".jxl"]
"""Ends of the names that are taken of a folder."""

LISTS = (".csv", ".jsonl", ".ndjson")
PATHS = ("image", "mask", "from", "templates")
"""Columns that name files; what is not absolute is looked for beside the list."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A picture, and what is told of it alone.

    Attributes:
        image: its file.
        where: how messages name the row.
        columns: name of a column → text; those that are empty are left out.
    """

    image: Path
    where: str
    columns: Mapping[str, str] = field(default_factory=dict)


def read_sources(sources: Sequence[str], columns: Collection[str]) -> list[Row]:
    """Collect the pictures of folders (not of folders in them), patterns, lists, and pictures themselves.

    Args:
        sources: their names.
        columns: names that columns of a list may have, besides "image".

    Raises:
        SentinvError: If one is missing, cannot be read, names no picture, or has a column that is not known.
    """
    rows = [row for source in sources for row in _of(source, ("image", *columns))]
    for row in rows:
        for column in PATHS:
            path = row.image if column == "image" else Path(row.columns.get(column, row.image))
            if not path.is_file():
                raise SentinvError(f"{row.where}: there is no file {shown(path)}: correct the name")
    return rows


def _of(source: str, columns: Collection[str]) -> list[Row]:
    path = Path(source)
    if path.is_dir():
        found = sorted(one for one in path.iterdir() if one.suffix.lower() in PICTURES and one.name[0] != ".")
        kind = "folder"
    elif path.suffix.lower() in LISTS:
        return list(_listed(path, columns))
    elif path.is_file():
        found, kind = [path], "file"
    elif glob.has_magic(source):
        found = [one for one in map(Path, sorted(glob.glob(source, recursive=True))) if one.is_file()]  # noqa: PTH207
        kind = "pattern"
    else:
        raise SentinvError(f"there is no {shown(path)}: give a folder, a pattern, a list or a picture")
    if not found:
        raise SentinvError(
            f"the {kind} {shown(path)} has no pictures: expected names that end in {', '.join(PICTURES)}"
        )
    return [Row(image=one, where=shown(one)) for one in found]


def _listed(path: Path, columns: Collection[str]) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SentinvError(f"cannot read the list {shown(path)}: {reason}; check the file") from error
    lines = _csv(path, text) if path.suffix.lower() == ".csv" else _json_lines(path, text)
    empty = True
    for number, values in lines:
        where = f"{shown(path)}, line {number}"
        unknown = next((name for name in values if name not in columns), None)
        if unknown is not None:
            raise SentinvError(f"{where}: there is no column {unknown!r}; columns are {', '.join(columns)}")
        told = {name: _text(where, name, value) for name, value in values.items()}
        told = {name: value for name, value in told.items() if value}
        told |= {name: str(path.parent / told[name]) for name in PATHS if name in told}
        if "image" not in told:
            raise SentinvError(f"{where}: expected a picture in the column 'image', got none")
        empty = False
        yield Row(image=Path(told.pop("image")), where=where, columns=told)
    if empty:
        raise SentinvError(f"the list {shown(path)} has no rows: expected at least one picture")


def _csv(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise SentinvError(
                    f"{shown(path)}, line {reader.line_num}: expected {len(reader.fieldnames or ())} fields, as in the first "
                    "line; put a field with a comma in double quotes"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise SentinvError(f"{shown(path)}, line {reader.line_num}, is not CSV: {error}; correct it") from error


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise SentinvError(f"{shown(path)}, line {number}, is not JSON: {error.msg}; correct it") from error
        if not isinstance(values, dict):
            raise SentinvError(f'{shown(path)}, line {number}: expected an object such as {{"image": "cat.png"}}')
        yield number, values


def _text(where: str, name: str, value: Any) -> str:
    """A value as the command line would have it; "" for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise SentinvError(f"{where}: expected text or a number in {name!r}, got {value!r}")
    return str(value).strip()
