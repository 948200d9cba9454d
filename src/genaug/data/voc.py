"""PASCAL VOC: photographs of one or several of twenty kinds of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from genaug.data.base import Dataset, Sample
from genaug.data.layout import by_id, check_side, check_there, inner_folder, lines_of, needed, number_in

_REMEDY = """\
root must be the folder VOCdevkit, the folder around it, or VOC{year} in it:
  VOCdevkit/VOC{year}/JPEGImages/*.jpg
  VOCdevkit/VOC{year}/ImageSets/Main/{train}.txt, aeroplane_{train}.txt ... tvmonitor_{train}.txt, and those of {test}
  VOCdevkit/VOC{year}/SegmentationClass/*.png  (of some images)
It comes from {archives} at host.robots.ox.ac.uk/pascal/VOC/voc{year}."""

#: By year: which of the official lists are trained and tested on, the archives, and how many images the lists have.
_YEARS = {
    2007: (("trainval", "test"), "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar", (5011, 4952)),
    2012: (("train", "val"), "VOCtrainval_11-May-2012.tar", (5717, 5823)),
}

#: Written as they are said; a list's name has no spaces.
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip

#: Values of SegmentationClass: an object has its class's number from 1 on; 0 is background and 255 its border, or a
#: difficult object.
OBJECT = tuple(range(1, len(CLASSES) + 1))


class VOC(Dataset):
    """PASCAL Visual Object Classes (Everingham et al., 2010): the classification task of 2007 or of 2012.

    A class of which an image shows difficult objects only is unknown in it, as in the official score: neither present
    nor absent. 422 images of 2007's training and 1,464 of 2012's have a mask, of all their objects but difficult ones.

    Args:
        root: The folder ``VOCdevkit``, the one around it, or the year's in it.
        year: 2007: trained on trainval (5,011 images), tested on test (4,952). 2012: trained on train (5,717), tested
            on val (5,823), for the labels of its test images are not published.
        image_size: Side in pixels that a network is trained on.

    Raises:
        ValueError: an argument is out of range.
        FileNotFoundError: there is no folder ``root``.
    """

    superclass = "object"
    multilabel = True

    def __init__(self, root: str | Path, year: int = 2007, image_size: int = 224) -> None:
        if year not in _YEARS:
            raise ValueError(f"year={year} is not possible: take 2007 or 2012.")
        check_side(image_size)
        lists, archives, counts = _YEARS[year]
        self._remedy = _REMEDY.format(year=year, train=lists[0], test=lists[1], archives=archives)
        self._lists = dict(zip(("train", "test"), lists, strict=True))
        self._counts = dict(zip(("train", "test"), counts, strict=True))
        self.root = needed(Path(root).expanduser(), self._remedy)
        self.name, self.year, self.image_size = f"voc{year}", year, image_size

    @property
    def classes(self) -> Sequence[str]:
        """The twenty classes, in the order of the alphabet."""
        return CLASSES

    @property
    def published(self) -> Mapping[str, int]:
        """See :attr:`Dataset.published`."""
        return {**self._counts, "classes": len(CLASSES)}

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """``train`` and ``test``, each sample with its mask where the file is there.

        Raises:
            FileNotFoundError: a list or an image that it names is missing.
            ValueError: a list cannot be read, or lacks an image that another one has.
        """
        return self._splits

    @cached_property
    def _folder(self) -> Path:
        devkit = inner_folder(self.root, "VOCdevkit", f"VOC{self.year}")
        return inner_folder(devkit, f"VOC{self.year}", "ImageSets")

    @cached_property
    def _splits(self) -> dict[str, list[Sample]]:
        splits = {split: by_id(self._samples(name)) for split, name in self._lists.items()}
        check_there([sample for samples in splits.values() for sample in samples], self._remedy)
        return splits

    def _samples(self, split: str) -> list[Sample]:
        """What the official lists of a split say."""
        main = self._folder / "ImageSets" / "Main"
        images = [line for _, line in lines_of(main / f"{split}.txt", self._remedy)]
        flags = [self._flags(main / f"{name.replace(' ', '')}_{split}.txt", images) for name in CLASSES]
        return [self._sample(image, [of_class[image] for of_class in flags]) for image in images]

    def _flags(self, path: Path, images: Sequence[str]) -> dict[str, int]:
        """Of each image whether it shows a class: 1 yes, -1 no, 0 difficult objects only."""
        flags = {}
        for where, line in lines_of(path, self._remedy):
            image, _, flag = line.partition(" ")
            flags[image] = number_in(flag, (-1, 0, 1), where, f"the flag of {image}")
        lacking = [image for image in images if image not in flags]
        if lacking:
            raise ValueError(f"{path} lacks {len(lacking)} images of the split, such as {lacking[0]}. {self._remedy}")
        return flags

    def _sample(self, image: str, flags: Sequence[int]) -> Sample:
        mask = self._folder / "SegmentationClass" / f"{image}.png"
        return Sample(
            f"JPEGImages/{image}.jpg",
            self._folder / "JPEGImages" / f"{image}.jpg",
            tuple(label for label, flag in enumerate(flags) if flag == 1),
            mask=mask if mask.is_file() else None,
            mask_values=OBJECT,
            unknown=tuple(label for label, flag in enumerate(flags) if flag == 0),
        )
