"""``python -m genaug.reports runs/toybirds``: any number of runs as one comparison."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from genaug.reports.failures import Failure, failures, listed
from genaug.reports.tables import by_group, by_look, by_scale, comparison, find_runs, gather, markdown, terminal
from genaug.synthesis.store import write_atomically

EXPLAINED = "mean ± standard deviation over seeds [95 % confidence interval of the mean]"


def show_failures(failed: list[Failure], console: Console) -> list[str]:
    """Print which jobs failed; the tracebacks are in the Markdown that is returned."""
    console.print(terminal("jobs that failed", *listed(failed)))
    return ["## Jobs that failed", markdown(*listed(failed)), *(one.markdown() for one in failed)]


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison, and write it as Markdown where asked to."""
    parser = argparse.ArgumentParser(prog="python -m genaug.reports", description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs")], help="folders that hold runs")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    asked = parser.parse_args(arguments)
    failed, tables = failures(asked.runs), {}
    try:
        tables = gather(find_runs(asked.runs))
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
    console, text = Console(), [EXPLAINED]
    for dataset, rows in tables.items():
        header, cells = comparison(rows)
        console.print(terminal(dataset, header, cells))
        text += [f"## {dataset}", markdown(header, cells)]
        budgets = {(run["steps"], run["batch_size"]) for row in rows for run in row.runs}
        if len(budgets) > 1:
            note = "Budgets differ: rows were not trained for equal steps of equal batches."
            console.print(note)
            text.append(note)
        if (scaled := by_scale(rows))[1]:
            console.print(terminal(f"{dataset}: accuracy % by synthetic images of each real one", *scaled))
            text += ["### By scale", markdown(*scaled)]
        if (looks := by_look(rows))[1]:
            console.print(terminal(f"{dataset}: where the networks look", *looks))
            text += ["### Where the networks look", markdown(*looks)]
        if (grouped := by_group(rows))[1]:
            text += ["### By group", markdown(*grouped)]
    if tables:
        console.print(EXPLAINED)
    if failed:
        text += show_failures(failed, console)
    if asked.out and (tables or failed):
        write_atomically(asked.out, ("\n\n".join(text) + "\n").encode())
        console.print(f"written to {asked.out}")
    return 0 if tables else 1


if __name__ == "__main__":
    sys.exit(main())
