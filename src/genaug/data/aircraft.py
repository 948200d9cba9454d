"""FGVC-Aircraft: 100 variants of aircraft with bounding boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from genaug.data.base import Box, Dataset, Sample
from genaug.data.layout import by_id, check_side, check_there, inner_folder, lines_of, needed, number_in

_REMEDY = """\
root must be the folder fgvc-aircraft-2013b, or the folder around it, laid out like this:
  data/variants.txt  data/images_variant_{train,val,trainval,test}.txt  data/images_box.txt  data/images/*.jpg
It is what fgvc-aircraft-2013b.tar.gz unpacks to, from the "FGVC-Aircraft Benchmark" page of Oxford's VGG."""

#: Coordinates in images_box.txt count from 1; no image is larger.
_PIXELS = range(1, 100_000)


class Aircraft(Dataset):
    """FGVC-Aircraft (Maji et al., 2013) by variant: 6,667 training and 3,333 test images of 100 classes.

    The lowest 20 pixels of every image are a strip with its copyright. Its authors ask for it to be cut off; no
    published training code does, and neither is it here.

    Args:
        root: The folder ``fgvc-aircraft-2013b`` or the one around it.
        image_size: Side in pixels that a network is trained on.
        train: ``trainval`` trains on the official training and validation images, as GuidedMixup does. ``train`` trains
            on the 3,334 training images alone, as Diff-Mix does, and the validation images are the split ``val``.

    Raises:
        ValueError: an argument is out of range.
        FileNotFoundError: there is no folder ``root``.
    """

    name = "aircraft"
    superclass = "aircraft"

    def __init__(self, root: str | Path, image_size: int = 448, train: str = "trainval") -> None:
        check_side(image_size)
        if train not in ("trainval", "train"):
            raise ValueError(f"train={train!r} is not known: choose trainval or train.")
        self.root = needed(Path(root).expanduser(), _REMEDY)
        self.image_size, self.train = image_size, train

    @property
    def classes(self) -> Sequence[str]:
        """The variants ("707-320", "F/A-18"), in the order of ``variants.txt``."""
        return self._classes

    @property
    def published(self) -> Mapping[str, int]:
        """See :attr:`Dataset.published`."""
        if self.train == "train":
            return {"train": 3_334, "val": 3_333, "test": 3_333, "classes": 100}
        return {"train": 6_667, "test": 3_333, "classes": 100}

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """``train`` and ``test``, with ``train=train`` also ``val``; with boxes where ``images_box.txt`` is there.

        Raises:
            FileNotFoundError: a list or an image that it names is missing.
            ValueError: a list cannot be read, or names what others do not know.
        """
        return self._splits

    @cached_property
    def _data(self) -> Path:
        return inner_folder(self.root, "fgvc-aircraft-2013b", "data/variants.txt") / "data"

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        return tuple(line for _, line in lines_of(self._data / "variants.txt", _REMEDY))

    @cached_property
    def _splits(self) -> dict[str, list[Sample]]:
        lists = {"train": self.train, "test": "test"} | ({"val": "val"} if self.train == "train" else {})
        splits = {split: self._samples(f"images_variant_{name}.txt") for split, name in lists.items()}
        check_there((sample for samples in splits.values() for sample in samples), _REMEDY)
        return splits

    def _samples(self, file: str) -> list[Sample]:
        """The images of a list of lines ``<image> <variant>``, sorted; variants hold blanks and slashes."""
        labels = {name: label for label, name in enumerate(self._classes)}
        samples = []
        for where, line in lines_of(self._data / file, _REMEDY):
            image, _, variant = line.partition(" ")
            if variant not in labels:
                known = self._data / "variants.txt"
                raise ValueError(f"{where}: {variant!r} is not in {known}; expected '<image> <variant>'. {_REMEDY}")
            if self._boxes and image not in self._boxes:
                raise ValueError(f"{self._data / 'images_box.txt'} has no box of image {image}. {_REMEDY}")
            path = self._data / "images" / f"{image}.jpg"
            samples.append(Sample(f"data/images/{image}.jpg", path, labels[variant], box=self._boxes.get(image)))
        return by_id(samples)

    @cached_property
    def _boxes(self) -> dict[str, Box]:
        """By image; empty where there is no file of boxes."""
        path = self._data / "images_box.txt"
        return dict(_box(where, line) for where, line in lines_of(path, _REMEDY)) if path.is_file() else {}


def _box(where: str, line: str) -> tuple[str, Box]:
    """Image and box of a line ``<image> <xmin> <ymin> <xmax> <ymax>``, whose first pixel is 1 and last one inside."""
    image, *numbers = line.split()
    if len(numbers) != 4:
        raise ValueError(f"{where}: expected '<image> <xmin> <ymin> <xmax> <ymax>', got {line!r}. {_REMEDY}")
    left, top = (number_in(number, _PIXELS, where, "a coordinate") for number in numbers[:2])
    right = number_in(numbers[2], range(left, _PIXELS.stop), where, "xmax")
    bottom = number_in(numbers[3], range(top, _PIXELS.stop), where, "ymax")
    return image, (left - 1, top - 1, right - left + 1, bottom - top + 1)
