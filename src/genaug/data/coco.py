"""COCO: photographs of everyday scenes, each with any number of eighty kinds of objects."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from genaug.data.base import Dataset, Sample
from genaug.data.layout import by_id, check_side, check_there, needed

_REMEDY = """\
root must be the folder that the archives of 2017 were unpacked into:
  train2017/000000000009.jpg ...
  val2017/000000000139.jpg ...
  annotations/instances_train2017.json  annotations/instances_val2017.json
They are train2017.zip, val2017.zip and annotations_trainval2017.zip, from cocodataset.org."""


class COCO(Dataset):
    """Common Objects in Context (Lin et al., 2014), 2017: which of 80 kinds of objects an image shows.

    118,287 training images; the 5,000 of val2017 are the test, for the labels of the test images are not published. A
    crowd counts as present like a single object. An image without annotations stays: it shows none of the kinds.

    Args:
        root: The folder that holds ``train2017``, ``val2017`` and ``annotations``.
        image_size: Side in pixels that a network is trained on.

    Raises:
        ValueError: ``image_size`` is below 1.
        FileNotFoundError: there is no folder ``root``.
    """

    name = "coco"
    superclass = "object"
    multilabel = True

    def __init__(self, root: str | Path, image_size: int = 224) -> None:
        check_side(image_size)
        self.root = needed(Path(root).expanduser(), _REMEDY)
        self.image_size = image_size

    @property
    def classes(self) -> Sequence[str]:
        """The kinds of objects, in the order of their ids, which have gaps."""
        return list(self._test.categories.values())

    @property
    def published(self) -> Mapping[str, int]:
        """See :attr:`Dataset.published`."""
        return {"train": 118287, "test": 5000, "classes": 80}

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """``train`` and ``test``.

        The file that says what training images show has some 450 MB, and is read whole: that takes a while and memory.

        Raises:
            FileNotFoundError: a file or an image that it names is missing.
            ValueError: a file is damaged, or the two name other categories.
        """
        return self._splits

    @cached_property
    def _test(self) -> _Instances:
        return _Instances(self.root, "val2017")

    @cached_property
    def _splits(self) -> dict[str, list[Sample]]:
        train = _Instances(self.root, "train2017")
        if train.categories != self._test.categories:
            raise ValueError(
                f"{train.path} and {self._test.path} name other categories ({len(train.categories)} and "
                f"{len(self._test.categories)}): take both from one release. {_REMEDY}"
            )
        splits = {"train": train.samples(), "test": self._test.samples()}
        check_there([sample for samples in splits.values() for sample in samples], _REMEDY)
        return splits


class _Instances:
    """What ``instances_<folder>.json`` says of the images of a folder.

    Attributes:
        path: The file.
        categories: Names by id, in the order of the ids.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of COCO's.
    """

    def __init__(self, root: Path, folder: str) -> None:
        self.root, self.folder = root, folder
        self.path = needed(root / "annotations" / f"instances_{folder}.json", _REMEDY)
        try:
            content: dict[str, Any] = json.loads(self.path.read_bytes())
            self.categories = {int(one["id"]): str(one["name"]) for one in content["categories"]}
            self._files = {int(one["id"]): str(one["file_name"]) for one in content["images"]}
            # Polygons, boxes and captions are let go of with ``content``.
            pairs = {(int(one["image_id"]), int(one["category_id"])) for one in content["annotations"]}
        except (KeyError, TypeError, ValueError) as error:
            what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{self.path} is no file of COCO's instances: {what}. {_REMEDY}") from error
        self.categories = dict(sorted(self.categories.items()))
        self._shown: dict[int, list[int]] = defaultdict(list)
        for image, category in sorted(pairs):
            if image not in self._files or category not in self.categories:
                raise ValueError(
                    f"{self.path}: an annotation is of image {image} and category {category}, and the file has not "
                    f"both. {_REMEDY}"
                )
            self._shown[image].append(category)

    def samples(self) -> list[Sample]:
        """The images with what they show."""
        labels = {category: label for label, category in enumerate(self.categories)}
        return by_id(
            Sample(
                f"{self.folder}/{file}",
                self.root / self.folder / file,
                tuple(labels[category] for category in self._shown.get(image, ())),
            )
            for image, file in self._files.items()
        )
