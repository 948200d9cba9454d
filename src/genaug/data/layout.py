"""Reading the files in which public datasets say what is where, with errors that name the file and the remedy."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genaug.data.base import Sample


def check_side(image_size: int) -> None:
    """Refuse a side that no image has.

    Raises:
        ValueError: it is below 1.
    """
    if image_size < 1:
        raise ValueError(f"image_size={image_size} is not possible: take the side of the images in pixels.")


def inner_folder(root: Path, name: str, probe: str) -> Path:
    """``root``, or ``root/name`` where that is what holds ``probe``: people name the one or the other.

    Args:
        root: As configured.
        name: The folder that the archive unpacks to.
        probe: A file or folder that is always in it.
    """
    return root / name if (root / name).is_dir() and not (root / probe).exists() else root


def needed(path: Path, remedy: str) -> Path:
    """The path, which must exist.

    Args:
        path: A file or folder of the dataset.
        remedy: Where the dataset is to be had and what its folder looks like; follows the message.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. {remedy}")
    return path


def lines_of(path: Path, remedy: str) -> Iterator[tuple[str, str]]:
    """Each line of a text file that is not empty, with where it stands, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no text.
    """
    try:
        text = needed(path, remedy).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}. {remedy}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()


def rows_of(path: Path, columns: Sequence[str], remedy: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row of a CSV file by column name, with where it stands; columns that nobody asked for do no harm.

    Args:
        path: The file; its first line names the columns.
        columns: Which it must have.
        remedy: See :func:`needed`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or a row has fewer cells.
    """
    with needed(path, remedy).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in columns if name not in (reader.fieldnames or ())]
        if lacking:
            raise ValueError(f"{path} has no column {', '.join(lacking)}; it has {reader.fieldnames}. {remedy}")
        for number, row in enumerate(reader, start=2):
            if any(row[name] is None for name in columns):
                raise ValueError(f"{path}, line {number}: has fewer cells than its first line names. {remedy}")
            yield f"{path}, line {number}", {name: row[name] for name in columns}


def matlab_array(path: Path, variable: str, remedy: str) -> np.ndarray:
    """A variable of a MATLAB file, as an array of one dimension even where it holds one element.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of MATLAB's, or has no such variable.
    """
    from scipy.io import loadmat  # here, for few datasets need it
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(needed(path, remedy), squeeze_me=True)
    except (MatReadError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a MATLAB file: {error}. {remedy}") from error
    if variable not in content:
        names = sorted(name for name in content if not name.startswith("__"))
        raise ValueError(f"{path} has no variable {variable!r}; it has {names}. {remedy}")
    return np.atleast_1d(content[variable])


def structs_of(path: Path, variable: str, fields: Sequence[str], remedy: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each element of a struct array of a MATLAB file by field name, with where it stands.

    Args:
        path: The file.
        variable: Name of the array.
        fields: Which it must have; others do no harm.
        remedy: See :func:`needed`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: see :func:`matlab_array`; or a field is missing.
    """
    array = matlab_array(path, variable, remedy)
    lacking = [name for name in fields if name not in (array.dtype.names or ())]
    if lacking:
        raise ValueError(
            f"{path}: {variable} has no field {', '.join(lacking)}; it has {list(array.dtype.names or ())}. {remedy}"
        )
    for number, one in enumerate(array, start=1):
        yield f"{path}, {variable}({number})", {name: one[name] for name in fields}


def number_in(text: str, allowed: range | Sequence[int], where: str, what: str) -> int:
    """A whole number out of a file.

    Args:
        text: As it stands there.
        allowed: Which numbers make sense.
        where: File and line.
        what: What the number is, in a word or two.

    Raises:
        ValueError: it is no number, or none of ``allowed``.
    """
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or value not in allowed:
        shown = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else ", ".join(map(str, allowed))
        raise ValueError(f"{where}: {what} is {text!r}, expected {shown}.")
    return value


def check_there(samples: Iterable[Sample], remedy: str) -> None:
    """Refuse samples whose image file is missing: an unpacking that stopped half-way.

    Raises:
        FileNotFoundError: names one and says how many there are.
    """
    samples = list(samples)
    missing = [sample.path for sample in samples if not sample.path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} is missing, one of {len(missing)} images of {len(samples)} that the lists name. {remedy}"
        )


def by_id(samples: Iterable[Sample]) -> list[Sample]:
    """In an order that does not depend on the file system's."""
    return sorted(samples, key=lambda sample: sample.id)
