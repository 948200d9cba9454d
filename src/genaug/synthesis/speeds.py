"""How fast work went on this machine, kept so that a plan can say how long it will take."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from genaug.synthesis.store import write_atomically

log = logging.getLogger(__name__)

FILE = "speeds.json"


def known_speed(stores: Path, key: str) -> float | None:
    """Seconds an image took when work called ``key`` was last done here; None before the first time."""
    return _read(Path(stores) / FILE).get(key)


def keep_speed(stores: Path, key: str, seconds: float) -> None:
    """Remember that an image of the work called ``key`` took ``seconds``, if it can be written down."""
    file = Path(stores) / FILE
    speeds = {**_read(file), key: round(seconds, 5)}
    try:
        write_atomically(file, json.dumps(speeds, indent=1, sort_keys=True).encode())
    except OSError as error:  # the images are what counts, and they are kept
        log.warning("the speed of this run is not kept: %s", error)


def _read(file: Path) -> dict[str, float]:
    """All speeds; none where the file is not there or broken, which the next run mends."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in pairs if isinstance(value, (int, float))}
