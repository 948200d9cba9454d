"""Many runs as one page that needs nothing but itself: no network, no files beside it."""

from __future__ import annotations

import base64
import glob
import hashlib
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omegaconf import DictConfig, OmegaConf

from genaug.launch import input_checks
from genaug.reports import cost, pairs
from genaug.reports.charts import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    legend,
    look_charts,
    scale_charts,
)
from genaug.reports.embedded import Picture, Wanted, embed
from genaug.reports.failures import failures
from genaug.reports.pairs import Gap, best_of, compare_rows, splits_of
from genaug.reports.published import beside, published_rows, studies
from genaug.reports.settings import baselines, settings_that_differ
from genaug.reports.tables import (
    LOOKS,
    NOTHING,
    Results,
    Row,
    by_group,
    by_look,
    comparison,
    find_runs,
    gather,
    scale_lines,
)
from genaug.synthesis.store import write_atomically

log = logging.getLogger(__name__)

PAGE, COMPARISON = "report.html", "comparison.json"

#: Pictures of a run, and what they show.
SAMPLES = {
    "synthesis.png": "how made images came about",
    "contact_sheet.png": "what training was fed, with its soft labels",
}

#: The two galleries of a comparison of networks, and what they show.
GALLERIES = {
    "not_all_right": "images that some networks get right and others do not",
    "all_right": "images that all networks get right",
}


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        caption: What it shows.
        header: Of its columns.
        lines: Cells, line by line.
        rows: Whether each line begins with the label of a row of the comparison, for the filter.
        bars: Whether percentages are drawn behind their numbers.
        note: Below it.
    """

    caption: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    rows: bool = True
    bars: bool = False
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """What the runs say on one split.

    Attributes:
        split: Of the test images.
        best: Label of the row with the highest mean.
        score: Its score.
        gap: Above the baseline; None where the baseline is the best.
    """

    split: str
    best: str
    score: str
    gap: Gap | None


@dataclass(frozen=True)
class Link:
    """A run and where its files are, seen from the page."""

    label: str
    seed: int
    score: str
    folder: str
    store: str | None


@dataclass(frozen=True)
class Compared:
    """What ``stage=explain`` found of several networks: a table a split, and galleries."""

    tables: list[Table]
    pictures: list[Picture]


@dataclass
class DatasetView:
    """All that the page shows of one dataset."""

    name: str
    baseline: str
    labels: list[str]
    answers: list[Answer]
    notes: list[str]
    comparison: Table
    against: Table
    enough: Table | None
    scales: list[Chart]
    looks: Table | None
    look_charts: dict[str, list[Chart]]
    groups: Table | None
    cost: Table
    samples: list[Picture]
    maps: list[Picture]
    compared: list[Compared]
    settings: Table | None
    partial_settings: Table | None
    links: list[Link]
    versions: Table


@dataclass(frozen=True)
class Failed:
    """A job that failed: where, its command line, and the traceback."""

    folder: str
    overrides: str
    traceback: str


@dataclass
class Plan:
    """Pictures of a dataset before they are made small: how small depends on how many the page has."""

    samples: list[Wanted] = field(default_factory=list)
    maps: list[Wanted] = field(default_factory=list)
    compared: list[tuple[list[Table], list[Wanted]]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.samples) + len(self.maps) + sum(len(wanted) for _, wanted in self.compared)


def write_page(folders: Sequence[Path], out: Path, baseline: str | None = None) -> None:
    """Write the page of all runs under ``folders``; the same runs give the same bytes.

    Args:
        folders: Hold runs.
        out: The HTML file; links lead from there to the runs.
        baseline: Label of the row that others are compared with; None takes the plainest of each dataset.

    Raises:
        FileNotFoundError: there is neither a finished nor a failed run.
        ValueError: no dataset has a row called ``baseline``.
    """
    write_atomically(out, render(folders, out, baseline).encode())


def report_runs(cfg: DictConfig) -> None:
    """``stage=report``: the page of the runs that ``cfg.runs`` names, in the folder of the job.

    Raises:
        WrongValue: there are no runs, or no row is called ``cfg.report.baseline``.
    """
    asked = [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs or [cfg.paths.runs])
    folders = [Path(path) for name in asked for path in (sorted(glob.glob(name)) or [name])]
    out = Path(cfg.paths.output, PAGE)
    with input_checks():
        write_page(folders, out, cfg.report.baseline)
    log.info("written: %s", out)


def render(folders: Sequence[Path], out: Path, baseline: str | None = None) -> str:
    """The page as text, see :func:`write_page`."""
    import jinja2
    from markupsafe import Markup

    failed = failed_jobs(folders, out.parent)
    try:
        tables = gather(find_runs(folders))
    except FileNotFoundError:
        if not failed:
            raise
        tables = {}
    chosen = baselines(tables, baseline)
    plans = {name: plan_pictures(rows) for name, rows in tables.items()}
    count = sum(map(len, plans.values()))
    views = [view_of(name, rows, chosen[name], plans[name], count, out.parent) for name, rows in tables.items()]
    loader = jinja2.PackageLoader("genaug.reports")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    environment.filters |= {
        "parts": parts,
        "leading": leading,
        "slug": slug,
        "legend": legend,
        "breakable": breakable,
        "colour": lambda number: number % COLOURS,
    }
    script, style = (loader.get_source(environment, name)[0] for name in ("report.js", "report.css"))
    return environment.get_template("report.html.j2").render(
        views=views,
        published=measured_and_published([row for rows in tables.values() for row in rows]),
        failed=failed,
        runs=sum(len(row.runs) for rows in tables.values() for row in rows),
        rows=sum(map(len, tables.values())),
        script=Markup(script),  # noqa: S704 - both are files of this package
        style=Markup(style),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        frame={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
    )


def view_of(name: str, rows: list[Row], baseline: Row, plan: Plan, count: int, home: Path) -> DatasetView:
    """All that the page shows of one dataset; ``count`` pictures share the page, which lies in ``home``."""
    splits, lines = splits_of(rows), scale_lines(rows)
    settings, shared, partial = settings_that_differ(rows)
    return DatasetView(
        name=name,
        baseline=baseline.label,
        labels=[row.label for row in rows],
        answers=answers(rows, baseline),
        notes=notes(rows, baseline),
        comparison=Table("Score in percent by test split, budget and time", *comparison(rows)),
        against=Table(f"Each row against {baseline.label}", *pairs.against(rows, baseline), note=pairs.EXPLAINED),
        enough=table_or_none("How much is enough", *pairs.enough(lines, splits), rows=False),
        scales=scale_charts(rows),
        looks=table_or_none("Measures of maps of importance; n is by seed", *row_first(*by_look(rows))),
        look_charts=look_charts(rows),
        groups=table_or_none("Score in percent by group", *row_first(*by_group(rows)), bars=True),
        cost=Table("What each row cost", *cost.cost_table(rows), note=cost.EXPLAINED),
        samples=embed(plan.samples, count),
        maps=embed(plan.maps, count),
        compared=[Compared(tables, embed(wanted, count)) for tables, wanted in plan.compared],
        settings=table_or_none("Settings that all rows have, with different values", settings, shared, rows=False),
        partial_settings=table_or_none("Settings that only some rows have", settings, partial, rows=False),
        links=links(rows, home),
        versions=versions(rows),
    )


def measured_and_published(rows: Sequence[Row]) -> list[Table]:
    """For each study that rows belong to, its numbers beside those of its paper."""
    found = []
    for experiment, mine in studies(rows).items():
        header, cells = beside(mine, published_rows(experiment))
        if cells:
            found.append(Table(f"{experiment}: measured and published", header, cells, rows=False))
    return found


def table_or_none(
    caption: str, header: Sequence[str], lines: Sequence[Sequence[str]], rows: bool = True, bars: bool = False
) -> Table | None:
    """A table, if it has lines."""
    return Table(caption, header, lines, rows, bars) if lines else None


def row_first(header: Sequence[str], lines: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """A table that begins with split and label, the other way round: on a phone the first column stays in sight."""
    swapped = [[line[1], line[0], *line[2:]] for line in (header, *lines)]
    return swapped[0], swapped[1:]


def answers(rows: Sequence[Row], baseline: Row) -> list[Answer]:
    """The best row of each split, and how far it is above the baseline."""
    found = []
    for split in splits_of(rows):
        best = best_of(rows, split)
        if best is not None:
            gap = None if best is baseline else compare_rows(best, baseline, split)
            found.append(Answer(split, best.label, best.cell(split), gap))
    return found


def notes(rows: Sequence[Row], baseline: Row) -> list[str]:
    """What a reader should know before believing the numbers."""
    said = []
    if single := [row.label for row in rows if len(row.runs) == 1]:
        said.append(f"One seed only, so that the spread between seeds is not known: {', '.join(single)}.")
    budgets = defaultdict(list)
    for row in rows:
        for run in row.runs:
            budgets[run["steps"], run["batch_size"]].append(row.label)
    if len(budgets) > 1:
        listed = "; ".join(
            f"{steps:,} steps of {batch}: {', '.join(dict.fromkeys(labels))}"
            for (steps, batch), labels in budgets.items()
        )
        said.append(f"Budgets differ: rows were not trained for equal steps of equal batches ({listed}).")
    if any(len(row.runs) == 2 for row in rows):
        said.append("Of two seeds a 95 % interval is 12.7 standard errors to each side: three make it a third as wide.")
    seeds = {row.label: {run["seed"] for run in row.runs} for row in rows}
    if other := [label for label, mine in seeds.items() if not mine <= seeds[baseline.label]]:
        said.append(f"Not all seeds have a counterpart in {baseline.label}: {', '.join(other)}.")
    if chosen := [row.label for row in rows if row.runs[0]["selection"]["protocol"] == "paper"]:
        said.append(f"Weights were chosen on the test images, which flatters: {', '.join(chosen)}.")
    comparisons = (len(rows) - 1) * len(splits_of(rows))
    if comparisons > 1:
        said.append(
            f"{comparisons} differences to the baseline are tested: of equal methods one in twenty would stand out by "
            "chance."
        )
    return said


def plan_pictures(rows: Sequence[Row]) -> Plan:
    """The pictures of a dataset: of one run of each row, and of comparisons of these runs."""
    plan = Plan()
    for row in rows:
        for name, what in SAMPLES.items():
            if (run := next((run for run in row.runs if Path(run["folder"], name).is_file()), None)) is not None:
                plan.samples.append(
                    Wanted(Path(run["folder"], name), row.label, f"{row.label}, seed {run['seed']}: {what}")
                )
        for run in row.runs:
            if galleries := sorted(Path(run["folder"], "explain", "final").glob("*.png")):
                plan.maps += [
                    Wanted(path, row.label, f"{row.label}, seed {run['seed']}: {_map_caption(path.stem)}")
                    for path in galleries
                ]
                break
    names = {_tail(run["folder"]): f"{row.label}, seed {run['seed']}" for row in rows for run in row.runs}
    roots = {Path(run["folder"]).parents[2] for row in rows for run in row.runs if len(Path(run["folder"]).parents) > 2}
    for file in sorted(file for root in roots for file in root.glob(f"comparisons/*/{COMPARISON}")):
        record = json.loads(file.read_text())
        if any(_tail(folder) in names for folder in record["runs"].values()):
            plan.compared.append(_compared(record, names, file.parent))
    return plan


def _map_caption(stem: str) -> str:
    return "AIC and SIC curves" if stem == "curves" else f"maps of importance, {stem}"


def _tail(folder: str) -> tuple[str, ...]:
    """The part of a run's folder that is the same wherever the runs are moved to: dataset, method and hash."""
    return Path(folder).parts[-3:]


def _compared(
    record: Mapping[str, Any], known: Mapping[tuple[str, ...], str], folder: Path
) -> tuple[list[Table], list[Wanted]]:
    """Tables and galleries of a comparison; its pictures call the networks by their folders, the page by their rows."""
    names = list(record["runs"])
    rows = ", ".join(
        f"{name} is {known.get(_tail(path), '/'.join(_tail(path)))}" for name, path in record["runs"].items()
    )
    header = ["measure", "n", *names, *(f"{name} − {names[0]}" for name in names[1:])]
    tables, wanted = [], []
    for split, found in record["splits"].items():
        lines = []
        for measure, title in LOOKS.items():
            one = found[measure]
            means = [NOTHING if one["means"][name] is None else f"{one['means'][name]:.3f}" for name in names]
            gaps = [one["differences"][name] for name in names[1:]]
            lines.append([title, str(one["n"]), *means, *(_gap_text(gap) for gap in gaps)])
        right = ", ".join(f"{name} {count}" for name, count in found["right"].items())
        caption = f"{split}: {found['images']} images; right: {right}"
        note = f"On images for which every network has the measure; differences with their 95 % interval. {rows}."
        tables.append(Table(caption, header, lines, rows=False, note=note))
        for kind, what in GALLERIES.items():
            if (path := folder / f"{split}_{kind}.png").is_file():
                wanted.append(Wanted(path, "", f"{split}: {what}"))
    return tables, wanted


def _gap_text(gap: Mapping[str, float] | None) -> str:
    return NOTHING if gap is None else f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"


def links(rows: Iterable[Row], home: Path) -> list[Link]:
    """Where the files of each run are, seen from the page's folder."""
    found = []
    for row in rows:
        for run in row.runs:
            score = next(iter(run["scores"].values()))["score"]
            found.append(
                Link(row.label, run["seed"], f"{100 * score:.1f}", relative(run["folder"], home), store_of(run, home))
            )
    return found


def store_of(run: Results, home: Path) -> str | None:
    """The folder of the stores of a run that made something, if it is still there."""
    if not run.get("made"):
        return None
    file = Path(run["folder"], "config.yaml")
    if not file.is_file():
        return None
    kept = OmegaConf.select(OmegaConf.load(file), "paths.stores")
    # A relative folder was seen from where the run was started: mostly the folder that holds that of all runs.
    places = [*(parent / kept for parent in Path(run["folder"]).parents[:4]), Path(kept)] if kept else []
    return next((relative(str(place.resolve()), home) for place in places if place.is_dir()), None)


def relative(folder: str, home: Path) -> str:
    """A folder seen from another."""
    return Path(os.path.relpath(folder, home.resolve())).as_posix()


def versions(rows: Sequence[Row]) -> Table:
    """What the runs ran on, a line for each combination of device and versions."""
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    names = list(dict.fromkeys(name for row in rows for run in row.runs for name in run.get("versions", {})))
    for row in rows:
        for run in row.runs:
            kept = run.get("versions", {})
            found[run.get("device", NOTHING), *(kept.get(name, NOTHING) for name in names)].append(row.label)
    lines = [[key[0], str(len(labels)), *key[1:]] for key, labels in found.items()]
    return Table("Devices and versions", ["device", "runs", *names], lines, rows=False)


def failed_jobs(folders: Sequence[Path], home: Path) -> list[Failed]:
    """Jobs whose last attempt failed."""
    return [Failed(relative(str(one.folder), home), one.overrides, one.traceback) for one in failures(folders)]


def parts(cell: str) -> list[tuple[str, str]]:
    """Lines of a cell, each as what is read first and what stands small behind it.

    >>> parts("60.0 ± 10.0 [35.2, 84.8]"), parts("3 : 1 (p=0.6); 2 : 2 (p=1)")
    ([('60.0 ± 10.0', '[35.2, 84.8]')], [('3 : 1', '(p=0.6)'), ('2 : 2', '(p=1)')])
    """
    found = []
    for line in cell.split("; "):
        first, _, rest = line.partition(" [") if " [" in line else line.partition(" (")
        found.append((first, line[len(first) :].strip()))
    return found


def breakable(text: str) -> Any:
    """A text that may go on in the next line behind a dot, a slash, an underscore or an equals sign.

    >>> breakable("a.b<c")
    Markup('a.<wbr>b&lt;c')
    """
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([./_=])", r"\1<wbr>", str(escape(text))))  # noqa: S704 - escaped


def leading(cell: str) -> float | None:
    """The number that a cell begins with.

    >>> leading("60.0 ± 10.0"), leading("–")
    (60.0, None)
    """
    found = re.match(r"[+-]?\d+(\.\d+)?", cell)
    return float(found.group()) if found else None


def slug(text: str) -> str:
    """A text as part of an id or address.

    >>> slug("my birds/<b>")
    'my%20birds%2F%3Cb%3E'
    """
    return quote(text, safe="")
