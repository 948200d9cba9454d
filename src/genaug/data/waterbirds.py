"""Waterbirds: the birds of CUB cut out and put before land or water, which in training goes with the kind of bird."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path

from genaug.data.base import Dataset, Sample
from genaug.data.cub import CUB
from genaug.data.layout import by_id, check_side, check_there, inner_folder, needed, number_in, rows_of

_ARCHIVE = "waterbird_complete95_forest2water2"
_REMEDY = f"""\
Waterbirds' folder is {_ARCHIVE}, or the one around it, laid out like this:
  metadata.csv  (with the columns img_filename, y, split, place)
  001.Black_footed_Albatross/*.jpg ...
It is what {_ARCHIVE}.tar.gz unpacks to, which github.com/kohpangwei/group_DRO links to."""

#: The split column of metadata.csv.
_TRAIN, _VAL, _TEST = range(3)


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of metadata.csv, and where it stands."""

    where: str
    file: str
    y: int
    place: int
    split: int

    @property
    def group(self) -> int:
        return 2 * self.y + self.place


class _Composites(Dataset):
    """What the two tasks on these images share."""

    superclass = "bird"

    def __init__(self, root: str | Path, image_size: int = 224) -> None:
        check_side(image_size)
        self.root, self.image_size = needed(Path(root).expanduser(), _REMEDY), image_size

    @cached_property
    def _folder(self) -> Path:
        return inner_folder(self.root, _ARCHIVE, "metadata.csv")

    @cached_property
    def _rows(self) -> list[_Row]:
        path = self._folder / "metadata.csv"
        rows = [
            _Row(
                where,
                cells["img_filename"],
                number_in(cells["y"], range(2), where, "y (0 = landbird, 1 = waterbird)"),
                number_in(cells["place"], range(2), where, "place (0 = land, 1 = water)"),
                number_in(cells["split"], range(3), where, "split (0 = train, 1 = val, 2 = test)"),
            )
            for where, cells in rows_of(path, ("img_filename", "y", "place", "split"), _REMEDY)
        ]
        lacking = {_TRAIN, _VAL, _TEST} - {row.split for row in rows}
        if lacking:
            raise ValueError(f"{path} lists no image of split {min(lacking)}; 0, 1 and 2 are needed. {_REMEDY}")
        return rows

    def _samples(self, split: int, label: Callable[[_Row], int]) -> list[Sample]:
        samples = [
            Sample(row.file, self._folder / row.file, label(row), group=row.group)
            for row in self._rows
            if row.split == split
        ]
        check_there(samples, _REMEDY)
        return by_id(samples)


class Waterbirds(_Composites):
    """Landbird or waterbird (Sagawa et al., 2020): 4,795 training, 1,199 validation and 5,794 test images.

    In training 95 % of the birds are before what they are named after; in ``val`` and ``test`` half of each kind. The
    score is the published average: accuracy by group, weighted by the groups' shares of the training images. Plain
    accuracy and that of the worst group are computed as well.

    The published labels stand as they are: three landbirds (Eastern Towhee, Western Meadowlark, Western Wood Pewee)
    count as waterbirds there.

    Args:
        root: The folder ``waterbird_complete95_forest2water2`` or the one around it.
        image_size: Side in pixels that a network is trained on.

    Raises:
        ValueError: ``image_size`` is not possible.
        FileNotFoundError: there is no folder ``root``.
    """

    name = "waterbirds"
    score = "weighted_accuracy"
    classes = ("landbird", "waterbird")
    groups = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")
    published = {"train": 4795, "val": 1199, "test": 5794, "classes": 2}

    @property
    def group_shares(self) -> Sequence[float]:
        """Share of each group in ``train``: as published 3,498, 184, 56 and 1,057 of 4,795."""
        counts = Counter(row.group for row in self._rows if row.split == _TRAIN)
        return [counts[group] / counts.total() for group in range(len(self.groups))]

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """``train``, ``val`` and ``test``, each sample with its group.

        Raises:
            FileNotFoundError: metadata.csv or an image that it lists is missing.
            ValueError: metadata.csv cannot be read, or lacks a split.
        """
        return self._splits

    @cached_property
    def _splits(self) -> dict[str, list[Sample]]:
        return {
            name: self._samples(split, attrgetter("y"))
            for name, split in (("train", _TRAIN), ("val", _VAL), ("test", _TEST))
        }


class WaterbirdsSpecies(_Composites):
    """The 200 species of CUB, tested on Waterbirds as well: De-DA's Table 5, which follows Diff-Mix.

    A network that learns from CUB's photographs is asked for the species of the birds of Waterbirds' test split
    (``ood_waterbirds``: 5,794 images), by kind of bird and background. The published average is plain accuracy.

    Only that split is used: it shows CUB's test birds, while Waterbirds' train and val show birds of CUB's training
    photographs. Three landbirds (Eastern Towhee, Western Meadowlark, Western Wood Pewee) are in the groups of
    waterbirds, as published; their species are right.

    Args:
        root: The folder ``waterbird_complete95_forest2water2`` or the one around it.
        cub_root: The folder ``CUB_200_2011`` or the one around it.
        image_size: Side in pixels that a network is trained on.

    Raises:
        ValueError: ``image_size`` is not possible.
        FileNotFoundError: there is no folder ``root``.
    """

    name = "waterbirds_species"
    groups = ("Landbird, Land", "Landbird, Water", "Waterbird, Land", "Waterbird, Water")
    published = {"train": 5994, "test": 5794, "ood_waterbirds": 5794, "classes": 200}

    def __init__(self, root: str | Path, cub_root: str | Path, image_size: int = 224) -> None:
        super().__init__(root, image_size)
        self.cub_root = cub_root

    @property
    def classes(self) -> Sequence[str]:
        """CUB's, in the official order."""
        return self._cub.classes

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """CUB's ``train`` and ``test``, without groups, and ``ood_waterbirds`` with them.

        Ids are relative to CUB's folder (``images/...``) in the former, to ``root`` in the latter.

        Raises:
            FileNotFoundError: CUB, metadata.csv or an image that is listed is missing.
            ValueError: a list cannot be read, or a bird's species is none of CUB's.
        """
        return self._splits

    @cached_property
    def _cub(self) -> CUB:
        return CUB(self.cub_root, self.image_size)

    @cached_property
    def _splits(self) -> dict[str, Sequence[Sample]]:
        return {**self._cub.splits(), "ood_waterbirds": self._samples(_TEST, self._species)}

    @cached_property
    def _labels(self) -> dict[int, int]:
        return {class_id: label for label, class_id in enumerate(self._cub.class_ids)}

    def _species(self, row: _Row) -> int:
        """Label of a bird in a folder like ``001.Black_footed_Albatross``: its number is CUB's of the species."""
        number = number_in(
            row.file.partition(".")[0], range(1, 201), row.where, "the number that img_filename begins with"
        )
        if number not in self._labels:
            raise ValueError(
                f"{row.where}: {row.file} is of species {number}, of which {self.cub_root} has no image: "
                "cub_root must be the whole of CUB_200_2011."
            )
        return self._labels[number]
