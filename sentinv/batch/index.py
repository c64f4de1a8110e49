"""The index of a batch: pages with a thumbnail, the start words and the losses of each picture, and links."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from sentinv.batch.book import Record
from sentinv.concepts.concept import Concept
from sentinv.errors import SentinvError
from sentinv.files.atomic import atomic_write
from sentinv.report.html import page, table

PER_PAGE = 500
"""Pictures of one page: a thumbnail has about four kilobytes."""

_HEAD = ["", "word", "starts from", "loss", "best step", "seconds"]


def write_index(folder: Path, records: Sequence[Record], left: int) -> Path:
    """Write the pages; the first is index.html.

    Args:
        folder: of the results.
        records: of all pictures that are done or have failed.
        left: how many pictures have none yet.

    Raises:
        SentinvError: If a page cannot be written.
    """
    parts = [records[first : first + PER_PAGE] for first in range(0, len(records), PER_PAGE)] or [[]]
    names = ["index.html", *(f"index-{number}.html" for number in range(2, len(parts) + 1))]
    failed = sum(record["status"] == "failed" for record in records)
    lead = f"{len(records) - failed} learned, {failed} failed, {left} left"
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        links = " ".join(
            str(index) if index == number + 1 else f'<a href="{other}">{index}</a>'
            for index, other in enumerate(names, start=1)
        )
        body = [f"<h1>{escape(folder.name)}</h1>", f'<p class="lead">{lead}</p>']
        body += [f"<p>{links}</p>"] if len(names) > 1 else []
        body.append(table(_HEAD, [_row(folder, record) for record in part], numbers=(3, 4, 5)))
        atomic_write(folder / name, page(f"{folder.name} · sentinv", "\n".join(body)).encode(), overwrite=True)
    return folder / names[0]


def _row(folder: Path, record: Record) -> list[str]:
    word = f"<code>{escape(str(record.get('token')))}</code>"
    json_link = f'<a href="{quote(record["name"])}.json">record</a>'
    if not record.get("concept"):
        return ["", f"{word}<br>{json_link}", f"<b>failed:</b> {escape(str(record.get('error')))}", "", "", ""]
    links = f'<a href="{quote(record["concept"])}">{escape(record["concept"])}</a> · {json_link}'
    text = f"“{escape(str(record.get('text')))}”"
    if record["status"] == "failed":
        text = f"{text}<br><b>failed:</b> {escape(str(record.get('error')))}"
    elif not record["best_step"] and record["steps"]:
        text += "<br><b>nothing learned</b>"
    start, best = record["start_loss"], record["best_loss"]
    return [
        _thumbnail(folder / record["concept"]),
        f"{word}<br>{links}",
        text,
        f"{start:.4f} → {best:.4f}<br>{(best / start - 1) * 100:+.1f} %".replace("-", "\u2212") if start else "",
        str(record["best_step"]),
        f"{record['seconds']:.0f}",
    ]


def _thumbnail(path: Path) -> str:
    try:
        uri = Concept.load(path).metadata.get("modelspec.thumbnail", "")
    except SentinvError:
        uri = ""
    return f'<img src="{escape(uri)}" alt="" style="width:72px">' if uri.startswith("data:image/jpeg;base64,") else ""
