"""Whether the object is still where it was: its mask before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from genaug.filtering.base import Candidate, Circumstances, Filter, Judgement, as_sample
from genaug.functional.masks import iou
from genaug.segmentation.annotated import Annotated
from genaug.segmentation.base import Segmenter
from genaug.segmentation.masks import make_masks


class MaskIou(Filter):
    """Keeps images whose object covers what the object of their source covers.

    For methods that leave the object in its place. The score is the intersection over union of both masks; it is None,
    and the image kept, where the source has none.

    Args:
        segmenter: Finds the object in both images.
        min_iou: What the score must reach.
        workers: Threads that segment.

    Raises:
        ValueError: ``min_iou`` is out of range, or the segmenter needs ground truth, which made images do not have.
    """

    name = "mask_iou"

    def __init__(self, segmenter: Segmenter, min_iou: float = 0.5, workers: int = 2) -> None:
        if not 0 < min_iou <= 1:
            raise ValueError(f"mask_iou.min_iou={min_iou} must be in (0, 1].")
        if isinstance(segmenter, Annotated):
            raise ValueError(
                "mask_iou looks for the object in made images, which have no ground-truth masks as segmenter=annotated "
                "needs: choose segmenter=grabcut, u2net or grounded_sam."
            )
        self.segmenter, self.min_iou, self.workers = segmenter, float(min_iou), workers

    @property
    def settings(self) -> Mapping[str, Any]:
        """See :attr:`Filter.settings`."""
        return {"segmenter": self.segmenter.fingerprint, "min_iou": self.min_iou}

    def judge(self, candidates: Sequence[Candidate], about: Circumstances) -> list[Judgement]:
        """See :meth:`Filter.judge`; masks are kept by content beside those of real images.

        Raises:
            ValueError: an image was not made from a real one.
        """
        real = {sample.id: sample for sample in about.samples}
        if lost := [one for one in candidates if not one.sources or one.sources[0] not in real]:
            raise ValueError(
                f"mask_iou compares an image with its source, and {len(lost)} of {len(candidates)} have none among the "
                "training images: take this filter out of the method's filters."
            )
        made = [as_sample(one) for one in candidates]
        sources = list({one.sources[0]: real[one.sources[0]] for one in candidates}.values())
        masks = make_masks(
            [*sources, *made], self.segmenter, about.dataset, about.folder / "masks", self.workers, about.device
        )
        return [self._judged(masks[one.sources[0]], masks[one.key]) for one in candidates]

    def _judged(self, before: np.ndarray, after: np.ndarray) -> Judgement:
        if not before.any():
            return Judgement(True)
        if not after.any():
            return Judgement(False, 0.0, "no object found")
        if before.shape != after.shape:
            before = cv2.resize(before.astype(np.uint8), after.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
        score = iou(before, after)
        return Judgement(True, score) if score >= self.min_iou else Judgement(False, score, "the object is elsewhere")
