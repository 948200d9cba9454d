"""What can be said of a made image beside its source, and of many made images of a class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from genaug.functional.composite import resize
from genaug.functional.masks import iou


def psnr(source: np.ndarray, result: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB: infinite for the same image, lower the more differs.

    What De-DA compares methods by in its Figure 5b, without more of a definition: here over all pixels and channels,
    the source resized to the result's size.

    Args:
        source: ``(H, W, 3)`` uint8.
        result: ``(h, w, 3)`` uint8.

    Example:
        >>> grey = np.full((4, 4, 3), 100, np.uint8)
        >>> psnr(grey, grey), round(psnr(grey, grey + 51), 3)  # 20 log10(255 / 51)
        (inf, 13.979)
    """
    same_size = resize(source, result.shape[1], result.shape[0])
    before, after = (torch.from_numpy(image.astype(np.float64)) for image in (same_size, result))
    return float(peak_signal_noise_ratio(after, before, data_range=255.0))


def mask_iou(source: np.ndarray, result: np.ndarray) -> float | None:
    """Overlap of the subject before and after, in [0, 1]; None where there was none to begin with.

    Args:
        source: ``(H, W)`` bool.
        result: ``(h, w)`` bool; resized to the source's size.

    Example:
        >>> left, all_of_it = np.array([[True, False]]), np.ones((2, 4), bool)
        >>> mask_iou(left, all_of_it), mask_iou(np.zeros((1, 2), bool), left)
        (0.5, None)
    """
    return iou(source, _resized(result, source.shape)) if source.any() else None


def background_change(
    source: np.ndarray, result: np.ndarray, source_mask: np.ndarray, result_mask: np.ndarray
) -> float | None:
    """Mean absolute change of colour where neither image shows the subject, in [0, 1]; None where that is nowhere.

    Args:
        source: ``(H, W, 3)`` uint8, resized to the result's size.
        result: ``(h, w, 3)`` uint8.
        source_mask: ``(H, W)`` bool.
        result_mask: ``(h, w)`` bool.

    Example:
        >>> black, white = np.zeros((1, 2, 3), np.uint8), np.full((1, 2, 3), 255, np.uint8)
        >>> subject = np.array([[True, False]])
        >>> background_change(black, white, subject, subject), background_change(black, white, subject, ~subject)
        (1.0, None)
    """
    same_size = resize(source, result.shape[1], result.shape[0])
    outside = ~(_resized(source_mask, result_mask.shape) | result_mask)
    if not outside.any():
        return None
    return float(np.abs(result[outside].astype(float) - same_size[outside]).mean() / 255)


def _resized(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if mask.shape == shape:
        return mask
    return cv2.resize(mask.astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST) > 0


def spread(features: Tensor) -> float:
    """Mean cosine distance, in [0, 2], between two of the rows: 0 where all are alike.

    Args:
        features: ``(N, D)``, rows of length 1, at least two.

    Example:
        >>> round(spread(torch.eye(3)), 6), spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        (1.0, 2.0)
    """
    n = len(features)
    total = features.double().sum(dim=0)
    return float(1 - (total @ total - n) / (n * (n - 1)))


def spread_within(features: Tensor, labels: Sequence[Sequence[int]]) -> tuple[float | None, int]:
    """Mean over classes of the :func:`spread` within the class, and how many classes have the two images it takes.

    Args:
        features: ``(N, D)``, rows of length 1.
        labels: For each row the classes that it belongs to.

    Example:
        >>> spread_within(torch.eye(3), [[0], [0], [1]])
        (1.0, 1)
    """
    rows: dict[int, list[int]] = defaultdict(list)
    for row, classes in enumerate(labels):
        for label in classes:
            rows[label].append(row)
    found = [spread(features[which]) for which in rows.values() if len(which) > 1]
    return (float(np.mean(found)) if found else None), len(found)
