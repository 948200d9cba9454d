"""Several networks judged on the same images: what differs, and what one sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genaug.data.base import Dataset, Sample
from genaug.data.transforms import Crop
from genaug.explaining.judge import MEASURES, Judge, Look, Network
from genaug.explaining.pictures import describe, overlay
from genaug.pictures import save_sheet
from genaug.reports.statistics import summarize

#: Rows of a gallery.
ROWS = 16


@dataclass(frozen=True)
class Paired:
    """A measure on the images for which every network has one.

    Attributes:
        n: How many images those are; what a network is unsure of is skipped, so that each alone would be judged on
            easier images the weaker it is.
        means: By network.
        differences: To the first network, by network: mean over images with its 95 % interval (Student's t), None
            where there are fewer than two images.
    """

    n: int
    means: dict[str, float | None]
    differences: dict[str, dict[str, float] | None]


def pair(values: Mapping[str, Sequence[float | None]]) -> Paired:
    """Compare networks by a measure of each image, in the same order; the first is what the others are compared with.

    >>> found = pair({"a": [0.5, 0.25, None], "b": [0.75, 0.75, 0.0]})
    >>> found.n, found.means, found.differences["b"]["mean"]
    (2, {'a': 0.375, 'b': 0.75}, 0.375)
    """
    rows = [row for row in zip(*values.values(), strict=True) if None not in row]
    columns = dict(zip(values, np.array(rows, dtype=np.float64).T, strict=True)) if rows else {}
    first = next(iter(values))
    differences: dict[str, dict[str, float] | None] = {}
    for name in list(values)[1:]:
        differences[name] = None
        if len(rows) > 1:
            found = summarize((columns[name] - columns[first]).tolist())
            low, high = found.interval
            differences[name] = {"mean": found.mean, "low": low, "high": high}
    return Paired(len(rows), {name: float(columns[name].mean()) if rows else None for name in values}, differences)


def compare(
    networks: Mapping[str, Network],
    splits: Mapping[str, Sequence[Sample]],
    dataset: Dataset,
    crop: Crop,
    judge: Judge,
    pool: Executor | None,
    folder: Path,
) -> dict[str, Any]:
    """Judge every network on the same images with the same random masks.

    Args:
        networks: By name; the first is what the others are compared with.
        splits: The images, by split.
        dataset: For classes and channels.
        crop: Brings images to the networks' size.
        judge: What is measured, and how.
        pool: From :meth:`Judge.pool`.
        folder: Gets two galleries a split: ``<split>_not_all_right.png`` and ``<split>_all_right.png``.

    Returns:
        By split: ``images``, how many each network gets ``right``, and by measure a :class:`Paired` as dictionary with
        the ``alone`` mean and n of each network.
    """
    found: dict[str, Any] = {}
    for split, samples in splits.items():
        chosen = judge.choose(samples)
        looks = {
            name: judge.look(network, chosen, dataset, crop, pool, pictures=len(chosen))
            for name, network in networks.items()
        }
        save_galleries(looks, dataset.classes, folder, split)
        found[split] = {
            "images": len(chosen),
            "right": {name: look.summary["right"] for name, look in looks.items()},
            **{measure: _paired(looks, measure) for measure in MEASURES},
        }
    return found


def _paired(looks: Mapping[str, Look], measure: str) -> dict[str, Any]:
    values = {name: [record[measure] for record in look.records] for name, look in looks.items()}
    alone = {name: {key: look.summary[measure][key] for key in ("mean", "n")} for name, look in looks.items()}
    return {**asdict(pair(values)), "alone": alone}


def save_galleries(looks: Mapping[str, Look], classes: Sequence[str], folder: Path, split: str) -> None:
    """Each image beside the map of every network: where some are right and some wrong, and where all are right."""
    verdicts = [[look.records[i]["right"] for look in looks.values()] for i in range(len(_first(looks).records))]
    kinds = {
        "not_all_right": [i for i, row in enumerate(verdicts) if any(row) and not all(row)],
        "all_right": [i for i, row in enumerate(verdicts) if all(row)],
    }
    for kind, which in kinds.items():
        tiles: list[np.ndarray] = []
        texts: list[str] = []
        for i in which[:ROWS]:
            image = _first(looks).pictures[i][0]
            tiles.append(image if image.shape[2] == 3 else image.repeat(3, axis=2))
            texts.append(describe(_first(looks).records[i], classes).split(" + ")[0])
            for name, look in looks.items():
                tiles.append(overlay(image, look.pictures[i][1]))
                texts.append(f"{name} + {describe(look.records[i], classes).split(' + ')[1]}")
        path = folder / f"{split}_{kind}.png"
        path.unlink(missing_ok=True)  # of an earlier comparison that had such images
        if tiles:
            wide = len(looks) + 1
            save_sheet(tiles, texts, path, columns=wide * max(1, 8 // wide))


def _first(looks: Mapping[str, Look]) -> Look:
    return next(iter(looks.values()))
