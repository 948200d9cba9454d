"""Methods compared by where their networks look, on the images for which both have a curve.

    python experiments/toybirds_explain/pairs.py runs/toybirds vanilla deda aga

Reads what ``callbacks=explain`` left in the runs' folders: runs of one study are judged on the same images with the
same random masks, so that runs of equal seed can be compared image by image. Of every seed the mean difference to the
first method; over seeds the mean of these, and its 95 % interval (Student's t).
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from genaug.explaining.comparison import pair
from genaug.explaining.judge import MEASURES
from genaug.reports.tables import NOTHING, markdown, over_seeds

Values = dict[str, list[float | None]]


def read_looks(folder: Path) -> dict[tuple[str, int], Path]:
    """Where each method and seed has its tables."""
    files = sorted(folder.rglob("results.json"))
    runs = [(json.loads(file.read_text()), file.parent / "explain" / "final") for file in files]
    return {(run["method"], run["seed"]): looks for run, looks in runs if looks.exists()}


def read_values(file: Path) -> Values:
    """Every measure of every image, None where there is none."""
    with file.open() as text:
        rows = list(csv.DictReader(text))
    return {measure: [float(row[measure]) if row[measure] else None for row in rows] for measure in MEASURES}


def compare(looks: dict[tuple[str, int], Path], split: str, first: str, other: str) -> list[str]:
    """Cells of one line: for each measure the difference over seeds, and the images it rests on."""
    seeds = sorted(seed for method, seed in looks if method == first and (other, seed) in looks)
    cells = []
    tables = {
        (name, seed): read_values(looks[name, seed] / f"{split}.csv") for name in (first, other) for seed in seeds
    }
    for measure in MEASURES:
        found = [pair({name: tables[name, seed][measure] for name in (first, other)}) for seed in seeds]
        gaps = [one.differences[other]["mean"] for one in found if one.differences[other]]  # type: ignore[index]
        counts = "/".join(str(one.n) for one in found)
        cells.append(f"{over_seeds(gaps, 3)} (n={counts})" if gaps else NOTHING)
    return cells


def main() -> None:
    """Print one Markdown table of differences to the first method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder that holds the runs of one data set")
    parser.add_argument("methods", nargs="+", help="the first is what the others are compared with")
    asked = parser.parse_args()
    looks = read_looks(asked.runs)
    first, *others = asked.methods
    splits = sorted(path.stem for path in next(iter(looks.values())).glob("*.csv") if path.stem != "curves")
    splits.sort(key=lambda name: name != "test")
    lines = [
        [split, f"{other} - {first}", *compare(looks, split, first, other)] for split in splits for other in others
    ]
    print(markdown(["split", "difference", *MEASURES], lines))


if __name__ == "__main__":
    main()
