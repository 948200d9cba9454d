"""What rows ran with: which one is the baseline, and in what the others differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from genaug.launch import NOT_IDENTITY
from genaug.privacy import public
from genaug.reports.tables import NOTHING, Results, Row

CONFIG = "config.yaml"

#: The parts of a configuration that say what is done to the training images.
AUGMENTATION = ("method", "mixer", "transform")


def config_of(run: Results) -> dict[str, Any]:
    """The configuration a run kept, resolved, as dotted keys; empty where it kept none.

    What does not change a result is left out, and the seed.
    """
    file = Path(run.get("folder", ""), CONFIG)
    if not file.is_file():
        return {}
    tree: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return dict(flat({key: value for key, value in tree.items() if key not in (*NOT_IDENTITY, "seed")}))


def flat(tree: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """The values of a tree with their dotted keys.

    >>> flat({"a": {"b": 1, "c": [2]}, "d": {}})
    [('a.b', 1), ('a.c', [2]), ('d', {})]
    """
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        found += flat(value, f"{before}{key}.") if isinstance(value, Mapping) and value else [(f"{before}{key}", value)]
    return found


def baselines(tables: Mapping[str, Sequence[Row]], label: str | None = None) -> dict[str, Row]:
    """For each dataset the row that its others are compared with: the one asked for, or the plainest.

    That is one which made no images, and of those the one with the fewest settings of method, mixer and transform; of
    equals the weakest.

    Args:
        tables: Rows by dataset, the weakest first.
        label: As it stands in a table; a dataset without such a row takes its plainest.

    Raises:
        ValueError: no dataset has a row called ``label``.
    """
    labels = dict.fromkeys(row.label for rows in tables.values() for row in rows)
    if label is not None and tables and label not in labels:
        raise ValueError(f"No row is called {label!r}. There are: {', '.join(labels)}.")
    found = {}
    for dataset, rows in tables.items():
        asked = [row for row in rows if row.label == label]
        found[dataset] = asked[0] if asked else min(rows, key=_plainness)
    return found


def _plainness(row: Row) -> tuple[bool, int]:
    settings = [key for key in config_of(row.runs[0]) if key.split(".")[0] in AUGMENTATION]
    return bool(row.runs[0].get("made")), len(settings)


def settings_that_differ(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Header, and cells of the settings that differ between rows: of those all have, and of those only some have."""
    configs = [config_of(row.runs[0]) for row in rows]
    shared: list[list[str]] = []
    partial: list[list[str]] = []
    for key in dict.fromkeys(key for config in configs for key in config):
        if len({str(config.get(key, NOTHING)) for config in configs}) > 1:
            values = [str(public(config[key], key)) if key in config else NOTHING for config in configs]
            (shared if all(key in config for config in configs) else partial).append([key, *values])
    return ["setting", *(row.label for row in rows)], shared, partial
