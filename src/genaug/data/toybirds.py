"""``toybirds``: a small fine-grained bird dataset with a habitat shortcut, drawn by code.

Twenty invented species, five body plans of four look-alikes, in eight habitats. In ``train`` and ``test`` a bird mostly
stands in the home habitat of its species, so the background gives the species away; ``ood_habitat`` shows it anywhere
else, ``ood_sketch`` in pencil. The splits stand in for CUB, Waterbirds and ImageNet-Sketch where there is no download.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from genaug.data.base import Dataset, Sample
from genaug.data.toybirds_art.composition import BIRD_SIZE, COVER_SHARE, GROUPS, Composition, compose
from genaug.data.toybirds_art.habitat import HABITATS
from genaug.data.toybirds_art.scene import Scene, check_size, paint, render
from genaug.data.toybirds_art.species import CUE_COLOUR, CUE_SIZE, SPECIES
from genaug.data.toybirds_art.stage import LIGHTS, SEASONS
from genaug.synthesis.store import content_key, write_atomically

__all__ = ["HABITATS", "SPECIES", "Scene", "ToyBirds", "render"]

#: Raise it with every change of the drawings: a cache of another version is not used.
RENDER_VERSION = 1
SPLITS = ("train", "test", "ood_habitat", "ood_sketch")
# Below this many pictures, starting processes takes longer than drawing.
_POOL_FROM = 64


@dataclass(frozen=True, slots=True)
class _Picture:
    """One picture of a split, as arguments of a drawing process."""

    split: str
    species: int
    number: int

    @property
    def name(self) -> str:
        return f"{self.split}/{SPECIES[self.species].slug}/{self.number:04d}.png"


def _mask_name(name: str) -> str:
    return f"masks/{name}"


class ToyBirds(Dataset):
    """Twenty species of birds, drawn once into a cache under ``root``.

    Args:
        root: Folder of the cache; each setting of the other arguments has a folder of its own in it.
        image_size: Side of the pictures in pixels, 32 to 256.
        train_per_class: Pictures of each species in ``train``.
        test_per_class: Pictures of each species in each of the other splits.
        correlation: Probability that a bird of ``train`` or ``test`` is in its home habitat; otherwise it is in any
            of the others. 1 / 8 makes the habitat say nothing.
        data_seed: Seed of the pictures. Picture k of a species in a split depends on nothing else but the split,
            the species, k and ``correlation``.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> import tempfile
        >>> birds = ToyBirds(tempfile.mkdtemp(), image_size=32, train_per_class=1, test_per_class=0)
        >>> birds.splits()["train"][0].id
        'train/amber-crested-finch/0000.png'
    """

    name = "toybirds"
    superclass = "bird"

    def __init__(
        self,
        root: str | Path,
        image_size: int = 64,
        train_per_class: int = 30,
        test_per_class: int = 20,
        correlation: float = 0.95,
        data_seed: int = 0,
    ) -> None:
        check_size(image_size)
        if not 0 <= correlation <= 1:
            raise ValueError(f"correlation={correlation}: it is a probability, so give a number from 0 to 1")
        for name, value in (
            ("train_per_class", train_per_class),
            ("test_per_class", test_per_class),
            ("data_seed", data_seed),
        ):
            if value < 0:
                raise ValueError(f"{name}={value}: expected 0 or more")
        self.image_size = image_size
        self.train_per_class, self.test_per_class = train_per_class, test_per_class
        self.correlation, self.data_seed = float(correlation), data_seed
        self.root = Path(root) / self._fingerprint()

    def _fingerprint(self) -> str:
        """Hash of everything that the pictures depend on."""
        settings = [self.image_size, self.train_per_class, self.test_per_class, self.correlation, self.data_seed]
        drawing = [RENDER_VERSION, CUE_COLOUR, CUE_SIZE, BIRD_SIZE, COVER_SHARE]
        return content_key(json.dumps([*settings, *drawing]))[:12]

    @property
    def classes(self) -> Sequence[str]:
        """Names of the species, such as ``Amber-crested Finch``."""
        return tuple(species.name for species in SPECIES)

    @property
    def groups(self) -> Sequence[str]:
        """Home of the species and place of the picture, as in Waterbirds: index ``2 * waterbird + water``."""
        return GROUPS

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
        samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
        for line in manifest.read_text().splitlines():
            record = json.loads(line)
            samples[record["split"]].append(self._sample(record))
        return {split: sorted(found, key=lambda sample: sample.id) for split, found in samples.items()}

    def _pictures(self) -> Iterator[_Picture]:
        for split in SPLITS:
            count = self.train_per_class if split == "train" else self.test_per_class
            for species in range(len(SPECIES)):
                yield from (_Picture(split, species, number) for number in range(count))

    def compose(self, split: str, species: int, number: int) -> Composition:
        """What picture ``number`` of a species in a split shows; nothing is drawn."""
        rng = np.random.default_rng([self.data_seed, SPLITS.index(split), species, number])
        home, others = SPECIES[species].home, len(HABITATS) - 1
        stays = split in ("train", "test") and rng.random() < self.correlation
        habitat = home if stays else (home + 1 + int(rng.integers(others))) % (others + 1)
        return compose(species, habitat, rng, sketch=split == "ood_sketch")

    def _draw(self, picture: _Picture) -> None:
        scene = paint(self.compose(picture.split, picture.species, picture.number), self.image_size)
        write_atomically(self.root / _mask_name(picture.name), _png(scene.mask))
        write_atomically(self.root / picture.name, _png(cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)))

    def _draw_missing(self) -> None:
        """Draw every picture that is not in the cache, on all cores."""
        missing = self._missing()
        if len(missing) >= _POOL_FROM and _cores() > 1:
            try:
                self._draw_in_pool(missing)
            except BrokenProcessPool:
                warnings.warn(
                    "toybirds: the drawing processes did not start, so one process draws. A script that is read from a"
                    " pipe, or that has no `if __name__ == '__main__':` around its calls, cannot start others.",
                    stacklevel=3,
                )
        for picture in _progress(self._missing()):
            self._draw(picture)

    def _missing(self) -> list[_Picture]:
        """Pictures that are not complete; one counts when its mask is there too."""
        return [
            picture
            for picture in self._pictures()
            if not ((self.root / picture.name).exists() and (self.root / _mask_name(picture.name)).exists())
        ]

    def _draw_in_pool(self, pictures: Sequence[_Picture]) -> None:
        # spawn: a forked child of a process that runs threads (torch, OpenCV) can hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(_cores(), context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            for _ in _progress(pool.map(self._draw, pictures, chunksize=16), len(pictures)):
                pass

    def _record(self, picture: _Picture) -> dict[str, Any]:
        shown = self.compose(picture.split, picture.species, picture.number)
        sketch = shown.habitat is None
        return {
            "file_name": picture.name,
            "mask": _mask_name(picture.name),
            "split": picture.split,
            "label": picture.species,
            "species": SPECIES[picture.species].name,
            "habitat": None if shown.habitat is None else HABITATS[shown.habitat].name,
            "time": None if sketch else LIGHTS[shown.light].name,
            "season": None if sketch else SEASONS[shown.season].name,
            "pose": shown.pose.kind,
            "group": shown.group,
            "caption": shown.caption,
        }

    def _sample(self, record: Mapping[str, Any]) -> Sample:
        return Sample(
            id=record["file_name"],
            path=self.root / record["file_name"],
            label=record["label"],
            mask=self.root / record["mask"],
            group=record["group"],
            caption=record["caption"],
        )


def _progress(items: Iterable[Any], total: int | None = None) -> Iterable[Any]:
    """``items`` with a progress bar on stderr, which leaves stdout to results."""
    from rich.console import Console
    from rich.progress import track

    return track(items, "Drawing toybirds", total, console=Console(stderr=True), transient=True)


def _png(image: np.ndarray) -> bytes:
    written, data = cv2.imencode(".png", image)
    if not written:
        raise OSError(f"OpenCV could not encode a PNG of shape {image.shape}")
    return bytes(data.tobytes())


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
