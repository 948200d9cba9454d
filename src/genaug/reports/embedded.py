"""Pictures inside a page: small enough that many fit into one file."""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

log = logging.getLogger(__name__)

#: Bytes that all pictures of a page take together before they are written as text, which adds a third.
ALL_BYTES = 6_500_000

#: Bytes that one takes at most.
ONE_BYTES = 260_000

#: Longest side in pixels of the largest and of the smallest pictures.
LARGEST, SMALLEST = 1700, 280

QUALITY = 82


@dataclass(frozen=True)
class Wanted:
    """A picture that a page is to show.

    Attributes:
        path: The file.
        label: Row it belongs to, for the filter.
        caption: What it shows, also for those who do not see it.
    """

    path: Path
    label: str
    caption: str


@dataclass(frozen=True)
class Picture:
    """A picture as it stands in the page.

    Attributes:
        uri: The picture itself, as ``data:image/jpeg;base64,...``.
        width: In pixels.
        height: In pixels.
        label: Row it belongs to, for the filter.
        caption: What it shows.
    """

    uri: str
    width: int
    height: int
    label: str
    caption: str


def embed(wanted: Sequence[Wanted], page_pictures: int) -> list[Picture]:
    """Pictures, made as small as their share of a page of ``page_pictures`` asks for; broken files are left out."""
    most = min(ONE_BYTES, ALL_BYTES // max(1, page_pictures))
    pictures = []
    for one in wanted:
        try:
            data, (width, height) = small_jpeg(one.path, most)
        except OSError as error:
            log.warning("%s is left out of the report: %s", one.path, error)
            continue
        uri = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        pictures.append(Picture(uri, width, height, one.label, one.caption))
    return pictures


def small_jpeg(path: Path, most: int) -> tuple[bytes, tuple[int, int]]:
    """A picture as JPEG of at most ``most`` bytes, and its size; at :data:`SMALLEST` it may have more.

    Raises:
        OSError: the file is not there, or no picture.
    """
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    side = min(LARGEST, max(image.size))
    while True:
        copy = image.copy()
        copy.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        copy.save(buffer, "JPEG", quality=QUALITY)
        size = buffer.tell()
        if size <= most or side <= SMALLEST:
            return buffer.getvalue(), copy.size
        # Bytes go about as the area does.
        side = max(SMALLEST, int(side * min(0.9, math.sqrt(most / size))))
