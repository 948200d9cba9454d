"""The dataset's own masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from genaug.data.base import Sample
from genaug.data.reading import read_mask
from genaug.segmentation.base import Segmentation, Segmenter


class Annotated(Segmenter):
    """Takes the ground-truth mask that comes with each image."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def can_segment(self, sample: Sample) -> bool:
        """Whether there is a mask: datasets may have masks for some of their images only."""
        return sample.mask is not None

    def segment(self, image: np.ndarray, sample: Sample, prompt: str) -> Segmentation:
        """See :meth:`Segmenter.segment`.

        Raises:
            ValueError: the sample has no mask, or one of another size than the image.
        """
        if sample.mask is None:
            raise ValueError(
                f"{sample.id} has no ground-truth mask, which segmenter=annotated needs; "
                "segmenter=u2net and segmenter=grabcut need no annotation."
            )
        mask = read_mask(sample.mask, sample.mask_values)
        if mask.shape != image.shape[:2]:
            raise ValueError(
                f"the mask of {sample.id} is {mask.shape[1]}x{mask.shape[0]} pixels, its image "
                f"{image.shape[1]}x{image.shape[0]}: a mask must have its image's size ({sample.mask})."
            )
        return Segmentation(mask, score=None, note="annotated")
