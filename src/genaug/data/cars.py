"""Stanford Cars: 196 makes, models and years with bounding boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from genaug.data.base import Box, Dataset, Sample
from genaug.data.layout import by_id, check_side, check_there, inner_folder, matlab_array, needed, number_in, structs_of

_REMEDY = """\
root must be the folder stanford_cars, or the folder around it, laid out like this:
  cars_train/*.jpg  cars_test/*.jpg
  devkit/cars_meta.mat  devkit/cars_train_annos.mat
  cars_test_annos_withlabels.mat  (or inside devkit)
Its page at Stanford is gone; issue 7545 of pytorch/vision tells where copies are. Copies in folders named by class,
as on Kaggle, are read with dataset=folder dataset.root=... dataset.superclass=car."""

_TEST = "cars_test_annos_withlabels.mat"

#: Coordinates count from 1; no image is larger.
_PIXELS = range(1, 100_000)


class Cars(Dataset):
    """Stanford Cars (Krause et al., 2013): 8,144 training and 8,041 test images of 196 classes.

    Args:
        root: The folder ``stanford_cars`` or the one around it.
        image_size: Side in pixels that a network is trained on.

    Raises:
        ValueError: ``image_size`` is out of range.
        FileNotFoundError: there is no folder ``root``.
    """

    name = "cars"
    superclass = "car"

    def __init__(self, root: str | Path, image_size: int = 448) -> None:
        check_side(image_size)
        self.root = needed(Path(root).expanduser(), _REMEDY)
        self.image_size = image_size

    @property
    def classes(self) -> Sequence[str]:
        """Make, model and year ("Ram C/V Cargo Van Minivan 2012"), in the order of ``cars_meta.mat``."""
        return self._classes

    @property
    def published(self) -> Mapping[str, int]:
        """See :attr:`Dataset.published`."""
        return {"train": 8_144, "test": 8_041, "classes": 196}

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """``train`` and ``test``, each sample with its box.

        Raises:
            FileNotFoundError: an annotation file or an image that it names is missing.
            ValueError: a file cannot be read, has no labels, or a number in it makes no sense.
        """
        return self._splits

    @cached_property
    def _folder(self) -> Path:
        return inner_folder(self.root, "stanford_cars", "devkit")

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        return tuple(map(str, matlab_array(self._folder / "devkit" / "cars_meta.mat", "class_names", _REMEDY)))

    @cached_property
    def _splits(self) -> dict[str, list[Sample]]:
        splits = {
            "train": self._samples(self._folder / "devkit" / "cars_train_annos.mat", "cars_train"),
            "test": self._samples(self._test_annotations, "cars_test"),
        }
        check_there((sample for samples in splits.values() for sample in samples), _REMEDY)
        return splits

    @property
    def _test_annotations(self) -> Path:
        """Beside ``devkit``, as torchvision wants it, or inside it, as GuidedMixup does."""
        inside = self._folder / "devkit" / _TEST
        beside = self._folder / _TEST
        if not inside.is_file() and not beside.is_file() and (inside.parent / "cars_test_annos.mat").is_file():
            raise FileNotFoundError(
                f"{beside} is missing: devkit/cars_test_annos.mat has no labels, they are in a file of that name. "
                f"{_REMEDY}"
            )
        return inside if inside.is_file() else beside

    def _samples(self, annotations: Path, folder: str) -> list[Sample]:
        """The images that a file of annotations describes, sorted; both splits have a 00001.jpg."""
        fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
        samples = []
        for where, one in structs_of(annotations, "annotations", fields, _REMEDY):
            label = number_in(str(one["class"]), range(1, len(self._classes) + 1), where, "class") - 1
            name = str(one["fname"])
            samples.append(Sample(f"{folder}/{name}", self._folder / folder / name, label, box=_box(where, one)))
        return by_id(samples)


def _box(where: str, one: Mapping[str, Any]) -> Box:
    """From corners whose first pixel is 1 and whose last one lies inside."""
    left, top = (number_in(str(one[name]), _PIXELS, where, name) for name in ("bbox_x1", "bbox_y1"))
    right = number_in(str(one["bbox_x2"]), range(left, _PIXELS.stop), where, "bbox_x2")
    bottom = number_in(str(one["bbox_y2"]), range(top, _PIXELS.stop), where, "bbox_y2")
    return left - 1, top - 1, right - left + 1, bottom - top + 1
