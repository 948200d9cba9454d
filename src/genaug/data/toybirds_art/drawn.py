"""Datasets that are drawn by code once, into a cache that a kill cannot corrupt."""

from __future__ import annotations

import json
import multiprocessing
import os
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np

from genaug.data.base import Dataset, Sample
from genaug.synthesis.store import write_atomically

#: Raise it with every change of the drawings: a cache of another version is not used.
RENDER_VERSION = 1
# Below this many pictures, starting processes takes longer than drawing.
_POOL_FROM = 64

P = TypeVar("P")


class DrawnDataset(Dataset, Generic[P]):
    """A dataset of pictures, each drawn from a small description ``P`` of its own.

    Attributes:
        root: Folder of the cache; its name holds a hash of everything that the pictures depend on.
        split_names: The splits, in the order in which they are drawn.
    """

    root: Path
    split_names: tuple[str, ...]

    @abstractmethod
    def _pictures(self) -> Iterator[P]:
        """Every picture of every split."""

    @abstractmethod
    def _files(self, picture: P) -> tuple[str, ...]:
        """The files of a picture, relative to ``root``; it is complete when all are there."""

    @abstractmethod
    def _draw(self, picture: P) -> None:
        """Write the files of a picture."""

    @abstractmethod
    def _record(self, picture: P) -> dict[str, Any]:
        """What the manifest says of a picture, ``split`` among it."""

    @abstractmethod
    def _sample(self, record: Mapping[str, Any]) -> Sample:
        """A line of the manifest as a sample."""

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """Every split; draws what is missing in the cache first.

        Raises:
            OSError: the cache cannot be written.
        """
        manifest = self.root / "metadata.jsonl"
        if not manifest.exists():
            self._draw_missing()
            lines = (json.dumps(self._record(picture)) for picture in self._pictures())
            write_atomically(manifest, "".join(f"{line}\n" for line in lines).encode())
        samples: dict[str, list[Sample]] = {split: [] for split in self.split_names}
        for line in manifest.read_text().splitlines():
            record = json.loads(line)
            samples[record["split"]].append(self._sample(record))
        return {split: sorted(found, key=lambda sample: sample.id) for split, found in samples.items()}

    def _draw_missing(self) -> None:
        """Draw every picture that is not in the cache, on all cores."""
        missing = self._missing()
        if len(missing) >= _POOL_FROM and _cores() > 1:
            try:
                self._draw_in_pool(missing)
            except BrokenProcessPool:
                warnings.warn(
                    f"{self.name}: the drawing processes did not start, so one process draws. A script that is read"
                    " from a pipe, or that has no `if __name__ == '__main__':` around its calls, cannot start others.",
                    stacklevel=3,
                )
        for picture in self._progress(self._missing()):
            self._draw(picture)

    def _missing(self) -> list[P]:
        """Pictures that are not complete."""
        return [
            picture
            for picture in self._pictures()
            if not all((self.root / name).exists() for name in self._files(picture))
        ]

    def _draw_in_pool(self, pictures: Sequence[P]) -> None:
        # spawn: a forked child of a process that runs threads (torch, OpenCV) can hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(_cores(), context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            for _ in self._progress(pool.map(self._draw, pictures, chunksize=16), len(pictures)):
                pass

    def _progress(self, items: Iterable[Any], total: int | None = None) -> Iterable[Any]:
        """``items`` with a progress bar on stderr, which leaves stdout to results."""
        from rich.console import Console
        from rich.progress import track

        return track(items, f"Drawing {self.name}", total, console=Console(stderr=True), transient=True)


def png(image: np.ndarray) -> bytes:
    """``(H, W, 3)`` RGB or ``(H, W)`` grey uint8 as the bytes of a PNG file."""
    written, data = cv2.imencode(".png", image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not written:
        raise OSError(f"OpenCV could not encode a PNG of shape {image.shape}")
    return bytes(data.tobytes())


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
