"""Waterbirds of one's own: objects of any dataset on scenes of any folder (after Sagawa et al., 2020).

Every class has a home among the places. In training an object mostly stands at home, so the background gives the class
away; ``ood_swap`` shows it anywhere, and accuracy by group says what a network looked at.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

from genaug.data.base import Dataset, Sample
from genaug.data.folder import IMAGE_SUFFIXES
from genaug.data.layout import by_id
from genaug.data.reading import read_image
from genaug.devices import best_device
from genaug.functional.composite import paste
from genaug.functional.masks import coverage
from genaug.functional.subject import cover, soft_alpha
from genaug.seeding import derive
from genaug.segmentation.base import Segmenter
from genaug.segmentation.masks import Masks, encode_mask, make_masks
from genaug.synthesis.store import Store, content_key
from genaug.threads import in_threads

log = logging.getLogger(__name__)

#: Raise it with every change of how pictures come about: stores of another version are not used.
VERSION = "swap-1"

#: Quality of the pictures as JPEG, and the chroma at full resolution.
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]

_EXPECTED = "Expected <scenes>/<kind>/*.jpg with two kinds or more, as scene datasets (SUN, Places) are laid out"


@dataclass(frozen=True, slots=True)
class _Job:
    """A picture to make: the object of ``sample`` on ``scene``, at a place of index ``place``."""

    split: str
    sample: Sample
    place: int
    scene: Path
    seed: int


class Swap(Dataset):
    """A dataset with its backgrounds swapped.

    The object stays where it is in its photograph, as large as it is; the scene is cut to the photograph's size. Each
    scene is seen either in training or in tests. An image whose mask is empty or leaves no background is left out. What
    is drawn for an image depends on ``seed``, its id and the list of scenes, on no other image.

    Args:
        dataset: Whose objects.
        scenes: Folder of scenes, one folder a kind.
        segmenter: Finds the objects: ``annotated`` where the dataset has masks.
        folder: Of all stores; pictures are kept there by content.
        places: Names of places and the kinds of scenes that each stands for; None makes every kind a place.
        correlation: Probability that an object of ``train``, ``val`` and ``test`` stands at its class's home; otherwise
            it is at any other place. 1 / places makes the background say nothing. None leaves those splits as
            photographs and only adds ``ood_swap``.
        softness: Width of the object's fading edge, as a share of the image's short side.
        min_object: Smallest share of the image that an object may cover.
        max_object: Largest share.
        seed: Of all draws.
        workers: Threads.

    Raises:
        ValueError: an argument is out of range, a place has fewer than two scenes, or the dataset is multi-label or
            grey.
        FileNotFoundError: there is no folder ``scenes``, or a kind is not in it.
    """

    def __init__(
        self,
        dataset: Dataset,
        scenes: str | Path,
        segmenter: Segmenter,
        folder: str | Path,
        places: Mapping[str, Sequence[str]] | None = None,
        correlation: float | None = None,
        softness: float = 0.005,
        min_object: float = 0.005,
        max_object: float = 0.95,
        seed: int = 0,
        workers: int = 2,
    ) -> None:
        if dataset.multilabel or dataset.channels != 3:
            raise ValueError("ood=swap needs RGB images of one class each: a class has a home among the places.")
        if correlation is not None and not 0 <= correlation <= 1:
            raise ValueError(f"ood.correlation={correlation} is not a probability: give a number in [0, 1], or null.")
        if not 0 <= softness < 0.5:
            raise ValueError(f"ood.softness={softness} is not possible: give a share of the image such as 0.005.")
        if not 0 <= min_object < max_object <= 1:
            raise ValueError(f"ood.min_object={min_object} and ood.max_object={max_object} must be shares, in order.")
        self.dataset, self.segmenter, self.folder = dataset, segmenter, Path(folder)
        self.correlation, self.softness, self.seed, self.workers = correlation, softness, seed, workers
        self.min_object, self.max_object = min_object, max_object
        self.scenes = Path(scenes).expanduser()
        self.places = _places(self.scenes, places)
        self.name, self.superclass, self.score = f"{dataset.name}_swap", dataset.superclass, dataset.score
        self.image_size = dataset.image_size

    @property
    def classes(self) -> Sequence[str]:
        """Those of the dataset."""
        return self.dataset.classes

    @property
    def superclasses(self) -> Sequence[str]:
        """Those of the dataset."""
        return self.dataset.superclasses

    @property
    def groups(self) -> Sequence[str]:
        """Home of the class and place of the picture: index ``home * places + place``."""
        return tuple(f"home {home}, on {place}" for home in self.places for place in self.places)

    @cached_property
    def homes(self) -> Sequence[int]:
        """For each class the index of its home, drawn so that all places are home to equally many, one more or less."""
        names = sorted(self.classes, key=lambda name: (derive(self.seed, "home", name), name))
        home = {name: rank % len(self.places) for rank, name in enumerate(names)}
        return [home[name] for name in self.classes]

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """The dataset's splits, swapped where ``correlation`` says so, and ``ood_swap``; makes what is missing first.

        Raises:
            ValueError: no object can be used.
            RuntimeError: an image could not be segmented or read.
        """
        return self._splits

    @cached_property
    def _splits(self) -> dict[str, list[Sample]]:
        splits = {
            split: [replace(sample, group=None) for sample in samples]
            for split, samples in self.dataset.splits().items()
        }
        jobs = [self._job("ood_swap", sample, None) for sample in splits["test"]]
        swapped = [] if self.correlation is None else [split for split in ("train", "val", "test") if split in splits]
        jobs += [self._job(split, sample, self.correlation) for split in swapped for sample in splits[split]]
        return {name: samples for name, samples in splits.items() if name not in swapped} | self._make(jobs)

    def _job(self, split: str, sample: Sample, correlation: float | None) -> _Job:
        """What to make of a sample; without a correlation every place is as likely."""
        seed = derive(self.seed, split, sample.id)
        rng, count = np.random.default_rng(seed), len(self.places)
        assert isinstance(sample.label, int)
        place = home = self.homes[sample.label]
        if correlation is None:
            place = int(rng.integers(count))
        elif rng.random() >= correlation:
            place = (home + 1 + int(rng.integers(count - 1))) % count
        scenes = self._sides[list(self.places)[place], split in ("train", "val")]
        return _Job(split, sample, place, scenes[int(rng.integers(len(scenes)))], seed)

    @cached_property
    def _sides(self) -> dict[tuple[str, bool], list[Path]]:
        """The scenes of each place, half of them for training (True) and half for tests."""
        sides = {}
        for place, scenes in self.places.items():
            names = {path: path.relative_to(self.scenes).as_posix() for path in scenes}
            drawn = sorted(scenes, key=lambda path: (derive(self.seed, "side", names[path]), names[path]))
            for training in (True, False):
                sides[place, training] = sorted(drawn[training::2])
        return sides

    def _make(self, jobs: Sequence[_Job]) -> dict[str, list[Sample]]:
        """Make the pictures that are not in the store."""
        originals = list({job.sample.path: job.sample for job in jobs}.values())
        masks = make_masks(originals, self.segmenter, self.dataset, self.folder / "masks", self.workers, best_device())
        settings = (VERSION, self.segmenter.fingerprint, str(self.softness), str(self.min_object), str(self.max_object))
        root = self.folder / "swap" / content_key(*settings)
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock"):  # processes that start together make each picture once
            store = Store(root)
            done = in_threads(lambda job: self._picture(job, masks, store), jobs, self.workers, "swapping backgrounds")
        made: dict[str, list[Sample]] = defaultdict(list)
        left_out: list[Sample] = []
        for job, outcome in zip(jobs, done, strict=True):
            sample = outcome.result()
            (left_out if sample is None else made[job.split]).append(sample or job.sample)
        if left_out:
            log.warning(
                "ood=swap leaves out %d of %d pictures, whose object covers less than %g or more than %g of the image, "
                "such as %s",
                len(left_out), len(jobs), self.min_object, self.max_object, left_out[0].id,
            )  # fmt: skip
        if not all(made[split] for split in {job.split for job in jobs}):
            raise ValueError(
                f"ood=swap found no object that can be used in {len(originals)} images: look at the masks in "
                f"{self.folder / 'masks'}, or choose another segmenter."
            )
        return {split: by_id(samples) for split, samples in made.items()}

    def _picture(self, job: _Job, masks: Masks, store: Store) -> Sample | None:
        """The sample of a job, made unless it is there; None where its object cannot be used."""
        mask = masks[job.sample.id]
        if not self.min_object <= coverage(mask) <= self.max_object:
            return None
        key = content_key(masks.key(job.sample.id), job.scene.read_bytes(), str(job.seed))
        if key not in store:
            image = self._compose(read_image(job.sample.path), mask, read_image(job.scene), job.seed)
            store.add(key, {"image.jpg": _jpeg(image), "mask.png": encode_mask(mask)}, {"id": job.sample.id})
        assert isinstance(job.sample.label, int)
        return replace(
            job.sample,
            id=f"swap/{job.split}/{job.sample.id}",
            path=store.path(key, "image.jpg"),
            mask=store.path(key, "mask.png"),
            mask_values=None,
            group=self.homes[job.sample.label] * len(self.places) + job.place,
            caption=None,
        )

    def _compose(self, image: np.ndarray, mask: np.ndarray, scene: np.ndarray, seed: int) -> np.ndarray:
        """The object of ``image`` ``(H, W, 3)`` where it is, on a part of ``scene``."""
        height, width = mask.shape
        canvas = cover(scene, height, width, np.random.default_rng(derive(seed, "part"))).copy()
        alpha = soft_alpha(mask, self.softness * min(height, width))
        paste(canvas, np.dstack([image, alpha]), 0, 0)
        return canvas


def _places(scenes: Path, places: Mapping[str, Sequence[str]] | None) -> dict[str, list[Path]]:
    """The pictures of each place."""
    if not scenes.is_dir():
        raise FileNotFoundError(f"ood.scenes={scenes} is not a folder. {_EXPECTED}.")
    kinds = sorted(path.name for path in scenes.iterdir() if path.is_dir() and not path.name.startswith("."))
    chosen = {kind: [kind] for kind in kinds} if places is None else {name: list(of) for name, of in places.items()}
    unknown = sorted({kind for of in chosen.values() for kind in of} - set(kinds))
    if unknown:
        raise FileNotFoundError(f"ood.places names {', '.join(unknown)}, but {scenes} holds {', '.join(kinds)}.")
    if len(chosen) < 2:
        raise ValueError(f"ood=swap needs two places or more; {scenes} gives {list(chosen)}. {_EXPECTED}.")
    found = {name: [path for kind in of for path in _pictures(scenes / kind)] for name, of in chosen.items()}
    for name, pictures in found.items():
        if len(pictures) < 2:
            raise ValueError(
                f"The place {name} has {len(pictures)} pictures in {scenes}; it takes two, one for training and one "
                f"for tests. {_EXPECTED}."
            )
    shared = [path for path, times in _times(found).items() if times > 1]
    if shared:
        raise ValueError(f"ood.places gives a kind of scene to two places: {shared[0].parent.name}.")
    return found


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _times(found: Mapping[str, Sequence[Path]]) -> dict[Path, int]:
    """How many places each picture belongs to."""
    times: dict[Path, int] = defaultdict(int)
    for pictures in found.values():
        for path in pictures:
            times[path] += 1
    return times


def _jpeg(image: np.ndarray) -> bytes:
    written, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _JPEG)
    if not written:
        raise OSError(f"OpenCV could not encode a JPEG of shape {image.shape}")
    return bytes(data.tobytes())
