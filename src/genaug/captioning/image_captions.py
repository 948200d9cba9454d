"""Captions of photographs: the contract of what writes them, and the captions that a data set comes with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from genaug.data.base import Dataset, Sample
from genaug.segmentation.masks import superclass_of
from genaug.synthesis.per_source import with_article
from genaug.synthesis.store import fingerprint


class ImageCaptioner(ABC):
    """Says what photographs show.

    Building one is cheap: arguments are checked and local files looked for.
    """

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """JSON values of every argument that changes a caption, the weights among them; not those of speed alone."""

    @cached_property
    def fingerprint(self) -> str:
        """Class name and a hash of class and settings: the name of a folder of captions."""
        return fingerprint(self, self.settings)

    @abstractmethod
    def describe(self, samples: Sequence[Sample], dataset: Dataset, folder: Path, device: str = "cpu") -> list[str]:
        """One caption a sample.

        Args:
            samples: Which.
            dataset: For its words.
            folder: Of all captions; what a model wrote is kept in ``folder/<fingerprint>/`` and not written again.
            device: Where a model computes: "cpu", "cuda:1".
        """


class DatasetCaptions(ImageCaptioner):
    """The captions that samples come with; the superclass alone where there is none."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def describe(self, samples: Sequence[Sample], dataset: Dataset, folder: Path, device: str = "cpu") -> list[str]:
        """See :meth:`ImageCaptioner.describe`; nothing is kept, for there is nothing to wait for."""
        return [sample.caption or f"a photo of {with_article(superclass_of(sample, dataset))}" for sample in samples]
