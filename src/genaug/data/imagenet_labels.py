"""Classes of ILSVRC 2012's validation images, where these lie all in one folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from genaug.data.layout import lines_of, number_in, rows_of, structs_of

_SOLUTION = "LOC_val_solution.csv"
_DEVKIT = "ILSVRC2012_devkit_t12"
_REMEDY = (
    f"The images of val are not in folders by class: their classes are in {_SOLUTION} (of Kaggle's download) or in "
    f"{_DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt with meta.mat beside it (ILSVRC2012_devkit_t12.tar.gz of "
    "image-net.org). Put either into the folder dataset.root."
)


def validation_wnids(folders: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Name without suffix and WordNet id of each validation image.

    Args:
        folders: Where to look for Kaggle's file, or the folder of the development kit.

    Raises:
        FileNotFoundError: there is neither, or the kit is not complete.
        ValueError: a line cannot be read.
    """
    for folder in folders:
        if (folder / _SOLUTION).is_file():
            return _of_kaggle(folder / _SOLUTION)
        if (folder / _DEVKIT).is_dir():
            return _of_devkit(folder / _DEVKIT / "data")
    raise FileNotFoundError(f"{folders[0]} has no labels of the validation images. {_REMEDY}")


def _of_kaggle(path: Path) -> Iterator[tuple[str, str]]:
    """Lines ``<image>,<wnid> <box> <wnid> <box> ...``: all boxes of an image are of one class."""
    for where, row in rows_of(path, ("ImageId", "PredictionString"), _REMEDY):
        wnid, _, _ = row["PredictionString"].strip().partition(" ")
        if not wnid:
            raise ValueError(f"{where}: PredictionString is empty, expected '<wnid> <box> ...'. {_REMEDY}")
        yield row["ImageId"], wnid


def _of_devkit(data: Path) -> Iterator[tuple[str, str]]:
    """Line i has the id of image i, in a numbering of its own that ``meta.mat`` explains."""
    meta = data / "meta.mat"
    wnids = {
        int(one["ILSVRC2012_ID"]): str(one["WNID"])
        for _, one in structs_of(meta, "synsets", ("ILSVRC2012_ID", "WNID", "num_children"), _REMEDY)
        if one["num_children"] == 0  # the others are what several classes have in common
    }
    lines = lines_of(data / "ILSVRC2012_validation_ground_truth.txt", _REMEDY)
    for number, (where, line) in enumerate(lines, start=1):
        index = number_in(line, range(1, 1001), where, "the class")
        if index not in wnids:
            raise ValueError(f"{where}: {meta} has no class {index}. {_REMEDY}")
        yield f"ILSVRC2012_val_{number:08}", wnids[index]
