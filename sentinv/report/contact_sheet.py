"""Contact sheets: pictures side by side on one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from sentinv.files.images import WHITE

if TYPE_CHECKING:
    from sentinv.editing.archive import Archive
    from sentinv.editing.edit import Edited

_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def contact_sheet(
    images: Sequence[Image.Image],
    *,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    gap: int = 4,
) -> Image.Image:
    """Lay images out on a white sheet, row by row, as a contact sheet.

    Args:
        images: At least one; each is centred in a cell of the largest width and height.
        columns: How many in a row; by default the sheet is about square.
        captions: One line under each image, cut where the cell ends.
        gap: Pixels between and around the cells.

    Returns:
        An RGB image.

    Raises:
        ValueError: If there are no images, or not one caption for each.
    """
    if not images or (captions is not None and len(captions) != len(images)):
        raise ValueError("a grid needs images, and as many captions as images or none")
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    rows = math.ceil(len(images) / columns)
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    font = ImageFont.load_default(size=max(12, min(18, width // 16)))
    line = math.ceil(font.getbbox("Ág")[3]) + 6 if captions is not None else 0
    step = (width + gap, height + line + gap)
    sheet = Image.new("RGB", (columns * step[0] + gap, rows * step[1] + gap), WHITE)
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        left = gap + index % columns * step[0]
        top = gap + index // columns * step[1]
        offset = ((width - image.width) // 2, (height - image.height) // 2)
        sheet.paste(image.convert("RGB"), (left + offset[0], top + offset[1]))
        if captions is not None:
            text = _cut(captions[index], width, font)
            draw.text((left, top + height + 2), text, "black", font)
    return sheet


def edits_sheet(archive: Archive, results: Sequence[Edited]) -> Image.Image:
    """An inverted image, what the autoencoder makes of it, and edits of it, each with its skip; small ones enlarged."""
    images = [archive.image, archive.reconstruction, *(result.image for result in results)]
    captions = ["image", "autoencoder", *(f"skip {result.skip:g}" for result in results)]
    scale = max(1, 160 // images[0].width)
    return contact_sheet([one.resize((one.width * scale, one.height * scale), 0) for one in images], captions=captions)


def arms_sheet(
    image: Image.Image, target: Image.Image | None, made: Sequence[tuple[Mapping[str, Any], Image.Image]]
) -> Image.Image:
    """One edit by all arms: a row for each arm, a column for each skip; what there is one of in the first row.

    Args:
        image: the source.
        target: what the edit should give, if that is known.
        made: records and their images, all of one size.
    """
    cells = [("source", image)] + ([("true target", target)] if target is not None else [])
    arms: dict[str, list[tuple[str, Image.Image]]] = {}
    for record, one in made:
        arms.setdefault(record["arm"], []).append((f"{record['arm']} {record['skip']:g}", one))
    singles = [cell for group in arms.values() if len(group) == 1 for cell in group]
    rows = [cells + singles, *(group for group in arms.values() if len(group) > 1)]
    columns = max(len(row) for row in rows)
    blank = Image.new("RGB", image.size, "white")
    flat = [cell for row in rows for cell in (*row, *[("", blank)] * (columns - len(row)))]
    scale = math.ceil(112 / image.width)  # a caption must fit below each
    larger = [one.resize((one.width * scale, one.height * scale), 0) for _, one in flat]
    return contact_sheet(larger, columns=columns, captions=[caption for caption, _ in flat])


def _cut(text: str, width: int, font: _Font) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
