"""A self-contained web page: no script, nothing from outside, light and dark, fit to print."""

import base64
import io
from html import escape

from PIL import Image

_SMALL = 256  # images up to this side are kept exactly, as PNG

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #6b6b70; --line: #e3e3e6; --ground: #fff; --panel: #f6f6f7;
  --accent: #0b6b58; --second: #b9b9bf; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececee; --soft: #9b9ba1; --line: #333338; --ground: #17171a;
  --panel: #1f1f23; --accent: #58c7ab; --second: #5c5c64; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 56px 24px 72px; }
h1 { font: 600 34px/1.2 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; margin: 0 0 6px;
  overflow-wrap: anywhere; }
h2 { font-size: 15px; font-weight: 600; margin: 44px 0 12px; padding-top: 14px; border-top: 1px solid var(--line); }
p { margin: 0 0 10px; } .soft { color: var(--soft); } .lead { font-size: 18px; line-height: 1.45; }
code, pre { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
pre { background: var(--panel); padding: 12px 14px; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere;
  margin: 0 0 12px; }
img { display: block; width: 100%; border-radius: 4px; background: var(--panel); }
img.small { image-rendering: pixelated; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: 12px; margin-top: 5px; }
.top { display: grid; grid-template-columns: 200px 1fr; gap: 32px; align-items: start; }
.inputs { display: grid; gap: 8px; } .inputs.many { grid-template-columns: 1fr 1fr; }
.figures { display: grid; grid-template-columns: repeat(3, 1fr); gap: 20px; margin-top: 26px; }
.figures b { display: block; font-size: 24px; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums; }
.figures span { color: var(--soft); font-size: 13px; }
.strip { display: grid; grid-template-columns: 92px 1fr; gap: 12px; margin-bottom: 12px; align-items: center; }
.strip > div { display: grid; grid-template-columns: repeat(var(--columns), 1fr); gap: 10px; }
.strip > p { margin: 0; font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th.number, td.number { text-align: right; } td code { overflow-wrap: anywhere; } td:first-child code { white-space: nowrap; }
.bar { width: 120px; height: 8px; margin-top: 8px; background: var(--panel); border-radius: 4px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); }
.legend { display: flex; flex-wrap: wrap; gap: 0 24px; font-size: 13px; }
.legend i { display: inline-block; width: 18px; height: 3px; margin-right: 7px; vertical-align: middle; }
.columns { display: grid; grid-template-columns: 3fr 2fr; gap: 0 40px; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
footer { margin-top: 48px; color: var(--soft); font-size: 13px; }
@media (max-width: 640px) { .top, .legend { display: flex; flex-wrap: wrap; gap: 0 24px; font-size: 13px; }
.legend i { display: inline-block; width: 18px; height: 3px; margin-right: 7px; vertical-align: middle; }
.columns { grid-template-columns: 1fr; } main { padding: 28px 16px; }
  .inputs { max-width: 240px; } .bar { width: 64px; }
  .strip { grid-template-columns: 1fr; } }
@media print { :root { --ink: #000; --soft: #555; --line: #ccc; --ground: #fff; --panel: #f4f4f4; --accent: #0b6b58;
  --second: #aaa; } main { max-width: none; padding: 0; } h2 { break-after: avoid; }
  figure, tr, .strip, .top, pre { break-inside: avoid; } * { print-color-adjust: exact; } }
"""


def page(title: str, body: str) -> str:
    """Make a page of a body in HTML and a title in plain text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def image(picture: Image.Image, alt: str) -> str:
    """Show an image; its content is part of the page."""
    small = max(picture.size) <= _SMALL
    buffer = io.BytesIO()
    if small:
        picture.convert("RGB").save(buffer, "PNG")
    else:
        picture.convert("RGB").save(buffer, "JPEG", quality=90)
    uri = f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return f'<img src="{uri}" alt="{escape(alt)}"{" class=small" if small else ""}>'


def table(head: list[str], rows: list[list[str]], numbers: tuple[int, ...] = ()) -> str:
    """Lay cells out, HTML already; the columns `numbers` are aligned right."""

    def line(cells: list[str], tag: str) -> str:
        marked = (
            f"<{tag}{' class=number' if index in numbers else ''}>{cell}</{tag}>" for index, cell in enumerate(cells)
        )
        return f"<tr>{''.join(marked)}</tr>"

    top = f"<thead>{line(head, 'th')}</thead>" if head else ""
    return f"<table>{top}<tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table>"
