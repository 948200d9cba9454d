"""How fast work went on this machine, kept so that a plan can say how long it will take."""

from __future__ import annotations

import json
from pathlib import Path

from genaug.synthesis.store import write_atomically

FILE = "speeds.json"


def known_speed(stores: Path, key: str) -> float | None:
    """Seconds an image took when work called ``key`` was last done here; None before the first time."""
    file = Path(stores) / FILE
    try:
        return json.loads(file.read_text())[key]
    except (FileNotFoundError, KeyError, json.JSONDecodeError):
        return None


def keep_speed(stores: Path, key: str, seconds: float) -> None:
    """Remember that an image of the work called ``key`` took ``seconds``."""
    file = Path(stores) / FILE
    try:
        speeds = json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        speeds = {}
    write_atomically(file, json.dumps({**speeds, key: round(seconds, 5)}, indent=1, sort_keys=True).encode())
