"""The contract of everything that finds the object in an image."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from genaug.data.base import Sample
from genaug.synthesis.store import content_key


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


class Segmenter(ABC):
    """Finds the object that an image is about.

    Building one is cheap: arguments are checked and files looked for; a model is loaded by the first image. One
    instance is used from several threads at once, and what it finds in an image depends on nothing but the image, the
    sample, the prompt and :attr:`settings`.

    Attributes:
        weights: Model file, where there is one.
    """

    weights: Path | None = None

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """JSON values of every argument that changes a mask; not those that only change the speed."""

    @abstractmethod
    def segment(self, image: np.ndarray, sample: Sample, prompt: str) -> Segmentation:
        """Find the object.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, the pixels of ``sample.path``.
            sample: Box and ground-truth mask come from here, for segmenters that use them.
            prompt: What the image shows, in a word ("bird"), for segmenters that read.
        """

    @cached_property
    def fingerprint(self) -> str:
        """Class name and a hash of class, settings and model file: the name of a folder of masks."""
        parts = [type(self).__module__, type(self).__qualname__, json.dumps(dict(self.settings), sort_keys=True)]
        if self.weights is not None:
            with self.weights.open("rb") as file:
                parts.append(hashlib.file_digest(file, "blake2b").hexdigest())
        return f"{type(self).__name__}-{content_key(*parts)[:16]}"
