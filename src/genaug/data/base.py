"""The contract between a dataset and everything that reads it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: ``(x, y, width, height)`` in pixels of the image as read, origin at the top left.
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a split, described but not read.

    Attributes:
        id: Name that is the same on every machine: the path relative to the dataset's root, with ``/``.
        path: The image file.
        label: Index of the class, or the indices of all classes present (multi-label data).
        mask: File of the ground-truth mask, where the dataset has one.
        mask_values: Pixel values of the mask file that are object; None: all but 0.
        unknown: Indices of classes of which nobody knows whether they are present (VOC's "difficult"): neither a loss
            nor a score counts them.
        box: Ground-truth bounding box, where the dataset has one.
        group: Index into :attr:`Dataset.groups`, where accuracy is reported by group.
        caption: A sentence that describes the image, where there is one.
        soft_label: Weights by class in the place of a hard label, as pairs of class and weight: of an image that was
            made half of one class and half of another.
    """

    id: str
    path: Path
    label: int | tuple[int, ...]
    mask: Path | None = None
    mask_values: tuple[int, ...] | None = None
    unknown: tuple[int, ...] = ()
    box: Box | None = None
    group: int | None = None
    caption: str | None = None
    soft_label: tuple[tuple[int, float], ...] = ()


class Dataset(ABC):
    """A set of named splits of images.

    Building one is cheap and reads no image: wrong arguments are refused here, before anything expensive.
    Files are found (or, for ``toybirds``, rendered) by :meth:`splits`.

    Attributes:
        name: Short name, used in folder names and tables.
        superclass: What every image shows ("bird"); see :attr:`superclasses`.
        image_size: Side in pixels of the square image that a network is trained on.
        channels: 3 for RGB, 1 for grey.
        multilabel: Whether an image can show several classes.
        score: Which of the computed numbers is the score, that checkpoints are chosen by and tables show: ``accuracy``,
            ``weighted_accuracy`` (see :attr:`group_shares`) or ``macro_f1``; with several labels always ``map``.
    """

    name: str
    superclass: str
    image_size: int
    channels: int = 3
    multilabel: bool = False
    score: str = "accuracy"

    @property
    @abstractmethod
    def classes(self) -> Sequence[str]:
        """Names of the classes; a label is an index into it."""

    @property
    def groups(self) -> Sequence[str]:
        """Names of the groups that accuracy is also reported for; empty when there are none."""
        return ()

    @property
    def superclasses(self) -> Sequence[str]:
        """For each class, what its images show ("bird"): the word a text-prompted segmenter is given.

        :attr:`superclass`, unless the classes differ in it.
        """
        return (self.superclass,) * len(self.classes)

    @property
    def group_shares(self) -> Sequence[float] | None:
        """Share of each group in the training data, where published averages weigh the groups of a test by it."""
        return None

    @property
    def published(self) -> Mapping[str, int]:
        """Images of each split, and the number of ``classes``, as published; empty where nothing is."""
        return {}

    @abstractmethod
    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """Every split by name: ``train``, ``test``, and where they exist ``val`` and any ``ood_*``.

        The order of a split is fixed (sorted by id), whatever the file system says.
        """
