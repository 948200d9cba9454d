"""Folders of finished runs, written by hand, for tests of reports."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def result(method: str, seed: int, score: float, **changes: Any) -> dict[str, Any]:
    """What a run records that was tested on ten images."""
    run = {
        "dataset": "birds",
        "method": method,
        "scale": 0,
        "overrides": [f"method={method}", f"seed={seed}"],
        "seed": seed,
        "config": f"{method}-{seed}",
        "comparison": method,
        "selection": {"protocol": "heldout", "weights": "best on held-out part", "score": 0.6},
        "scores": {"test": {"score": score, "metric": "accuracy", "n": 10}},
        "steps": 100,
        "batch_size": 16,
        "made": None,
        "stage_seconds": {"train": 50.0, "evaluate": 10.0},
        "cost": {"images_per_second": 200.0, "training_seconds": 45.0, "device_peak_memory_mib": None},
        "device": "1 x cpu",
        "versions": {"python": "3.11", "genaug": "0.1"},
    }
    return run | changes


def write_run(
    runs: Path,
    run: Mapping[str, Any],
    right: Sequence[bool] | None = None,
    config: Mapping[str, Any] | None = None,
    folder: str | None = None,
) -> Path:
    """A run's folder under ``runs``, with predictions of which those in ``right`` are right, and a configuration."""
    home = runs / run["dataset"] / run["method"] / (folder or f"{run['comparison']}-{run['seed']}".replace("/", "_"))
    home.mkdir(parents=True)
    (home / "results.json").write_text(json.dumps(run))
    if right is not None:
        write_predictions(home, {f"test/{number}.png": one for number, one in enumerate(right)})
    if config is not None:
        (home / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    return home


def write_predictions(home: Path, right: Mapping[str, bool], split: str = "test") -> None:
    """``predictions.csv`` of images of class 1, of which those that are wrong are said to be 0."""
    with (home / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "id", "label", "predicted", "confidence"])
        writer.writerows([split, name, 1, int(one), 0.9] for name, one in right.items())


def write_picture(path: Path, size: tuple[int, int] = (40, 20), colour: str = "red") -> None:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


#: Which of ten images two seeds of a row get right.
ANSWERS = {
    "plain": ([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]),
    "more": ([1, 1, 1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]),
    "other": ([1, 1, 1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]),
}


def write_study(runs: Path) -> None:
    """Three methods of two seeds, one of them at two scales, with groups, maps, pictures and a failed job."""
    for method, seeds in ANSWERS.items():
        for seed, right in enumerate(seeds):
            for scale in (1, 2) if method == "more" else (0,):
                write_study_run(runs, method, seed, scale, [bool(one) for one in right])
    failed = runs / "birds" / "broken" / "0"
    failed.mkdir(parents=True)
    (failed / "failed.txt").write_text(
        "method=broken seed=0\nTraceback (most recent call last):\nValueError: no birds\n"
    )


def write_study_run(runs: Path, method: str, seed: int, scale: int, right: list[bool]) -> None:
    """One of them."""
    score = sum(right) / len(right)
    groups = {"land": {"score": score, "n": 6}, "water": {"score": score / 2, "n": 4}}
    made = {"images": {"images": 20 * scale, "denoiser_steps": 100, "seconds": 30.0, "devices": ["cuda:0"]}}
    measures = {name: {"mean": 0.25 + score / 2, "n": 4} for name in ("aic", "sic", "insertion", "deletion")}
    look = {**measures, "energy": {"mean": 0.5, "n": 4, "coverage": 0.2}, "degenerate": {}, "images": 4, "right": 2}
    run = result(
        method,
        seed,
        score,
        scale=scale,
        comparison=f"{method}-{scale}",
        scores={"test": {"score": score, "metric": "accuracy", "n": 10, "groups": groups}},
        made={"cost": made} if scale else None,
        explain={"splits": {"test": look}},
    )
    run["overrides"] += [f"method.scale={scale}"] if scale else []
    config = {
        "method": {"name": method, **({"scale": scale, "synthesis": {"seed": 0}} if scale else {})},
        "mixer": {"alpha": 1.0, "beta": 2.0} if method == "other" else {"alpha": 0.0},
        "recipe": {"batch_size": 16},
        "seed": seed,
        "paths": {"stores": "stores"},
    }
    home = write_run(runs, run, right, config)
    write_picture(home / "contact_sheet.png", (600, 300), "green")
    write_picture(home / "explain" / "final" / "test.png", (300, 300), "blue")
