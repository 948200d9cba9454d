"""Hole filling with an alpha pyramid (push-pull): the smooth colour around a hole flows into it."""

from __future__ import annotations

import cv2
import numpy as np


def _downsample(layer: np.ndarray, factor: float) -> np.ndarray:
    """The next coarser layer; rounding down makes every step smaller, so the pyramid ends."""
    height, width = layer.shape[:2]
    return cv2.resize(layer, (max(1, int(width / factor)), max(1, int(height / factor))), interpolation=cv2.INTER_AREA)


def _upsample(colours: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(colours, (width, height), interpolation=cv2.INTER_LINEAR)


def _check(image: np.ndarray, known: np.ndarray, factor: float) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 of shape (H, W, 3), got {image.dtype} of shape {image.shape}")
    if known.shape != image.shape[:2]:
        raise ValueError(f"known has shape {known.shape}, the image needs {image.shape[:2]}")
    if not factor > 1:
        raise ValueError(f"factor must be greater than 1, got {factor}")
    lowest, highest = known.min(), known.max()
    if not (lowest >= 0 and highest <= 1):
        raise ValueError(f"known must lie in [0, 1], got [{lowest}, {highest}]")
    if highest == 0:
        raise ValueError(
            "every pixel is a hole, so there is no colour to fill it with: skip this image or take another"
        )


def fill_holes(image: np.ndarray, known: np.ndarray, factor: float = 1.2) -> np.ndarray:
    """Replace the unknown part of ``image`` by a smooth continuation of the known part.

    Premultiplied colour and alpha are averaged down, layer by layer, until the smaller side is one pixel; on the way
    up each layer covers what the coarser ones say, as far as its alpha goes (the padding that LayerDiffuse applies to
    transparent images, arXiv:2402.17113). The fill has colour but no texture.

    Args:
        image: ``(H, W, 3)`` uint8. What lies under the holes does not matter.
        known: ``(H, W)`` bool, or float in [0, 1]: 1 keeps a pixel bit by bit, 0 is a hole.
        factor: Ratio of the sides of two neighbouring layers; nearer to 1 is smoother and slower.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: shapes or ranges are wrong, or nothing is known.

    Example:
        >>> image = np.zeros((2, 3, 3), np.uint8)
        >>> image[0, 0] = 10, 20, 30
        >>> known = np.zeros((2, 3), bool)
        >>> known[0, 0] = True
        >>> fill_holes(image, known)[1, 2].tolist()
        [10, 20, 30]
    """
    _check(image, known, factor)
    alpha = known.astype(np.float32)
    layers = [np.dstack([image * alpha[..., None], alpha])]
    while min(layers[-1].shape[:2]) > 1:
        layers.append(_downsample(layers[-1], factor))
    top = layers[-1].reshape(-1, 4).sum(axis=0, dtype=np.float64)
    filled = np.full((1, 1, 3), top[:3] / top[3], np.float32)
    for layer in reversed(layers):
        filled = _upsample(filled, *layer.shape[:2])
        filled *= 1 - layer[..., 3:]
        filled += layer[..., :3]
    return np.rint(filled).clip(0, 255).astype(np.uint8)
