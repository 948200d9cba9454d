"""Results as tables: one run at its end, and many runs side by side, in the terminal and as Markdown."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from genaug.reports.statistics import summarize
from genaug.synthesis.jobs import Stage
from genaug.synthesis.speeds import known_speed

#: Overrides that do not tell one row of a comparison from another.
_NOT_A_ROW = ("method=", "seed=", "stage=", "paths.", "loader.", "logger", "callbacks", "explain", "hydra")

_SCALE = "method.scale="

#: Measures of where a network looks, as they stand in tables.
LOOKS = {"aic": "AIC ↑", "sic": "SIC ↑", "insertion": "insertion ↑", "deletion": "deletion ↓", "energy": "on object ↑"}

#: What a run's table shows of a split beside its score, where it was computed.
SHOWN_BESIDE = ("accuracy", "map_voc2007", "map_voc2010")

#: The cell of what was not measured.
NOTHING = "–"

#: So many prompts of a stage are printed with a plan.
SHOWN_PROMPTS = 12

Results = dict[str, Any]


def percent(score: float) -> str:
    """A score in [0, 1] as it stands in tables.

    >>> percent(0.4567)
    '45.7'
    """
    return f"{100 * score:.1f}"


def show_run(results: Results, folder: Path) -> None:
    """Print the table of one run: every split with its n, its groups, and what the run cost."""
    selection = results["selection"]
    table = Table(title=f"{results['method']} on {results['dataset']}, seed {results['seed']}", title_justify="left")
    for column, justify in (("split", "left"), ("group", "left"), ("score %", "right"), ("n", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for split, score in results["scores"].items():
        metric = score.get("metric", "accuracy")
        table.add_row(
            split, "all" if metric == "accuracy" else f"all: {metric}", percent(score["score"]), str(score["n"])
        )
        for other in SHOWN_BESIDE:
            if other != metric and other in score:
                table.add_row("", f"all: {other}", percent(score[other]), str(score["n"]))
        for name, group in score.get("groups", {}).items():
            if group["n"]:
                table.add_row("", name, percent(group["score"]), str(group["n"]))
    console = Console()
    console.print(table)
    if results.get("explain"):
        console.print(looks_of(results["explain"]["splits"]))
    speed, seconds = results["cost"]["images_per_second"], sum(results["stage_seconds"].values())
    held = "" if selection["score"] is None else f" ({percent(selection['score'])} % there)"
    console.print(
        f"weights: {selection['weights']}{held} · {results['steps']} steps of {results['batch_size']}"
        + (f" · {speed:.0f} images/s" if speed else "")
        + f" · {seconds:.0f} s · {folder}",
        highlight=False,
        soft_wrap=True,
    )


def looks_of(splits: dict[str, Any]) -> Table:
    """Where the network of one run looks: every measure with its n, and the maps that said nothing."""
    title = "where it looks: mean (images); on object: share of the map / of the picture"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in ("split", *LOOKS.values(), "no map"):
        table.add_column(column, justify="left" if column == "split" else "right", overflow="fold")
    for split, found in splits.items():
        cells = [
            NOTHING if found[one]["mean"] is None else f"{found[one]['mean']:.3f} ({found[one]['n']})" for one in LOOKS
        ]
        if found["energy"]["coverage"] is not None:
            cells[-1] = f"{found['energy']['mean']:.3f}/{found['energy']['coverage']:.3f}"
        table.add_row(split, *cells, str(sum(found["degenerate"].values())))
    return table


def show_stages(stages: Sequence[Stage], stores: Path) -> None:
    """Print what a method's offline stages will make, from which prompts, and how long it will take.

    The time is known once this work has been done on this machine.
    """
    table = Table(title="what will be made", title_justify="left")
    for column in ("stage", "number", "prompts", "denoiser steps", "time"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    console = Console()
    for stage in stages:
        speed = known_speed(stores, stage.speed_key) if stage.speed_key else None
        time = NOTHING if speed is None else duration(speed * stage.count)
        steps = f"{stage.steps:,}" if stage.steps else NOTHING
        table.add_row(stage.name, f"{stage.count:,}", str(len(stage.prompts()) or NOTHING), steps, time)
    if not stages:
        console.print("This method makes nothing offline.")
        return
    console.print(table)
    for stage in stages:
        prompts = stage.prompts().most_common()
        for prompt, count in prompts[:SHOWN_PROMPTS]:
            console.print(f"  {count:5d} x {escape(prompt)}", highlight=False, soft_wrap=True)
        if len(prompts) > SHOWN_PROMPTS:
            console.print(f"  and {len(prompts) - SHOWN_PROMPTS} more prompts of {stage.name}", highlight=False)
    console.print("Work that is done already is not done again; – is a time that is not known yet.", highlight=False)


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def find_runs(folders: Sequence[Path]) -> list[Results]:
    """Every ``results.json`` under ``folders``, with the ``folder`` it lies in.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted({file.resolve() for folder in folders for file in Path(folder).rglob("results.json")})
    if not files:
        names = ", ".join(str(folder) for folder in folders)
        raise FileNotFoundError(f"No results.json under {names}: has a run finished there?")
    return [json.loads(file.read_text()) | {"folder": str(file.parent)} for file in files]


@dataclass(frozen=True)
class Row:
    """Runs of one configuration that differ in the seed only.

    Attributes:
        label: The method and what else was asked for.
        runs: One for each seed.
    """

    label: str
    runs: list[Results]

    def cell(self, split: str, group: str | None = None) -> str:
        """Mean ± spread of a split's score in percent, and the 95 % interval of the mean."""
        scores = [run["scores"].get(split, {}) for run in self.runs]
        if group is not None:
            scores = [score.get("groups", {}).get(group, {}) for score in scores]
        values = [100 * score["score"] for score in scores if score.get("n")]
        if not values:
            return NOTHING
        counts = "/".join(map(str, sorted({score["n"] for score in scores if score.get("n")})))
        # A split's n stands in the header; a group's differs from split to split.
        return over_seeds(values, 1) + ("" if group is None else f" (n={counts})")

    def look(self, split: str, measure: str) -> str:
        """Mean ± spread of a measure of where the network looks, its interval, and the images it rests on."""
        splits = [(run.get("explain") or {}).get("splits", {}) for run in self.runs]
        found = [one[split][measure] for one in splits if split in one and one[split][measure]["mean"] is not None]
        if not found:
            return NOTHING
        counts = "/".join(str(one["n"]) for one in found)
        return f"{over_seeds([one['mean'] for one in found], 3)} (n={counts})"


def over_seeds(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation and the 95 % interval of the mean; of one value, the value.

    >>> over_seeds([1.0, 2.0, 3.0], 1)
    '2.0 ± 1.0 [-0.5, 4.5]'
    """
    summary = summarize(values)
    if math.isnan(summary.spread):
        return f"{summary.mean:.{digits}f}"
    low, high = summary.interval
    return f"{summary.mean:.{digits}f} ± {summary.spread:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def gather(runs: Sequence[Results]) -> dict[str, list[Row]]:
    """Runs by data set, and within it one row a configuration, the weakest first."""
    by_dataset: dict[str, dict[str, list[Results]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        by_dataset[run["dataset"]][run["comparison"]].append(run)
    tables = {}
    for dataset, groups in by_dataset.items():
        shared = set.intersection(*(set(row_overrides(run)) for group in groups.values() for run in group))
        rows = [Row(_label(group[0], shared), sorted(group, key=lambda run: run["seed"])) for group in groups.values()]
        tables[dataset] = sorted(rows, key=lambda row: summarize([_first_score(run) for run in row.runs]).mean)
    return tables


def _first_score(run: Results) -> float:
    return next(iter(run["scores"].values()))["score"]


def row_overrides(run: Results) -> list[str]:
    """What was asked for, less what does not tell one row from another: method, seed, and where files go."""
    return [text for text in run["overrides"] if not text.startswith(_NOT_A_ROW)]


def _label(run: Results, shared: set[str]) -> str:
    parts = [run["method"], *(text for text in row_overrides(run) if text not in shared)]
    if run["selection"]["protocol"] == "paper":
        parts.append("(best on test)")
    return " ".join(parts)


def comparison(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a comparison: a column a split, then budget and speed of training."""
    splits = list(dict.fromkeys(split for row in rows for run in row.runs for split in run["scores"]))
    counts = {
        split: {run["scores"][split]["n"] for row in rows for run in row.runs if split in run["scores"]}
        for split in splits
    }
    header = ["method", "seeds"]
    header += [
        f"{split}{_metric_of(rows, split)} % (n={'/'.join(map(str, sorted(counts[split])))})" for split in splits
    ]
    header += ["steps", "images/s", "minutes"]
    cells = []
    for row in rows:
        speeds = [run["cost"]["images_per_second"] for run in row.runs if run["cost"]["images_per_second"]]
        minutes = summarize([sum(run["stage_seconds"].values()) / 60 for run in row.runs]).mean
        cells.append(
            [row.label, str(len(row.runs)), *(row.cell(split) for split in splits)]
            + ["/".join(sorted({str(run["steps"]) for run in row.runs}))]
            + [f"{summarize(speeds).mean:.0f}" if speeds else NOTHING, f"{minutes:.1f}"]
        )
    return header, cells


def _metric_of(rows: Sequence[Row], split: str) -> str:
    """What the scores of a split are, for a header; nothing where they are accuracies."""
    found = {run["scores"].get(split, {}).get("metric", "accuracy") for row in rows for run in row.runs}
    return "".join(f" {name}" for name in sorted(found - {"accuracy"}))


def by_scale(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of accuracy against the number of synthetic images of each real one, as in AGA's Figure 6.

    A line for each split and method, a column for each scale; methods that add no images stand under 0X. Empty where
    no method was run at two scales.
    """
    lines = scale_lines(rows)
    if not any(len(found) > 1 for found in lines.values()):
        return [], []
    scales = sorted({scale for found in lines.values() for scale in found})
    splits = list(dict.fromkeys(split for row in rows for run in row.runs for split in run["scores"]))
    cells = []
    for split in splits:
        for label, found in lines.items():
            cells.append([split, label, *(found[scale].cell(split) if scale in found else NOTHING for scale in scales)])
    return ["split", "method", *(f"{scale}X" for scale in scales)], cells


def scale_lines(rows: Sequence[Row]) -> dict[str, dict[int, Row]]:
    """Rows that differ in the scale only, by scale: for each the method and what else tells it from the others."""
    lines: dict[tuple[str, ...], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        others = [text for text in row_overrides(row.runs[0]) if not text.startswith(_SCALE)]
        lines[row.runs[0]["method"], *others][row.runs[0].get("scale", 0)] = row
    shared = set.intersection(*(set(name[1:]) for name in lines))
    return {
        " ".join([name[0], *(text for text in name[1:] if text not in shared)]): found for name, found in lines.items()
    }


def by_group(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of accuracy by group: a line for each method and split; empty where there are no groups."""
    groups = [
        (split, name)
        for row in rows
        for run in row.runs
        for split, score in run["scores"].items()
        for name, group in score.get("groups", {}).items()
        if group["n"]
    ]
    splits, names = (list(dict.fromkeys(column)) for column in zip(*groups, strict=True)) if groups else ([], [])
    cells = []
    for split in splits:
        for row in rows:
            line = [row.cell(split, name) for name in names]
            if set(line) != {NOTHING}:
                cells.append([split, row.label, *line])
    return ["split", "method", *names], cells


def by_look(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of where networks look (AGA's Table 2): a line for each split and method; n is by seed.

    Empty where nothing was explained.
    """
    splits = list(
        dict.fromkeys(
            split for row in rows for run in row.runs for split in (run.get("explain") or {}).get("splits", {})
        )
    )
    lines = [[split, row.label, *(row.look(split, measure) for measure in LOOKS)] for split in splits for row in rows]
    return ["split", "method", *LOOKS.values()], [line for line in lines if set(line[2:]) != {NOTHING}]


def markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(markdown(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(line) + " |" for line in cells])


def terminal(title: str, header: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    """The same within the 80 columns of a terminal: n and intervals stand on a line of their own."""
    # Escaped: an override like x=[a] is no markup.
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for number, name in enumerate(header):
        table.add_column(escape(name).replace(" %", "\n%"), justify="left" if number == 0 else "right", overflow="fold")
    for line in cells:
        table.add_row(*(escape(cell.replace(" [", "\n[")) for cell in line))
    return table
