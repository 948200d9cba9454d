"""``genaug list | inspect | verdicts | verify | export`` look after stores of made images, ``dashboard`` after runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from genaug.filtering.base import VERDICTS
from genaug.synthesis.export import LAYOUTS
from genaug.synthesis.image_store import DESCRIPTION, METADATA, ImageStore

#: So many lines of a kind are printed.
SHOWN = 10
#: So many entries of a list.
LISTED = 3
#: Width of a page that no line fills.
UNFOLDED = 10_000
#: Columns of the list of stores.
NUMBERS = ("images", "copies", "failed", "MB")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 1 where something is wrong."""
    asked = _parser().parse_args(arguments)
    try:
        return asked.run(asked)
    except (OSError, ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="genaug", description="Look after stores of made images, and compare runs.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=about, description=about)
        one.set_defaults(run=run)
        return one

    every = command("list", list_stores, "every store under a folder")
    usual = Path(os.environ.get("GENAUG_STORES", "stores"))
    every.add_argument("stores", type=Path, nargs="?", default=usual, help=f"a folder; without one {usual}")
    inspect = command("inspect", inspect_store, "what a store holds, what made it and what it cost")
    inspect.add_argument("store", type=Path)
    verdicts = command("verdicts", show_verdicts, "what the filters of the last run said of a store's images")
    verdicts.add_argument("store", type=Path)
    verify = command("verify", verify_store, "read every image and compare it with its record")
    verify.add_argument("store", type=Path)
    verify.add_argument("--repair", action="store_true", help="delete what is wrong; the next run makes it again")
    export = command("export", export_store, "copy a store into the layout of another program")
    export.add_argument("store", type=Path)
    export.add_argument("to", type=Path, help="new or empty folder")
    export.add_argument(
        "--layout", choices=sorted(LAYOUTS), default="imagefolder", help="a folder a class, or tar files"
    )
    export.add_argument("--copies", type=int, help="only so many images of each source")
    board = command("dashboard", make_dashboard, "the workspace and the report at Weights & Biases that compare runs")
    board.add_argument("runs", type=Path, nargs="*", default=[Path("runs")], help="folders that hold runs")
    board.add_argument("--project", default="genaug", help="where the runs were logged to; without one genaug")
    board.add_argument("--entity", help="its user or team; without one who is logged in")
    board.add_argument("--offline", type=Path, help="write a JSON file, and ask no server")
    return parser


def list_stores(asked: argparse.Namespace) -> int:
    """A line a store."""
    roots = sorted(_stores_under(asked.stores))
    if not roots:
        print(f"No stores of images under {asked.stores}.", file=sys.stderr)
        return 1
    numbers = [Column(name, justify="right", no_wrap=True) for name in NUMBERS]
    table = Table(Column("store", overflow="fold"), "made by", *numbers, box=SIMPLE_HEAD)
    broken = []
    for root in roots:
        try:
            table.add_row(escape(str(root)), *_summary(ImageStore(root)))
        except ValueError as error:
            broken.append(str(error))
    _console().print(table)
    for reason in broken:
        print(reason, file=sys.stderr)
    return 1 if broken else 0


def _stores_under(folder: Path) -> Iterator[Path]:
    """Folders of stores; the many folders inside one are not looked through."""
    for root, folders, files in os.walk(folder):
        if DESCRIPTION in files:
            folders.clear()
            yield Path(root)


def _summary(store: ImageStore) -> list[str]:
    """What made a store, and its :data:`NUMBERS`."""
    kept = [record for _, record in store.kept()]
    copies = max((record["copy"] for record in kept), default=0)
    size = sum(record["bytes"] for record in kept) / 1e6
    made_by = escape(str(store.description.get("made_by", "")))
    return [made_by, str(len(kept)), str(copies), str(len(store) - len(kept)), f"{size:.1f}"]


def inspect_store(asked: argparse.Namespace) -> int:
    """Description, counts, prompts and cost of a store."""
    store, console = ImageStore(asked.store), _console()
    records = [store[key] for key in store]
    about = Table.grid(padding=(0, 2))
    for name, value in _settings(store.description):
        about.add_row(f"[bold]{escape(name)}", escape(value))
    console.print(about)
    for title, counts in (
        ("verdict", Counter(record["verdict"] for record in records)),
        ("class", Counter(_class_of(record) for record in records)),
        ("copy", Counter(record["copy"] for record in records)),
        ("prompt", Counter(record["prompt"] for record in records if record["prompt"])),
    ):
        console.print(f"\n[bold]{title}[/bold]  {len(counts):,} different")
        for value, count in counts.most_common(SHOWN):
            console.print(f"{count:8,d} x {escape(str(value))}")
        if len(counts) > SHOWN:
            console.print(f"{'':8} and {len(counts) - SHOWN:,} more")
    seconds = sum(record["seconds"] for record in records)
    steps = sum(record["denoiser_steps"] * record["attempts"] for record in records)
    speed = f", {len(records) / seconds:.2f} images/s" if seconds else ""
    console.print(f"\n[bold]cost[/bold]  {steps:,} denoiser steps, {seconds:,.0f} s of rendering{speed}")
    return 0


def show_verdicts(asked: argparse.Namespace) -> int:
    """For each filter how many images it kept and dropped, for which reasons and by which scores."""
    file = ImageStore(asked.store).root / VERDICTS
    if not file.exists():
        raise FileNotFoundError(f"No filter has judged {asked.store}: run a method whose filters are not empty.")
    said: dict[tuple[str, str], list[float | None]] = {}
    for line in map(json.loads, file.read_text().splitlines()):
        said.setdefault((line["filter"], "kept" if line["keep"] else line["reason"]), []).append(line["score"])
    numbers = [Column(name, justify="right") for name in ("images", "lowest", "median", "highest")]
    table = Table("filter", "verdict", *numbers, box=SIMPLE_HEAD)
    for (name, verdict), all_scores in said.items():
        scores = [score for score in all_scores if score is not None]
        spread = [f"{one:.3f}" for one in (min(scores), median(scores), max(scores))] if scores else ["–"] * 3
        table.add_row(escape(name), escape(verdict), str(len(all_scores)), *spread)
    _console().print(table)
    return 0


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each value of a nested description with its dotted name; of a long list the beginning.

    >>> list(_settings({"model": {"steps": 4}, "classes": ["a", "b", "c", "d", "e"]}))
    [('model.steps', '4'), ('classes', '5: a, b, c, …')]
    """
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            more = ", …" if len(value) > LISTED else ""
            yield f"{prefix}{name}", f"{len(value)}: {', '.join(map(str, value[:LISTED]))}{more}"
        else:
            yield f"{prefix}{name}", "–" if value is None else str(value)


def _class_of(record: Mapping[str, Any]) -> str:
    name = record.get("class", record["label"])
    return ", ".join(map(str, name)) if isinstance(name, list) else str(name)


def verify_store(asked: argparse.Namespace) -> int:
    """Say what is wrong; with ``--repair`` also put it right."""
    store = ImageStore(asked.store)
    problems, kept = store.problems(), {key for key, _ in store.kept()}
    behind = _listed(store) != kept
    for problem in problems[:SHOWN]:
        print(f"{problem.kind}: {problem.path}")
    if len(problems) > SHOWN:
        print(f"and {len(problems) - SHOWN} more")
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(one.kind for one in problems).items()))
    print(f"{len(kept)} images, {len(store) - len(kept)} given up, {len(problems)} problems{kinds and f': {kinds}'}")
    if not asked.repair:
        if behind:
            print(f"{METADATA} does not list these {len(kept)}: a run has not ended yet. Run it again, or --repair.")
        return 1 if problems or behind else 0
    if problems or behind:
        store.repair(problems)
        lost = sum(problem.key is not None for problem in problems)
        again = f" Run the same experiment again: it makes the {lost} missing images." if lost else ""
        print(f"Repaired: what was wrong is deleted, and {METADATA} lists what is left.{again}")
    return 0


def _listed(store: ImageStore) -> set[str]:
    """Keys of the images that other programs see; none where the list cannot be read."""
    try:
        return {json.loads(line)["key"] for line in (store.root / METADATA).read_text().splitlines()}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()


def export_store(asked: argparse.Namespace) -> int:
    """Copy a store."""
    count = LAYOUTS[asked.layout](ImageStore(asked.store), asked.to, asked.copies)
    print(f"{count} images in {asked.to}")
    return 0


def make_dashboard(asked: argparse.Namespace) -> int:
    """Make panels of what runs have recorded."""
    from genaug.reports.dashboard import dashboard

    print(dashboard(asked.runs, asked.project, asked.entity, asked.offline))
    return 0


def _console() -> Console:
    """Lines are folded to the window of a person, and never where a program reads them."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=UNFOLDED)


if __name__ == "__main__":
    sys.exit(main())
