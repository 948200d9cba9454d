"""iWildCam 2020 as WILDS has it: animals before camera traps, at known and at new places; and ALIA's part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from genaug.data.base import Dataset, Sample
from genaug.data.layout import by_id, check_side, check_there, inner_folder, needed, number_in, rows_of

_ARCHIVE = "iwildcam_v2.0"
_REMEDY = f"""\
iWildCam's folder is {_ARCHIVE}, or the one around it, laid out like this:
  metadata.csv  (with the columns split, y, filename)
  categories.csv  (with the columns y, name)
  train/*.jpg  (the images of all splits)
It is what {_ARCHIVE}.tar.gz unpacks to, a download of WILDS (wilds.stanford.edu). Its host is out of order at times;
a mirror is good when it holds that archive."""
_LISTS_REMEDY = """\
dataset.lists is the folder of ALIA's train_subset.csv, val_subset.csv and test_subset.csv (with the columns y,
filename): data/iwildcam_v2.0 of github.com/lisadunlap/ALIA."""

#: WILDS' name of a split to ours; None is not used.
_SPLITS = {"train": "train", "val": "val", "id_test": "test", "test": "ood_locations", "id_val": None}
#: What categories.csv gives as y of the categories that no image shows.
_UNUSED = "99999"
#: The classes of ALIA, by the y of WILDS.
_ALIA_CLASSES = {
    0: "background",
    24: "cattle",
    32: "elephants",
    36: "impalas",
    48: "zebras",
    49: "giraffes",
    52: "dik-diks",
}


class _CameraTraps(Dataset):
    """What the two tasks on these images share."""

    superclass = "animal"

    def __init__(self, root: str | Path, image_size: int = 224) -> None:
        check_side(image_size)
        self.root, self.image_size = needed(Path(root).expanduser(), _REMEDY), image_size

    @cached_property
    def _folder(self) -> Path:
        return inner_folder(self.root, _ARCHIVE, "metadata.csv")

    def _sample(self, file: str, label: int) -> Sample:
        return Sample(f"train/{file}", self._folder / "train" / file, label)


class IWildCam(_CameraTraps):
    """Which of 182 animals a camera trap saw, or none (Beery et al., 2020; version 2.0 of Koh et al., 2021).

    The splits by WILDS' names: ``train`` (129,809 images); ``val`` is val (14,961, other places than train's), which
    WILDS chooses its checkpoints on; ``test`` is id_test (8,154, other days at train's places); ``ood_locations`` is
    test (42,791, places that are in no other split). id_val (7,314) is not used. The score is WILDS': F1 averaged over
    the classes that a split shows.

    Args:
        root: The folder ``iwildcam_v2.0`` or the one around it.
        image_size: Side in pixels that a network is trained on.

    Raises:
        ValueError: ``image_size`` is not possible.
        FileNotFoundError: there is no folder ``root``.
    """

    name = "iwildcam"
    score = "macro_f1"
    published = {"train": 129809, "val": 14961, "test": 8154, "ood_locations": 42791, "classes": 182}

    @property
    def classes(self) -> Sequence[str]:
        """Names in the order of WILDS' labels: "empty", then animals, mostly in Latin."""
        return self._classes

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """``train``, ``val``, ``test`` and ``ood_locations``.

        Raises:
            FileNotFoundError: metadata.csv, categories.csv or an image that is listed is missing.
            ValueError: a list cannot be read, or lacks a split or a class.
        """
        return self._splits

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        path = self._folder / "categories.csv"
        rows = [row for row in rows_of(path, ("y", "name"), _REMEDY) if row[1]["y"] != _UNUSED]
        names: dict[int, str] = {}
        for where, row in rows:
            label = number_in(row["y"], range(len(rows)), where, "y")
            if label in names:
                raise ValueError(f"{where}: y={label} is that of {names[label]!r} already. {_REMEDY}")
            names[label] = row["name"]
        if not names:
            raise ValueError(f"{path} lists no category. {_REMEDY}")
        return tuple(names[label] for label in range(len(rows)))

    @cached_property
    def _splits(self) -> dict[str, list[Sample]]:
        path = self._folder / "metadata.csv"
        splits: dict[str, list[Sample]] = {name: [] for name in _SPLITS.values() if name}
        for where, row in rows_of(path, ("split", "y", "filename"), _REMEDY):
            label = number_in(row["y"], range(len(self.classes)), where, "y")
            if row["split"] not in _SPLITS:
                raise ValueError(f"{where}: split is {row['split']!r}, expected one of {', '.join(_SPLITS)}.")
            name = _SPLITS[row["split"]]
            if name:
                splits[name].append(self._sample(row["filename"], label))
        for theirs, name in _SPLITS.items():
            if name and not splits[name]:
                raise ValueError(f"{path} lists no image of the split {theirs}. {_REMEDY}")
        check_there([sample for samples in splits.values() for sample in samples], _REMEDY)
        return {name: by_id(samples) for name, samples in splits.items()}


class AliaIWildCam(_CameraTraps):
    """ALIA's part of iWildCam (Dunlap et al., 2023), which AGA uses too: 7 classes, 6,052 training images of 15 places.

    ``test`` is ALIA's: 8,483 images of two places that are not in ``train``, so out of distribution in spite of its
    name. ``val`` is ALIA's as well: 2,826 images of WILDS' id_test, from 122 places, nine of them ``train``'s. The
    score is plain accuracy, by which ALIA's published code chooses its checkpoints; macro F1 is computed beside it.
    ALIA's train_extra_subset.csv (2,224 real images of 13 further places, to compare generated ones with) is not used.

    Args:
        root: The folder ``iwildcam_v2.0`` or the one around it.
        lists: The folder of ALIA's ``train_subset.csv``, ``val_subset.csv`` and ``test_subset.csv``.
        image_size: Side in pixels that a network is trained on.

    Raises:
        ValueError: ``image_size`` is not possible.
        FileNotFoundError: there is no folder ``root``.
    """

    name = "iwildcam_alia"
    classes = tuple(_ALIA_CLASSES.values())
    published = {"train": 6052, "val": 2826, "test": 8483, "classes": 7}

    def __init__(self, root: str | Path, lists: str | Path, image_size: int = 224) -> None:
        super().__init__(root, image_size)
        self.lists = Path(lists).expanduser()

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """``train``, ``val`` and ``test``.

        Raises:
            FileNotFoundError: a list or an image that it names is missing.
            ValueError: a list cannot be read, is empty, or names another class.
        """
        return self._splits

    @cached_property
    def _splits(self) -> dict[str, list[Sample]]:
        splits = {name: self._listed(self.lists / f"{name}_subset.csv") for name in ("train", "val", "test")}
        check_there([sample for samples in splits.values() for sample in samples], _REMEDY)
        return {name: by_id(samples) for name, samples in splits.items()}

    def _listed(self, path: Path) -> list[Sample]:
        labels = {y: label for label, y in enumerate(_ALIA_CLASSES)}
        samples = [
            self._sample(row["filename"], labels[number_in(row["y"], tuple(labels), where, "y")])
            for where, row in rows_of(path, ("y", "filename"), _LISTS_REMEDY)
        ]
        if not samples:
            raise ValueError(f"{path} lists no image. {_LISTS_REMEDY}")
        return samples
