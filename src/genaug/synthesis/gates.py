"""What every made image must pass before it is kept."""

from __future__ import annotations

import numpy as np

#: Largest pixel value of an image that counts as black.
BLACK = 8
#: Spread of pixel values (their standard deviation in every channel) below which an image counts as one colour.
CONSTANT = 1.0


def verdict(image: np.ndarray | None, size: tuple[int, int] | None = None) -> str:
    """Whether an image can be used: "ok", or why it cannot.

    Args:
        image: ``(H, W, 3)`` uint8; None where the generator gave NaN or infinity.
        size: Height and width it was asked for, where that is known.

    Raises:
        TypeError: it is no image at all: the renderer is wrong, and no other seed would help.

    Example:
        >>> verdict(None), verdict(np.zeros((4, 4, 3), np.uint8)), verdict(np.full((4, 4, 3), 90, np.uint8))
        ('not finite', 'black', 'constant')
    """
    if image is None:
        return "not finite"
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise TypeError(f"a renderer must give images (H, W, 3) of uint8, got {image.dtype} {image.shape}")
    if size is not None and image.shape[:2] != tuple(size):
        return f"size {image.shape[1]}x{image.shape[0]}"
    if image.max() <= BLACK:
        return "black"
    if image.reshape(-1, 3).std(axis=0).max() < CONSTANT:
        return "constant"
    return "ok"
