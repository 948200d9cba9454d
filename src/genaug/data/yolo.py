"""Anybody's own images with several labels each, annotated with boxes as YOLO reads them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from genaug.data.base import Dataset, Sample
from genaug.data.folder import IMAGE_SUFFIXES
from genaug.data.layout import by_id, check_side, lines_of, needed, number_in
from genaug.data.subsets import hold_out

log = logging.getLogger(__name__)

_REMEDY = """\
root must be a folder like this, the names inside as dataset.images, dataset.labels and dataset.names say:
  images/a.jpg ...       or images/train/a.jpg ..., with images/val or images/test beside it
  labels/a.txt ...       of the image's name; lines '<class id> <x> <y> <width> <height>'; none for an image of nothing
  data.yaml              with names: {0: person, 1: bicycle} or names: [person, bicycle]"""


class YOLO(Dataset):
    """Images below one folder, and text files of the same names that say which objects are where.

    Only which classes an image shows is read, not where; lines of polygons will do as well. Where ``images`` has the
    folders ``train`` and ``test`` or ``val``, they are the splits (``val`` is the test where there is no ``test``);
    otherwise some images are set aside for the test.

    Args:
        root: The folder around all others.
        images: Folder of the images in it, however deep they lie.
        labels: Folder of the text files in it, at the paths of their images.
        names: YAML file in it whose ``names`` are the classes: by id, which may have gaps, or as a list.
        masks: Folder of ground-truth masks in it, PNG files at the paths of their images; some may be missing.
        mask_values: Pixel values of the masks that are object, as a list or as ``"first-last"``; None: all but 0.
        image_size: Side in pixels that a network is trained on.
        name: Name in folders and tables; None takes the name of ``root``.
        test_fraction: Share of the images to set aside where there is no folder for the test.
        split_seed: Seed of that draw.

    Raises:
        ValueError: an argument is out of range.
        FileNotFoundError: there is no folder ``root``.
    """

    superclass = "object"
    multilabel = True

    def __init__(
        self,
        root: str | Path,
        images: str = "images",
        labels: str = "labels",
        names: str = "data.yaml",
        masks: str | None = None,
        mask_values: Sequence[int] | str | None = None,
        image_size: int = 224,
        name: str | None = None,
        test_fraction: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        check_side(image_size)
        if not 0 < test_fraction < 1:
            raise ValueError(f"test_fraction={test_fraction} is not possible: take a share such as 0.2.")
        self.mask_values = pixel_values(mask_values)
        self.root = needed(Path(root).expanduser(), _REMEDY)
        self._images, self._labels, self._names = self.root / images, self.root / labels, self.root / names
        self._masks = None if masks is None else self.root / masks
        self.image_size, self.name = image_size, name or self.root.resolve().name
        self.test_fraction, self.split_seed = test_fraction, split_seed

    @property
    def classes(self) -> Sequence[str]:
        """All names of the YAML file, in the order of their ids; some may have no image."""
        return tuple(self._classes.values())

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """``train`` and ``test``, and ``val`` where there is a folder of that name beside ``test``.

        Raises:
            FileNotFoundError: a folder or the YAML file is missing, or no image has labels, or no image a mask.
            ValueError: a text file or the YAML file cannot be read.
        """
        return self._splits

    @cached_property
    def _classes(self) -> dict[int, str]:
        """Names by id."""
        try:
            content: Any = OmegaConf.to_container(OmegaConf.load(needed(self._names, _REMEDY)))
        except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
            raise ValueError(f"{self._names} cannot be read as YAML: {error}. {_REMEDY}") from error
        names = content.get("names") if isinstance(content, dict) else None
        by_number = dict(enumerate(names)) if isinstance(names, list) else names
        if not isinstance(by_number, dict) or not by_number:
            raise ValueError(f"{self._names} has no names of classes. {_REMEDY}")
        for number, name in by_number.items():
            if type(number) is not int or not isinstance(name, str | int) or isinstance(name, bool):
                raise ValueError(
                    f"{self._names}: names has {number!r}: {name!r}; expected a number and a name, in quotes where "
                    f"YAML would read it as something else. {_REMEDY}"
                )
        return {number: str(by_number[number]) for number in sorted(by_number)}

    @cached_property
    def _ids(self) -> Sequence[int]:
        ids = list(self._classes)
        return range(len(ids)) if ids == list(range(len(ids))) else ids

    @cached_property
    def _splits(self) -> dict[str, list[Sample]]:
        samples = self._samples()
        found: dict[str, list[Sample]] = {}
        for split in ("train", "val", "test"):
            inside = f"{self._images.relative_to(self.root).as_posix()}/{split}/"
            if members := [sample for sample in samples if sample.id.startswith(inside)]:
                found[split] = members
        if "train" not in found or len(found) == 1:
            train, test = hold_out(samples, self.test_fraction, self.split_seed)
            return {"train": train, "test": test}
        if "test" not in found:
            found["test"] = found.pop("val")
        left = len(samples) - sum(map(len, found.values()))
        if left:
            log.warning("%d images outside of %s are not used.", left, ", ".join(f"{self._images / s}" for s in found))
        return found

    def _samples(self) -> list[Sample]:
        """All images, with what is said of them."""
        paths = list(_images_below(needed(self._images, _REMEDY)))
        if not paths:
            raise FileNotFoundError(f"There is no image in {self._images}. {_REMEDY}")
        found = by_id(self._sample(path) for path in paths)
        if not any(sample.label for sample in found):
            expected = self._beside(self._labels, found[0].path, ".txt")
            raise FileNotFoundError(f"No image has labels: expected files such as {expected}. {_REMEDY}")
        self._check_masks(found)
        return found

    def _sample(self, path: Path) -> Sample:
        mask = self._masks and self._beside(self._masks, path, ".png")
        return Sample(
            path.relative_to(self.root).as_posix(),
            path,
            self._label(self._beside(self._labels, path, ".txt")),
            mask=mask if mask and mask.is_file() else None,
            mask_values=self.mask_values,
        )

    def _beside(self, folder: Path, image: Path, suffix: str) -> Path:
        """What belongs to an image in another folder."""
        return folder / image.relative_to(self._images).with_suffix(suffix)

    def _label(self, path: Path) -> tuple[int, ...]:
        """The classes that a text file names; none where there is no file."""
        if not path.is_file():
            return ()
        ids, shown = self._ids, set()
        for where, line in lines_of(path, _REMEDY):
            fields = line.split()
            if len(fields) < 5:
                raise ValueError(f"{where}: expected '<class id> <x> <y> <width> <height>', came {line!r}.")
            shown.add(number_in(fields[0], ids, where, f"the class id, of which {self._names} has the names,"))
        return tuple(label for label, number in enumerate(ids) if number in shown)

    def _check_masks(self, samples: Sequence[Sample]) -> None:
        """Refuse masks that lie elsewhere than expected; some may be missing."""
        without = [sample for sample in samples if sample.mask is None]
        if self._masks is None or not without:
            return
        expected = self._beside(self._masks, without[0].path, ".png")
        if len(without) == len(samples):
            raise FileNotFoundError(f"masks={self._masks} has no mask for any image: expected such as {expected}.")
        log.warning("%d of %d images have no mask, such as %s.", len(without), len(samples), expected)


def pixel_values(given: Sequence[int] | str | None) -> tuple[int, ...] | None:
    """Pixel values as they are given: one by one, or from the first to the last.

    >>> pixel_values([1, 3]), pixel_values("1-3")
    ((1, 3), (1, 2, 3))

    Raises:
        ValueError: they are no numbers from 0 to 65535, or none.
    """
    if given is None:
        return None
    try:
        if isinstance(given, str):
            first, last = map(int, given.split("-"))
            values = tuple(range(first, last + 1))
        else:
            values = tuple(map(int, given))
    except (TypeError, ValueError):
        values = ()
    if not values or not 0 <= min(values) <= max(values) <= 65535:
        raise ValueError(f"mask_values={given!r} is not possible: take pixel values such as [1, 2] or 1-90.")
    return values


def _images_below(folder: Path) -> Iterator[Path]:
    """All images below a folder that are not hidden, through links too."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if _is_image(name))


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
