"""Copies of a store in the layouts that other programs read."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from genaug.synthesis.image_store import VARYING, ImageStore
from genaug.synthesis.store import write_atomically

#: Images of a WebDataset shard.
SHARD = 1_000


def to_imagefolder(store: ImageStore, folder: Path, copies: int | None = None) -> int:
    """One folder a class, as ``torchvision.datasets.ImageFolder`` and most training scripts read.

    Args:
        store: What to copy.
        folder: New or empty.
        copies: Only so many synthetic images of each source; None takes all.

    Returns:
        How many images were written.

    Raises:
        ValueError: an image has several classes, or none is known: this layout cannot say so.
        FileExistsError: ``folder`` is not empty.
    """
    _check_empty(folder)
    count = 0
    for key, record in _chosen(store, copies):
        name = record.get("class")
        if not isinstance(name, str):
            raise ValueError(
                f"a folder a class needs one class an image, and {key} has {name!r}: export as webdataset."
            )
        source = store.image_path(key)
        to = folder / _file_name(name) / source.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, to)
        count += 1
    return count


def to_webdataset(store: ImageStore, folder: Path, copies: int | None = None) -> int:
    """Tar files of ``<key>.png``, ``<key>.cls`` and ``<key>.json``, as WebDataset reads them.

    See :func:`to_imagefolder` for the arguments; ``.cls`` is left out of images with several classes.
    """
    _check_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = list(_chosen(store, copies))
    for number, start in enumerate(range(0, len(chosen), SHARD)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as shard:
            for key, record in chosen[start : start + SHARD]:
                _add(shard, f"{key}.png", store.image_path(key).read_bytes())
                if isinstance(record["label"], int):
                    _add(shard, f"{key}.cls", str(record["label"]).encode())
                kept = {name: value for name, value in record.items() if name not in VARYING}
                _add(shard, f"{key}.json", json.dumps(kept, sort_keys=True).encode())
        write_atomically(folder / f"{number:06d}.tar", buffer.getvalue())
    return len(chosen)


#: Layouts by name.
LAYOUTS: dict[str, Callable[..., int]] = {"imagefolder": to_imagefolder, "webdataset": to_webdataset}


def _chosen(store: ImageStore, copies: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((key, record) for key, record in store.kept() if copies is None or record["copy"] <= copies)


def _check_empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: give a new folder to export to.")


def _file_name(text: str) -> str:
    """``text`` without what a file system or a manifest that points outside could make of it.

    >>> _file_name("../a b/c"), _file_name("Snowy-winged Jay")
    ('.._a b_c', 'Snowy-winged Jay')
    """
    return text.replace("/", "_").replace("\\\\", "_")


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    shard.addfile(entry, io.BytesIO(data))
