"""Rows as a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    r"""Rows of the same columns as CSV; what there is none of is empty.

    >>> csv_bytes([{"id": "a", "score": 0.5}, {"id": "b", "score": None}])
    b'id,score\r\na,0.5\r\nb,\r\n'
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
