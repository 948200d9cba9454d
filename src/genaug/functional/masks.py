"""Arithmetic of boolean masks ``(H, W)`` and of boxes ``(x, y, width, height)`` in pixels."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def box_slices(box: Sequence[float], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the pixels that ``box`` touches, as far as they lie in an image of ``shape`` (H, W).

    A box may have fractions of pixels: a pixel counts when any part of it is covered. A box outside the image gives
    empty slices.

    >>> box_slices((1.5, -2, 2, 4), (10, 10))
    (slice(0, 2, None), slice(1, 4, None))
    """
    x, y, width, height = box
    if width <= 0 or height <= 0:
        raise ValueError(f"a box is (x, y, width, height) with positive width and height, got {tuple(box)}")

    def touched(start: float, length: float, size: int) -> slice:
        first = min(max(int(np.floor(start)), 0), size)
        return slice(first, max(first, min(int(np.ceil(start + length)), size)))

    return touched(y, height, shape[0]), touched(x, width, shape[1])


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Smallest box ``(x, y, width, height)`` around the mask; None when it is empty.

    >>> mask_box(np.array([[False, False, False], [False, True, True]]))
    (1, 1, 2, 1)
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def keep_inside(mask: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The part of the mask inside ``box``, of the mask's shape; see :func:`box_slices` for fractions of pixels.

    >>> keep_inside(np.ones((2, 3), bool), (1, 0, 1, 2)).astype(int).tolist()
    [[0, 1, 0], [0, 1, 0]]
    """
    inside = np.zeros_like(mask)
    where = box_slices(box, (mask.shape[0], mask.shape[1]))
    inside[where] = mask[where]
    return inside


def dilate(mask: np.ndarray, pixels: float) -> np.ndarray:
    """The mask grown by every pixel whose centre is at most ``pixels`` from the centre of one of its own.

    >>> dilate(np.array([[True, False, False, False]]), 2).astype(int).tolist()
    [[1, 1, 1, 0]]
    """
    if pixels < 0:
        raise ValueError(f"pixels must not be negative, got {pixels}")
    if not mask.any():  # the distance to nothing is a number that OpenCV does not promise
        return mask.copy()
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance <= pixels + 1e-4


def shrunk_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask at another height and width; a pixel with any of the object in it is the object's.

    >>> shrunk_mask(np.array([[True, False, False, False]] * 2), (1, 2)).astype(int).tolist()
    [[1, 0]]
    """
    return cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) > 0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union in [0, 1]; two empty masks agree, so they give 1.

    >>> iou(np.array([True, True, False]), np.array([False, True, True]))
    0.3333333333333333
    """
    if a.shape != b.shape:
        raise ValueError(f"masks of one size are needed, got {a.shape} and {b.shape}")
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 1.0


def coverage(mask: np.ndarray) -> float:
    """Share of the image that the mask covers, in [0, 1].

    >>> coverage(np.array([[True, False], [False, False]]))
    0.25
    """
    return int(np.count_nonzero(mask)) / mask.size
