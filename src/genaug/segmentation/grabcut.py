"""GrabCut: colour models and graph cuts, no weights (Rother, Kolmogorov and Blake 2004)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from genaug.data.base import Box, Sample
from genaug.functional.masks import box_slices, coverage
from genaug.segmentation.base import Segmentation, Segmenter

#: A smaller share of an annotated box is a speck, not the object.
LEAST_OF_BOX = 0.02


def centred_box(shape: tuple[int, int], margin: float) -> Box:
    """The box that leaves ``margin`` (a share of the side) free on each side of an image of ``shape`` (H, W)."""
    height, width = shape
    return margin * width, margin * height, (1 - 2 * margin) * width, (1 - 2 * margin) * height


def box_ellipse(shape: tuple[int, int], box: Box) -> np.ndarray:
    """Mask ``(H, W)`` of the ellipse that touches the sides of the pixels under ``box``."""
    mask = np.zeros(shape, bool)
    rows, columns = box_slices(box, shape)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    y = (np.arange(height) + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    mask[rows, columns] = y[:, None] ** 2 + x**2 <= 1
    return mask


class GrabCut(Segmenter):
    """Separates the colours inside a rectangle from those around it.

    The rectangle is the sample's box; without one, or where the box is the whole image and so leaves no background
    to learn from, it is a centred guess. Where GrabCut finds nothing in the rectangle, the ellipse inside it stands in
    (note "fallback").

    Args:
        iterations: Rounds of colour models and cut.
        margin: Share of each side that the centred guess leaves free.
        max_side: The image is worked on at no more than this many pixels a side; the mask is scaled back.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, iterations: int = 5, margin: float = 0.05, max_side: int = 320) -> None:
        if iterations < 1 or max_side < 16:
            raise ValueError(f"iterations >= 1 and max_side >= 16 are needed, got {iterations} and {max_side}")
        if not 0 < margin < 0.5:
            raise ValueError(f"margin must lie between 0 and 0.5, got {margin}")
        self.iterations, self.margin, self.max_side = iterations, margin, max_side

    @property
    def settings(self) -> Mapping[str, Any]:
        """All arguments."""
        return {"iterations": self.iterations, "margin": self.margin, "max_side": self.max_side}

    def segment(self, image: np.ndarray, sample: Sample, prompt: str) -> Segmentation:
        """See :meth:`Segmenter.segment`; the note is "box", "centre" or "fallback".

        Raises:
            ValueError: the box lies outside the image.
        """
        shape = (image.shape[0], image.shape[1])
        box, note = sample.box, "box"
        if box is not None:
            rows, columns = box_slices(box, shape)
            if rows.start == rows.stop or columns.start == columns.stop:
                raise ValueError(f"the box {box} of {sample.id} lies outside its {shape[1]}x{shape[0]} image.")
        if box is None or (rows, columns) == (slice(0, shape[0]), slice(0, shape[1])):
            box, note = centred_box(shape, self.margin), "centre"
        mask = self._cut(image, box)
        share = coverage(mask[box_slices(box, shape)])
        # An object fills a good part of its box, perhaps all of it. Of a guessed rectangle it may be a small part; if
        # that comes back whole, nothing was separated.
        failed = share < LEAST_OF_BOX if note == "box" else share in (0, 1)
        if failed:
            return Segmentation(box_ellipse(shape, box), score=None, note="fallback")
        return Segmentation(mask, score=None, note=note)

    def _cut(self, image: np.ndarray, box: Box) -> np.ndarray:
        """GrabCut's mask ``(H, W)``; empty where OpenCV finds too few pixels for its colour models."""
        height, width = image.shape[:2]
        scale = min(1.0, self.max_side / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        fx, fy = size[0] / width, size[1] / height
        rows, columns = box_slices((box[0] * fx, box[1] * fy, box[2] * fx, box[3] * fy), (size[1], size[0]))
        rectangle = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        labels = np.zeros(small.shape[:2], np.uint8)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        # grabCut seeds its clusters from OpenCV's generator, which each thread has its own of.
        cv2.setRNGSeed(0)
        try:
            cv2.grabCut(small, labels, rectangle, *models, self.iterations, cv2.GC_INIT_WITH_RECT)
        except cv2.error:
            return np.zeros((height, width), bool)
        found = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.float32)
        return cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
