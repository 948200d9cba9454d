"""Two rows of a comparison against each other: how far apart they are, and whether that is more than noise."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from genaug.reports.statistics import Difference, McNemar, mcnemar, paired_bootstrap, summarize
from genaug.reports.tables import NOTHING, Results, Row

PREDICTIONS = "predictions.csv"

#: Of the generator that draws test images: the same runs give the same intervals.
BOOTSTRAP_SEED = 0

EXPLAINED = (
    "Difference to the baseline in points, over the seeds that both have, with its 95 % interval: over test images "
    "(paired bootstrap; other seeds are not in it) where predictions are there and scores are accuracies, else over "
    "seeds (Student's t). McNemar: images that only the row : only the baseline gets right, and the exact p, by seed."
)


@dataclass(frozen=True)
class Gap:
    """A row against another on one split.

    Attributes:
        seeds: That both have.
        images: Test images that were compared one by one; 0 where scores were.
        difference: Of scores in [-1, 1], the row less the other; None where there is nothing to compare.
        tests: McNemar's, by seed; empty where there are no predictions.
        verdict: "better", "worse", or why it is neither.
        budgets: Whether both saw equally many images in equally many steps.
    """

    seeds: tuple[int, ...]
    images: int
    difference: Difference | None
    tests: tuple[McNemar, ...]
    verdict: str
    budgets: bool

    @property
    def beyond_noise(self) -> bool:
        """Whether the difference is more than noise."""
        return self.verdict in ("better", "worse")

    def text(self) -> str:
        """The difference in points with its interval."""
        if self.difference is None:
            return NOTHING
        mean, low, high = (100 * value for value in (self.difference.mean, self.difference.low, self.difference.high))
        return f"{mean:+.1f}" if np.isnan(low) else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def read_answers(run: Results, split: str) -> dict[str, bool] | None:
    """Which images of a split a run got right, by id; None where it kept no predictions of it."""
    file = Path(run.get("folder", ""), PREDICTIONS)
    return _answers(file, file.stat().st_mtime_ns).get(split) if file.is_file() else None


@lru_cache(maxsize=256)  # each run is compared with several others
def _answers(file: Path, changed: int) -> dict[str, dict[str, bool]]:
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    with file.open(newline="") as opened:
        for row in csv.DictReader(opened):
            found[row["split"]][row["id"]] = row["label"] == row["predicted"]
    return dict(found)


def images_seen(run: Results) -> int:
    """Images that a training was shown, counted each time."""
    return run["steps"] * run["batch_size"]


def compare_rows(row: Row, other: Row, split: str) -> Gap:
    """The gap between ``row`` and ``other`` on a split, seed by seed."""
    ours, theirs = ({run["seed"]: run for run in one.runs if split in run["scores"]} for one in (row, other))
    seeds = tuple(sorted(set(ours) & set(theirs)))
    budgets = {(run["steps"], run["batch_size"]) for one in (row, other) for run in one.runs}
    if not seeds:
        return Gap((), 0, None, (), "no seed in common", len(budgets) == 1)
    pairs = [(ours[seed], theirs[seed]) for seed in seeds]
    answers = [(read_answers(one, split), read_answers(two, split)) for one, two in pairs]
    matrices = [_side_by_side(one, two) for one, two in answers if one is not None and two is not None]
    if any(matrix is None for matrix in matrices):
        return Gap(seeds, 0, None, (), "tested on other images", len(budgets) == 1)
    found = [matrix for matrix in matrices if matrix is not None]
    tests = tuple(mcnemar(matrix[0], matrix[1]) for matrix in found)
    gaps = [one["scores"][split]["score"] - two["scores"][split]["score"] for one, two in pairs]
    accuracy = all(run["scores"][split].get("metric", "accuracy") == "accuracy" for pair in pairs for run in pair)
    same = len({matrix.shape for matrix in found}) == 1
    if accuracy and same and len(found) == len(seeds):
        differences = np.stack([matrix[0].astype(int) - matrix[1] for matrix in found])
        difference = paired_bootstrap(differences, np.random.default_rng(BOOTSTRAP_SEED))
        gaps, images = differences.mean(axis=1).tolist(), differences.shape[1]
    else:
        summary = summarize(gaps)
        difference, images = Difference(summary.mean, *summary.interval), 0
    return Gap(seeds, images, difference, tests, _verdict(difference, gaps), len(budgets) == 1)


def _side_by_side(ours: dict[str, bool], theirs: dict[str, bool]) -> np.ndarray | None:
    """Right or wrong as ``(2, N)`` bool in the order of the ids; None where the images are not the same."""
    if set(ours) != set(theirs):
        return None
    return np.array([[one[name] for name in sorted(ours)] for one in (ours, theirs)])


def _verdict(difference: Difference, gaps: Sequence[float]) -> str:
    if len(gaps) == 1:
        return "within noise (one seed)"
    if difference.low <= 0 <= difference.high:
        return "within noise"
    if len({np.sign(gap) for gap in gaps}) > 1:
        return "within noise (seeds disagree)"
    return "better" if difference.mean > 0 else "worse"


def splits_of(rows: Sequence[Row]) -> list[str]:
    """Names of the test splits, in the order of their first run."""
    return list(dict.fromkeys(split for row in rows for run in row.runs for split in run["scores"]))


def against(rows: Sequence[Row], baseline: Row) -> tuple[list[str], list[list[str]]]:
    """Header and cells of every row against the baseline: a line for each split and row."""
    header = ["method", "split", f"points above {baseline.label}", "verdict", "seeds", "McNemar"]
    cells = []
    for split in splits_of(rows):
        for row in rows:
            if row is baseline:
                continue
            gap = compare_rows(row, baseline, split)
            tests = "; ".join(f"{one.only_first} : {one.only_second} (p={one.p:.2g})" for one in gap.tests)
            verdict = gap.verdict if gap.budgets else f"{gap.verdict}; budgets differ"
            cells.append([row.label, split, gap.text(), verdict, str(len(gap.seeds)), tests or NOTHING])
    return header, cells


def best_of(rows: Sequence[Row], split: str) -> Row | None:
    """The row with the highest mean score on a split; None where no row was tested on it."""
    tested = [row for row in rows if any(split in run["scores"] for run in row.runs)]
    return max(tested, key=lambda row: mean_score(row, split)) if tested else None


def mean_score(row: Row, split: str) -> float:
    """Mean of a row's scores on a split that it was tested on."""
    return summarize([run["scores"][split]["score"] for run in row.runs if split in run["scores"]]).mean


def enough(lines: dict[str, dict[int, Row]], splits: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and cells: the smallest scale of each method whose gap to its best one is noise.

    Args:
        lines: Rows by name and scale, see :func:`genaug.reports.tables.scale_lines`.
        splits: Test splits.
    """
    cells = []
    for split in splits:
        for name, by_scale in lines.items():
            best = best_of(list(by_scale.values()), split)
            if len(by_scale) < 2 or best is None:
                continue
            [at] = [scale for scale, row in by_scale.items() if row is best]
            gaps = {scale: compare_rows(row, best, split) for scale, row in by_scale.items() if row is not best}
            known = [scale for scale, gap in gaps.items() if gap.difference is not None and len(gap.seeds) > 1]
            near = [at, *(scale for scale in known if not gaps[scale].beyond_noise)]
            cells.append(
                [split, name, f"{at}X", best.cell(split), f"{min(near)}X" if known else "not known (one seed)"]
            )
    return ["split", "method", "best scale", "score %", "smallest within noise of it"], cells
