"""Sheets of images with a line of text under each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from genaug.synthesis.store import write_atomically


def label_text(row: Sequence[float], classes: Sequence[str], limit: int = 2) -> str:
    """The classes of a soft label, the heaviest first; what is unknown (NaN) is left out.

    >>> label_text([0.3, 0.0, 0.7], ["crow", "gull", "wren"])
    '0.70 wren + 0.30 crow'
    >>> label_text([0.0, 1.0, 0.0], ["crow", "gull", "wren"])
    'gull'
    """
    ranked = sorted(((weight, name) for weight, name in zip(row, classes, strict=True) if weight > 0.005), reverse=True)
    if len(ranked) == 1 and ranked[0][0] > 0.995:
        return ranked[0][1]
    return " + ".join(f"{weight:.2f} {name}" for weight, name in ranked[:limit])


def save_sheet(
    images: Sequence[np.ndarray], texts: Sequence[str], path: Path, columns: int = 8, tile: int = 160
) -> None:
    """Write a PNG of ``(H, W, C)`` uint8 images in rows, each fitted into a square with its text below.

    Args:
        images: At least one.
        texts: One each; parts joined by " + " stand on two lines, cut to the square's width.
        path: Written whole or not at all.
        columns: Images in a row.
        tile: Side of a square in pixels.
    """
    caption = 30
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (tile + 6) + 6, rows * (tile + caption + 6) + 6), (250, 250, 248))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        x, y = 6 + number % columns * (tile + 6), 6 + number // columns * (tile + caption + 6)
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        scale = tile / max(picture.size)
        method = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BILINEAR
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), method)
        sheet.paste(picture, (x + (tile - picture.width) // 2, y + (tile - picture.height) // 2))
        for line, part in enumerate(text.split(" + ")[:2]):
            draw.text((x, y + tile + 1 + 13 * line), part[:26], fill=(40, 40, 40), font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())
