"""``genaug list | inspect | verify | export``: look after stores of made images."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from genaug.synthesis.export import LAYOUTS
from genaug.synthesis.image_store import DESCRIPTION, METADATA, ImageStore

#: So many lines of a kind are printed.
SHOWN = 10


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 1 where something is wrong."""
    asked = _parser().parse_args(arguments)
    try:
        return asked.run(asked)
    except (OSError, ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="genaug", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: object, about: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=about, description=about)
        one.set_defaults(run=run)
        return one

    every = command("list", list_stores, "every store under a folder")
    every.add_argument("stores", type=Path, nargs="?", default=Path(os.environ.get("GENAUG_STORES", "stores")))
    inspect = command("inspect", inspect_store, "what a store holds, what made it and what it cost")
    inspect.add_argument("store", type=Path)
    verify = command("verify", verify_store, "read every image and compare it with its record")
    verify.add_argument("store", type=Path)
    verify.add_argument("--repair", action="store_true", help="delete what is wrong; the next run makes it again")
    export = command("export", export_store, "copy a store into the layout of another program")
    export.add_argument("store", type=Path)
    export.add_argument("to", type=Path, help="new or empty folder")
    export.add_argument("--layout", choices=sorted(LAYOUTS), default="imagefolder")
    export.add_argument("--copies", type=int, help="only so many images of each source")
    return parser


def list_stores(asked: argparse.Namespace) -> int:
    """A line a store."""
    found = sorted(file.parent for file in asked.stores.rglob(DESCRIPTION))
    if not found:
        print(f"No stores of images under {asked.stores}.", file=sys.stderr)
        return 1
    table = Table("store", "images", "failed", "MB")
    for root in found:
        store = ImageStore(root)
        kept = list(store.kept())
        size = sum(record["bytes"] for _, record in kept) / 1e6
        table.add_row(str(root), str(len(kept)), str(len(store) - len(kept)), f"{size:.1f}")
    Console(soft_wrap=True).print(table)
    return 0


def inspect_store(asked: argparse.Namespace) -> int:
    """Description, counts, prompts and cost of a store."""
    store, console = ImageStore(asked.store), Console(highlight=False, soft_wrap=True)
    records = [store[key] for key in store]
    for name, value in store.description.items():
        console.print(f"{name}: {value}", markup=False)
    for title, counts in (
        ("verdict", Counter(record["verdict"] for record in records)),
        ("class", Counter(str(record.get("class", record["label"])) for record in records)),
        ("copy", Counter(record["copy"] for record in records)),
        ("prompt", Counter(record["prompt"] for record in records if record["prompt"])),
    ):
        console.print(f"{title}: {len(counts)} different")
        for value, count in counts.most_common(SHOWN):
            console.print(f"  {count:6d}  {value}", markup=False)
    seconds = sum(record["seconds"] for record in records)
    steps = sum(record["denoiser_steps"] * record["attempts"] for record in records)
    speed = f", {len(records) / seconds:.2f} images/s" if seconds else ""
    console.print(f"cost: {steps:,} denoiser steps, {seconds:.0f} s of rendering{speed}")
    return 0


def verify_store(asked: argparse.Namespace) -> int:
    """Say what is wrong; with ``--repair`` also put it right."""
    store = ImageStore(asked.store)
    problems = store.problems()
    listed = asked.store / METADATA
    lines = len(listed.read_text().splitlines()) if listed.exists() else 0
    kept = sum(1 for _ in store.kept())
    for problem in problems[:SHOWN]:
        print(f"{problem.kind}: {problem.path}")
    if len(problems) > SHOWN:
        print(f"and {len(problems) - SHOWN} more")
    if lines != kept:
        print(f"{METADATA} lists {lines} of {kept} images: a run has not ended yet; run it again.")
    if problems and asked.repair:
        store.repair(problems)
        print(f"{len(problems)} problems removed; run the same experiment again to make the missing images.")
        return 0
    print(f"{kept} images, {len(problems)} problems")
    return 1 if problems or lines != kept else 0


def export_store(asked: argparse.Namespace) -> int:
    """Copy a store."""
    count = LAYOUTS[asked.layout](ImageStore(asked.store), asked.to, asked.copies)
    print(f"{count} images in {asked.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
