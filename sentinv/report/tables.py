"""Tables as Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Table:
    """A table with what is needed to read it.

    Attributes:
        title: what it shows.
        header: names of the columns.
        rows: as many cells each.
        note: backbone, formula, N, seeds, interval.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """As a Markdown section, with columns aligned for reading as text."""
        cells = [[_cell(cell) for cell in row] for row in (self.header, *self.rows)]
        widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(self.header))]

        def line(row: Sequence[str]) -> str:
            first, *rest = (
                cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in padded(row)
            )
            return "| " + " | ".join([first, *rest]) + " |"

        def padded(row: Sequence[str]) -> list[tuple[int, tuple[str, int]]]:
            return list(enumerate(zip(row, widths, strict=True)))

        rule = (
            "|" + "|".join("-" * (widths[0] + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
        )
        body = "\n".join([line(cells[0]), rule, *(line(row) for row in cells[1:])])
        return f"### {self.title}\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")

    def html(self) -> str:
        """As an HTML section."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.header)
        rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in self.rows)
        note = f"<p class='note'>{escape(self.note)}</p>" if self.note else ""
        return (
            f"<section><h2>{escape(self.title)}</h2><div class='wide'><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{rows}</tbody></table></div>{note}</section>"
        )


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split()).replace("*", "\\*")
