"""Copies of a store in the layouts that other programs read."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genaug.console import counting, track
from genaug.synthesis.image_store import VARYING, ImageStore, digest

#: Images of a WebDataset shard.
SHARD = 1_000

#: Key and record of an image.
Entry = tuple[str, dict[str, Any]]


def to_imagefolder(store: ImageStore, folder: Path, copies: int | None = None) -> int:
    """One folder a class, as ``torchvision.datasets.ImageFolder`` and most training scripts read.

    Args:
        store: What to copy.
        folder: New or empty.
        copies: Only so many synthetic images of each source; None takes all.

    Returns:
        How many images were written.

    Raises:
        ValueError: there is nothing to copy, or an image is missing or damaged; an image has several classes, or none
            is known, or two classes cannot have folders of their own: this layout cannot say so.
        FileExistsError: ``folder`` is not empty.
    """
    _check_empty(folder)
    chosen = _chosen(store, copies)
    folders = _class_folders(chosen)
    for key, record in track(chosen, len(chosen), "exporting"):
        to = folder / folders[record["class"]] / store.image_path(key).name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(_image(store, key, record))
    return len(chosen)


def to_webdataset(store: ImageStore, folder: Path, copies: int | None = None) -> int:
    """Tar files of ``<key>.png``, ``<key>.cls`` and ``<key>.json``, as WebDataset reads them.

    See :func:`to_imagefolder` for the arguments; ``.cls`` is left out of images with several classes.

    Raises:
        ValueError: there is nothing to copy, or an image is missing or damaged.
        FileExistsError: ``folder`` is not empty.
    """
    _check_empty(folder)
    chosen = _chosen(store, copies)
    folder.mkdir(parents=True, exist_ok=True)
    with counting(len(chosen), "exporting") as done:
        for start in range(0, len(chosen), SHARD):
            entries = chosen[start : start + SHARD]
            _write_shard(folder / f"{start // SHARD:06d}.tar", store, entries)
            done(len(entries))
    return len(chosen)


#: Layouts by name.
LAYOUTS: dict[str, Callable[..., int]] = {"imagefolder": to_imagefolder, "webdataset": to_webdataset}


def _check_empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: give a new folder to export to.")


def _chosen(store: ImageStore, copies: int | None) -> list[Entry]:
    if copies is not None and copies < 1:
        raise ValueError(f"copies={copies} must be at least 1: so many images of each source are exported.")
    chosen = [(key, record) for key, record in store.kept() if copies is None or record["copy"] <= copies]
    if not chosen:
        raise ValueError(f"{store.root} has no images to export yet.")
    return chosen


def _class_folders(chosen: Sequence[Entry]) -> dict[str, str]:
    """Name of each class's folder; checked for all images before the first is written."""
    folders: dict[str, str] = {}
    for key, record in chosen:
        name = record.get("class")
        if not isinstance(name, str):
            raise ValueError(
                f"a folder a class needs one class an image, and {key} has {name!r}: export as webdataset."
            )
        folders[name] = _file_name(name)
    taken: dict[str, str] = {}
    for name, folder in folders.items():
        if taken.setdefault(folder, name) != name:
            raise ValueError(f"{taken[folder]!r} and {name!r} would share the folder {folder!r}: export as webdataset.")
    return folders


def _file_name(text: str) -> str:
    """``text`` as a name that stays inside its folder on every system.

    >>> _file_name("../a b/c"), _file_name(".."), _file_name("Snowy-winged Jay")
    ('.._a b_c', '__', 'Snowy-winged Jay')
    """
    name = text.replace("/", "_").replace("\\", "_")
    return name if name.strip(".") else "_" * max(1, len(name))


def _image(store: ImageStore, key: str, record: dict[str, Any]) -> bytes:
    """Content of an image file, as it was when it was made: a copy must not spread damage."""
    path = store.image_path(key)
    data = path.read_bytes() if path.exists() else b""
    if digest(data) != record["hash"]:
        raise ValueError(
            f"{path} is missing or damaged: genaug verify --repair {store.root}, run its experiment again, then export."
        )
    return data


def _write_shard(path: Path, store: ImageStore, entries: Sequence[Entry]) -> None:
    unfinished = path.with_name(f".{path.name}.tmp")
    with tarfile.open(unfinished, mode="w") as shard:
        for key, record in entries:
            _add(shard, f"{key}.png", _image(store, key, record))
            if isinstance(record["label"], int):
                _add(shard, f"{key}.cls", str(record["label"]).encode())
            kept = {field: value for field, value in record.items() if field not in VARYING}
            _add(shard, f"{key}.json", json.dumps(kept, sort_keys=True).encode())
    unfinished.replace(path)


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    shard.addfile(entry, io.BytesIO(data))
