"""Seconds until a question or a mistake on the command line is answered, beside ``import torch`` alone.

    python benchmarks/startup.py

Every command is a fresh process, all of them in turn, several rounds; the first round, which fills the disk cache, does
not count. Ratios are taken round by round, so that the machine's drift cancels.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

RUN = str(Path(__file__).parents[1] / "run.py")
GENAUG = "import sys; from genaug.synthesis.commands import main; sys.exit(main(['--help']))"  # as its script does

#: Name, what follows ``python``, and whether it is to succeed.
COMMANDS = {
    "python -c pass": (("-c", "pass"), True),
    "import torch": (("-c", "import torch"), True),
    "run.py --help": ((RUN, "--help"), True),
    "run.py --cfg job": ((RUN, "--cfg", "job"), True),
    "run.py method=nonesuch": ((RUN, "method=nonesuch"), False),
    "run.py seeed=1": ((RUN, "seeed=1"), False),
    "run.py stage=foo": ((RUN, "stage=foo"), False),
    "python -m genaug.reports --help": (("-m", "genaug.reports", "--help"), True),
    "genaug --help": (("-c", GENAUG), True),
}


def seconds(name: str, folder: Path) -> float:
    """Wall time of one process, from its start to its end.

    Raises:
        RuntimeError: it failed where it should not, or the other way round.
    """
    arguments, succeeds = COMMANDS[name]
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    taken = time.perf_counter() - begun
    if (done.returncode == 0) != succeeds:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    rounds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(1 + asked.rounds):
            for name, taken in rounds.items():
                taken.append(seconds(name, Path(folder)))
    table = Table(title=f"seconds, median of {asked.rounds} rounds")
    for column in ("", "median", "slowest", "x import torch"):
        table.add_column(column, justify="left" if not column else "right")
    torch = rounds["import torch"][1:]
    for name, (_, *taken) in rounds.items():
        ratio = statistics.median(one / beside for one, beside in zip(taken, torch, strict=True))
        table.add_row(name, f"{statistics.median(taken):.2f}", f"{max(taken):.2f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
