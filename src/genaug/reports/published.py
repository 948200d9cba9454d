"""Numbers that papers print, beside those that were measured: ``experiments/<study>/published.csv``."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from genaug.privacy import hide_override
from genaug.reports.statistics import summarize
from genaug.reports.tables import LOOKS, NOTHING, Results, Row, row_overrides

#: Where studies lie in a checkout.
EXPERIMENTS = Path(__file__).parents[3] / "experiments"

#: In the place of a model or dataset: the mean over all of them.
AVERAGE = "average"

#: Of a table of measurements, one line a number.
COLUMNS = (
    "study", "dataset", "method", "model", "overrides", "scale", "seed", "split", "metric", "value", "n", "steps",
    "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A number as it is printed.

    Attributes:
        method: Name of our method, and overrides that a run must have: ``deda method.view={p_mix:0.0}``.
        label: As the paper calls it.
        model: Name of our model, or ``average``.
        dataset: As in ``results.json``, or ``average``.
        split: As in ``results.json``; ``split/group`` is a group of it.
        metric: ``accuracy``, or a measure of where the network looks.
        value: As printed: percent, but for measures of where the network looks.
        note: What a reader should know of the number.
    """

    method: str
    label: str
    model: str
    dataset: str
    split: str
    metric: str
    value: float
    note: str

    @property
    def is_average(self) -> bool:
        """Whether it is the mean of other numbers."""
        return AVERAGE in (self.model, self.dataset)

    def is_part(self, average: Published) -> bool:
        """Whether ``average`` is that of this number and others."""
        same = (self.method, self.split, self.metric) == (average.method, average.split, average.metric)
        return same and not self.is_average and average.dataset in (AVERAGE, self.dataset)

    def is_of(self, run: Results) -> bool:
        """Whether a run measured what this number says."""
        method, *overrides = self.method.split()
        same = (run["method"], run.get("model"), run["dataset"]) == (method, self.model, self.dataset)
        return same and set(overrides) <= set(run["overrides"])


def published_rows(experiment: str, folder: Path = EXPERIMENTS) -> list[Published]:
    """The published numbers of a study; none where ``folder`` has no ``published.csv`` of it."""
    file = folder / experiment / "published.csv"
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return [Published(value=float(line.pop("value")), **line) for line in csv.DictReader(lines)]


def studies(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by the study their runs were started with; those of none are left out."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for experiment in sorted({run.get("experiment") or "" for run in row.runs} - {""}):
            found[experiment].append(row)
    return dict(found)


def measured(run: Results) -> Iterator[tuple[str, str, float, int]]:
    """All numbers of a run: split, metric, value (in percent, but for measures of where it looks) and n."""
    for split, score in run["scores"].items():
        metric = score.get("metric", "accuracy")
        if score["n"]:
            yield split, metric, 100 * score["score"], score["n"]
        for name, group in score.get("groups", {}).items():
            if group["n"]:
                yield f"{split}/{name}", metric, 100 * group["score"], group["n"]
    for split, found in (run.get("explain") or {}).get("splits", {}).items():
        for measure in LOOKS:
            if found[measure]["mean"] is not None:
                yield split, measure, found[measure]["mean"], found[measure]["n"]


def beside(rows: Sequence[Row], published: Sequence[Published]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of what was measured beside what is published of the same datasets; empty where nothing is.

    A line for each published number, or for each row that measured it where there are several. Averages are compared
    with the mean of the published numbers they are said to be of, for some are wrong in print.
    """
    datasets = {run["dataset"] for row in rows for run in row.runs}
    wanted = [one for one in published if one.dataset in datasets]
    wanted += [one for one in published if one.dataset == AVERAGE and wanted]
    lines = [line for one in wanted for line in (_average if one.is_average else _lines)(one, rows, published)]
    header = ["method", "model", "dataset", "split", "measured", "published", "difference", "note"]
    # What all lines share, and an empty note, need no column.
    shown = [at for at, name in enumerate(header) if name not in header[1:3] or len({line[at] for line in lines}) > 1]
    shown = [at for at in shown if header[at] != "note" or any(line[at] for line in lines)]
    return ([header[at] for at in shown], [[line[at] for at in shown] for line in lines]) if lines else ([], [])


def _lines(one: Published, rows: Sequence[Row], _: Sequence[Published]) -> list[list[str]]:
    """A number that is no average, beside each row that measured it."""
    matching = [row for row in rows if one.is_of(row.runs[0])]
    lines = []
    for row in matching:
        found = _numbers(one, row)
        if found:
            name = one.method if len(matching) == 1 else row.label
            lines.append(_line(one, name, _cell(one, found), summarize([value for value, _ in found]).mean, one.value))
    return lines or [_line(one, one.method, NOTHING, None, one.value)]


def _average(one: Published, rows: Sequence[Row], published: Sequence[Published]) -> list[list[str]]:
    """An average, beside that of what was measured, where all of it was."""
    parts = [other for other in published if other.is_part(one)]
    means = [
        summarize([value for value, _ in found]).mean
        for part in parts
        for row in rows
        if part.is_of(row.runs[0]) and (found := _numbers(part, row))
    ]
    expected = sum(part.value for part in parts) / len(parts) if parts else one.value
    if not means or len(means) != len(parts):
        return [_line(one, one.method, NOTHING, None, expected)]
    mean = sum(means) / len(means)
    return [_line(one, one.method, f"{mean:.{_digits(one)}f}", mean, expected)]


def _numbers(one: Published, row: Row) -> list[tuple[float, int]]:
    """Value and n of each seed."""
    return [
        (value, n)
        for run in row.runs
        for split, metric, value, n in measured(run)
        # The main score of a split stands for any metric that is no measure of where the network looks.
        if split == one.split and (metric == one.metric or not {metric, one.metric} & set(LOOKS))
    ]


def _digits(one: Published) -> int:
    return 3 if one.metric in LOOKS else 1


def _cell(one: Published, found: Sequence[tuple[float, int]]) -> str:
    summary, digits = summarize([value for value, _ in found]), _digits(one)
    spread = "" if math.isnan(summary.spread) else f" ± {summary.spread:.{digits}f}"
    counts = "/".join(map(str, sorted({n for _, n in found})))
    seeds = f"{len(found)} seed{'s' if len(found) > 1 else ''}"
    return f"{summary.mean:.{digits}f}{spread} [{seeds}, n={counts}]"


def _line(one: Published, name: str, cell: str, mean: float | None, expected: float) -> list[str]:
    difference = NOTHING if mean is None else f"{mean - expected:+.{_digits(one)}f}"
    printed = f"{one.value:.{3 if one.metric in LOOKS else 2}f}"
    split = one.split if one.metric == "accuracy" else f"{one.split} {one.metric}"
    return [name, one.model, one.dataset, split, cell, printed, difference, one.note]


def as_csv(runs: Sequence[Results]) -> str:
    """Every number of every run as CSV, in the units of ``published.csv``: what stands beside it as ``results.csv``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in sorted(runs, key=lambda run: (run["dataset"], run["method"], run["comparison"], run["seed"])):
        seconds = round(sum(run["stage_seconds"].values()), 1)
        asked = " ".join(map(hide_override, row_overrides(run)))
        head = [run.get("experiment"), run["dataset"], run["method"], run.get("model"), asked]
        for split, metric, value, n in measured(run):
            cells = [split, metric, round(value, 4), n, run["steps"], seconds]
            writer.writerow([*head, run.get("scale", 0), run["seed"], *cells])
    return text.getvalue()
