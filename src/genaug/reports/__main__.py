"""``python -m genaug.reports runs/toybirds``: any number of runs as one comparison."""

from __future__ import annotations

import argparse
import sys
from itertools import chain
from pathlib import Path

from rich.console import Console

from genaug.reports import cost, pairs, published
from genaug.reports.failures import Failure, failures, listed
from genaug.reports.settings import baselines
from genaug.reports.tables import Row, by_group, by_look, by_scale, comparison, find_runs, gather, markdown, terminal
from genaug.synthesis.store import write_atomically

EXPLAINED = "mean ± standard deviation over seeds [95 % confidence interval of the mean]"


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison, and write it as Markdown where asked to."""
    parser = argparse.ArgumentParser(prog="python -m genaug.reports", description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs")], help="folders that hold runs")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--csv", type=Path, help="CSV file to write: every number of every run")
    parser.add_argument("--html", type=Path, help="page to write: one file with plots and pictures")
    parser.add_argument(
        "--baseline", help="row that others are compared with, as in the table; without it the plainest"
    )
    asked = parser.parse_args(arguments)
    console, text = Console(), [EXPLAINED]
    failed, runs, tables = failures(asked.runs), [], {}
    try:
        runs = find_runs(asked.runs)
        tables = gather(runs)
        chosen = baselines(tables, asked.baseline)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        if tables or not failed:
            return 1
    for dataset, rows in tables.items():
        text += show_dataset(dataset, rows, chosen[dataset], console)
    for experiment, of_study in published.studies(list(chain.from_iterable(tables.values()))).items():
        text += show_published(experiment, of_study, console)
    if tables:
        console.print(EXPLAINED)
    if failed:
        text += show_failures(failed, console)
    if asked.csv:
        write_atomically(asked.csv, published.as_csv(runs).encode())
        console.print(f"written to {asked.csv}")
    if asked.out:
        write_atomically(asked.out, ("\n\n".join(text) + "\n").encode())
        console.print(f"written to {asked.out}")
    if asked.html:
        from genaug.reports.page import write_page

        write_page(asked.runs, asked.html, asked.baseline)
        console.print(f"written to {asked.html}")
    return 0 if tables else 1


def show_failures(failed: list[Failure], console: Console) -> list[str]:
    """Print which jobs failed; the tracebacks are in the parts of a Markdown file that are returned."""
    console.print(terminal("jobs that failed", *listed(failed)))
    return ["## Jobs that failed", markdown(*listed(failed)), *(one.markdown() for one in failed)]


def show_dataset(dataset: str, rows: list[Row], baseline: Row, console: Console) -> list[str]:
    """Print the tables of one dataset, and return them as parts of a Markdown file."""
    header, cells = comparison(rows)
    console.print(terminal(dataset, header, cells))
    text = [f"## {dataset}", markdown(header, cells)]
    budgets = {(run["steps"], run["batch_size"]) for row in rows for run in row.runs}
    if len(budgets) > 1:
        note = "Budgets differ: rows were not trained for equal steps of equal batches."
        console.print(note)
        text.append(note)
    if len(rows) > 1:
        header, cells = pairs.against(rows, baseline)
        # Without its last column, McNemar's tests by seed, the table fits into a terminal.
        console.print(terminal(f"{dataset}: against {baseline.label}", header[:-1], [line[:-1] for line in cells]))
        text += ["### Against the baseline", markdown(header, cells), pairs.EXPLAINED]
    if (scaled := by_scale(rows))[1]:
        console.print(terminal(f"{dataset}: accuracy % by synthetic images of each real one", *scaled))
        text += ["### By scale", markdown(*scaled)]
    if (looks := by_look(rows))[1]:
        console.print(terminal(f"{dataset}: where the networks look", *looks))
        text += ["### Where the networks look", markdown(*looks)]
    if (grouped := by_group(rows))[1]:
        text += ["### By group", markdown(*grouped)]
    if cost.making_columns(rows):
        console.print(terminal(f"{dataset}: what made images cost", *cost.making_table(rows)))
    return [*text, "### Cost", markdown(*cost.cost_table(rows)), cost.EXPLAINED]


def show_published(experiment: str, rows: list[Row], console: Console) -> list[str]:
    """Print what a study measured beside what is published, and return it as parts of a Markdown file."""
    printed = published.published_rows(experiment)
    header, cells = published.beside(rows, printed)
    title = f"{experiment}: measured and published"
    if cells:
        console.print(terminal(title, header, cells))
        return [f"## {title}", markdown(header, cells)]
    if not printed:
        return []
    theirs = ", ".join(sorted({one.dataset for one in printed} - {published.AVERAGE}))
    ours = ", ".join(sorted({row.runs[0]["dataset"] for row in rows}))
    note = f"The published numbers of {experiment} are of {theirs}, not of {ours}."
    console.print(note, soft_wrap=True)
    return [note]


if __name__ == "__main__":
    sys.exit(main())
