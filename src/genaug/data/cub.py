"""CUB-200-2011 and subsets of it: 200 kinds of birds with bounding boxes and, as an extra archive, masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar

from genaug.data.base import Box, Dataset, Sample
from genaug.data.layout import inner_folder, lines_of

Value = TypeVar("Value")

_REMEDY = """\
CUB's folder is CUB_200_2011, or the one around it, laid out like this:
  images.txt  image_class_labels.txt  train_test_split.txt  classes.txt  bounding_boxes.txt
  images/001.Black_footed_Albatross/*.jpg ...
  segmentations/001.Black_footed_Albatross/*.png ...  (optional)
It is what CUB_200_2011.tgz unpacks to, from the "Caltech-UCSD Birds-200-2011" page of CaltechDATA; the masks are
segmentations.tgz on that page."""

SPLITS = ("official", "alia")
_HELD_BY_ALIA = 5


class CUB(Dataset):
    """Caltech-UCSD Birds (Wah et al., 2011): 5,994 training and 5,794 test images of 200 classes.

    Subsets work as well: image ids and class ids may have gaps, and labels count the classes that are there.

    ``split="alia"`` trains on what ALIA (Dunlap et al., 2023) trains on: all but the last five training images of each
    class in the order of images.txt. ALIA keeps those five as real images that generated ones are compared with, and
    chooses its checkpoints on ``test``; here they are ``val``, so that the test images choose nothing.

    Args:
        root: The folder ``CUB_200_2011`` or the one around it.
        image_size: Side in pixels that a network is trained on.
        classes: Keep the first so many classes, in the official order; ``None`` keeps all.
        split: ``official`` (train, test) or ``alia`` (4,994 train, 1,000 val, 5,794 test).

    Raises:
        ValueError: an argument is out of range.
        FileNotFoundError: there is no folder ``root``.
    """

    superclass = "bird"

    def __init__(
        self, root: str | Path, image_size: int = 448, classes: int | None = None, split: str = "official"
    ) -> None:
        for argument, value, least in (("image_size", image_size, 1), ("classes", classes, 2)):
            if value is not None and value < least:
                raise ValueError(f"{argument}={value} is not possible: take {least} or more.")
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is not known: choose one of {', '.join(SPLITS)}.")
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} is missing. {_REMEDY}")
        self.image_size, self._first_classes = image_size, classes
        self.split, self.name = split, "cub" if split == "official" else f"cub_{split}"

    @property
    def classes(self) -> Sequence[str]:
        """Names as they are read aloud ("Black footed Albatross"), in the official order."""
        return tuple(self._class_names.values())

    @property
    def class_ids(self) -> Sequence[int]:
        """The official number of each class, which folder names begin with: 1 to 200, less what a subset lacks."""
        return tuple(self._class_names)

    @property
    def published(self) -> Mapping[str, int]:
        """See :attr:`Dataset.published`."""
        if self._first_classes is not None:
            return {}
        held = {"official": {"train": 5994}, "alia": {"train": 4994, "val": 1000}}[self.split]
        return {**held, "test": 5794, "classes": 200}

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """``train``, ``test`` and with ALIA's split ``val``; samples have their box, and their mask where it is there.

        Raises:
            FileNotFoundError: an index file or an image that it lists is missing.
            ValueError: the index files do not fit together, or a class has no training images.
        """
        return self._splits

    @cached_property
    def _folder(self) -> Path:
        return inner_folder(self.root, "CUB_200_2011", "images.txt")

    @cached_property
    def _files(self) -> dict[int, str]:
        return self._table("images.txt", str)

    @cached_property
    def _class_ids(self) -> dict[int, int]:
        return self._table("image_class_labels.txt", int, needed=self._files)

    @cached_property
    def _class_names(self) -> dict[int, str]:
        """Names by official id, of the classes kept: ids may have gaps, and classes without images do not count."""
        present = sorted({self._class_ids[image] for image in self._files})
        names = self._table("classes.txt", _class_name, needed=present)
        count = len(present) if self._first_classes is None else self._first_classes
        if count > len(present):
            raise ValueError(f"classes={count}, but {self._folder} has {len(present)}: take at most so many.")
        return {class_id: names[class_id] for class_id in present[:count]}

    @cached_property
    def _splits(self) -> dict[str, list[Sample]]:
        is_train = self._table("train_test_split.txt", _flag, needed=self._files)
        boxes = self._table("bounding_boxes.txt", _box, needed=self._files)
        labels = {class_id: label for label, class_id in enumerate(self._class_names)}
        splits: dict[str, list[Sample]] = {"train": [], "test": []}
        for image, file in sorted(self._files.items(), key=lambda item: item[1]):
            label = labels.get(self._class_ids[image])
            if label is not None:
                splits["train" if is_train[image] else "test"].append(self._sample(file, label, boxes[image]))
        self._check(splits)
        if self.split == "alia":
            splits["train"], splits["val"] = self._hold_back(splits["train"])
        return splits

    def _sample(self, file: str, label: int, box: Box) -> Sample:
        mask = self._folder / "segmentations" / PurePosixPath(file).with_suffix(".png")
        found = mask if mask.is_file() else None
        return Sample(f"images/{file}", self._folder / "images" / file, label, mask=found, box=box)

    def _hold_back(self, train: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
        """ALIA's training images, and the last of each class in the order of images.txt."""
        place = {f"images/{file}": number for number, file in enumerate(self._files.values())}
        held = set()
        for label, name in enumerate(self.classes):
            ids = sorted((sample.id for sample in train if sample.label == label), key=place.__getitem__)
            if len(ids) <= _HELD_BY_ALIA:
                raise ValueError(
                    f"split=alia holds back {_HELD_BY_ALIA} training images of each class, but {name} has {len(ids)} "
                    f"in {self._folder / 'train_test_split.txt'}: take split=official."
                )
            held.update(ids[-_HELD_BY_ALIA:])
        return [sample for sample in train if sample.id not in held], [sample for sample in train if sample.id in held]

    def _check(self, splits: Mapping[str, Sequence[Sample]]) -> None:
        """Refuse an unpacking that stopped half-way, and classes that cannot be learned."""
        missing = [sample.path for split in splits.values() for sample in split if not sample.path.is_file()]
        if missing:
            raise FileNotFoundError(f"{missing[0]} (one of {len(missing)} images listed) is missing. {_REMEDY}")
        unlearned = set(range(len(self._class_names))) - {sample.label for sample in splits["train"]}
        if unlearned:
            names = ", ".join(self.classes[label] for label in sorted(unlearned))
            raise ValueError(f"No training images in {self._folder} for: {names}. See train_test_split.txt.")

    def _table(self, name: str, parse: Callable[[str], Value], needed: Iterable[int] = ()) -> dict[int, Value]:
        """Read an index file of lines ``<id> <value>``, in which the ids ``needed`` must occur."""
        path = self._folder / name
        table = {}
        for where, line in lines_of(path, _REMEDY):
            try:
                key, value = line.split(maxsplit=1)
                table[int(key)] = parse(value)
            except ValueError as error:
                raise ValueError(f"{where}: cannot be read as '<id> <value>': {line!r}.") from error
        absent = [key for key in needed if key not in table]
        if absent:
            raise ValueError(f"{path} lacks {len(absent)} ids that the other index files name, such as {absent[0]}.")
        return table


def _class_name(folder: str) -> str:
    """``001.Black_footed_Albatross`` as ``Black footed Albatross``."""
    return (folder.partition(".")[2] or folder).replace("_", " ")


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"expected 0 or 1, got {text!r}")
    return text == "1"


def _box(text: str) -> Box:
    x, y, width, height = (float(number) for number in text.split())
    return x, y, width, height
