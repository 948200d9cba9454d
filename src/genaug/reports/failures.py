"""Jobs that failed: what is left in their folders, and what a report says of them."""

from __future__ import annotations

import html
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genaug.privacy import hide, hide_override
from genaug.synthesis.store import write_atomically

#: In the folder of a job whose last attempt failed: the overrides on the first line, then the traceback.
FAILED = "failed.txt"


@dataclass(frozen=True)
class Failure:
    """A job that failed.

    Attributes:
        folder: Of the job.
        overrides: Its command line.
        traceback: All that Python said, without secrets.
    """

    folder: Path
    overrides: str
    traceback: str

    @property
    def error(self) -> str:
        r"""The exception, on one line.

        >>> said = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\nValueError: no\n  such\n'
        >>> Failure(Path(), "", said).error
        'ValueError: no such'
        """
        lines = self.traceback.rstrip().split("\n")
        last_frame = max((number for number, line in enumerate(lines) if line.startswith('  File "')), default=-1)
        begins = [number for number, line in enumerate(lines) if number > last_frame and line[:1].strip()]
        return " ".join(" ".join(lines[begins[0] if begins else 0 :]).split())

    def markdown(self) -> str:
        """The traceback, to be unfolded."""
        said = html.escape(self.traceback.strip())
        return f"<details><summary>{html.escape(str(shown(self.folder)))}</summary>\n<pre>\n{said}\n</pre>\n</details>"


def note_failure(folder: Path, overrides: Sequence[str], error: BaseException) -> Failure:
    """Write what happened into a job's folder."""
    said = hide("".join(traceback.format_exception(error)))
    failure = Failure(folder, " ".join(map(hide_override, overrides)), said)
    write_atomically(folder / FAILED, f"{failure.overrides}\n{failure.traceback}".encode())
    return failure


def failures(folders: Sequence[Path]) -> list[Failure]:
    """Every job under ``folders`` whose last attempt failed."""
    files = sorted({file.resolve() for folder in folders for file in Path(folder).rglob(FAILED)})
    found = []
    for file in files:
        overrides, _, said = file.read_text(errors="replace").partition("\n")
        found.append(Failure(file.parent, overrides, said))
    return found


def listed(found: Sequence[Failure]) -> tuple[list[str], list[list[str]]]:
    """Header and cells: a line a job, its folder, what sets it apart from the others, and the exception."""
    shared = set.intersection(*(set(one.overrides.split(" ")) for one in found)) if len(found) > 1 else set()
    apart = [" ".join(text for text in one.overrides.split(" ") if text not in shared) for one in found]
    cells = [[str(shown(one.folder)), text, one.error] for one, text in zip(found, apart, strict=True)]
    return ["folder", "command", "error"], cells


def shown(path: Path) -> Path:
    """A path as one would type it from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
