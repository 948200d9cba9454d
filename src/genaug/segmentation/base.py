"""The contract of everything that finds the object in an image."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from genaug.data.base import Sample
from genaug.synthesis.store import fingerprint


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """What a segmenter found.

    Attributes:
        mask: ``(H, W)`` bool, of the image's size; several objects form one mask, none is an empty one.
        score: How sure the segmenter is, in [0, 1], where it can say.
        note: Which way led to the mask ("box", "fallback", …).
    """

    mask: np.ndarray
    score: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Words:
    """What an image shows, for segmenters that read.

    Attributes:
        superclass: A word that is true of every image ("bird"); in multi-label data the name of one label ("cat").
        class_name: The class of this image ("water ouzel"); empty in multi-label data.
    """

    superclass: str
    class_name: str = ""


class Segmenter(ABC):
    """Finds the object that an image is about.

    Building one is cheap: arguments are checked and files looked for; a model is loaded by :meth:`load` or the first
    image. What is found in an image depends on nothing but the image, the sample, the words and :attr:`settings`:
    neither on the device nor on the other images of a batch, rounding apart. One instance is used from several threads
    at once, unless it is ``serial``.

    Attributes:
        weights: Model file, where there is one.
        batch_size: How many images are asked for at once, at most.
        serial: Whether one call must end before the next begins: one model on one device.
        reads_class: Whether a mask can depend on the name of the image's class.
    """

    weights: Path | None = None
    batch_size: int = 1
    serial: bool = False
    reads_class: bool = False

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """JSON values of every argument that changes a mask; not those that only change the speed."""

    def can_segment(self, sample: Sample) -> bool:
        """Whether ``sample`` comes with what the segmenter needs; any does, unless it says otherwise."""
        return True

    @abstractmethod
    def segment(self, image: np.ndarray, sample: Sample, prompt: str) -> Segmentation:
        """Find the object.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, the pixels of ``sample.path``.
            sample: Box and ground-truth mask come from here, for segmenters that use them.
            prompt: What the image shows, in a word ("bird"), for segmenters that read.
        """

    def segment_batch(
        self, images: Sequence[np.ndarray], samples: Sequence[Sample], words: Sequence[Words]
    ) -> list[Segmentation]:
        """Find the object of each of up to :attr:`batch_size` images, which may differ in size; see :meth:`segment`."""
        return [
            self.segment(image, sample, word.superclass)
            for image, sample, word in zip(images, samples, words, strict=True)
        ]

    def load(self, device: str) -> None:  # noqa: B027 - without a model there is nothing to load
        """Load the model onto ``device`` ("cpu", "cuda:1"); the second time nothing happens."""

    def unload(self) -> None:  # noqa: B027
        """Give the model's memory back; what comes next loads it again."""

    @property
    def files(self) -> Sequence[Path]:
        """All model files that a mask depends on."""
        return () if self.weights is None else (self.weights,)

    @cached_property
    def fingerprint(self) -> str:
        """Class name and a hash of class, settings and model files: the name of a folder of masks."""
        digests = []
        for path in self.files:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "blake2b").hexdigest())
        return fingerprint(self, self.settings, *digests)
