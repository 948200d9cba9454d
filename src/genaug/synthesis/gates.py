"""What every made image must pass before it is kept."""

from __future__ import annotations

import cv2
import numpy as np

from genaug.functional.masks import iou, mask_box

#: Largest pixel value of an image that counts as black.
BLACK = 8
#: Spread of pixel values (their standard deviation in every channel) below which an image counts as one colour.
CONSTANT = 1.0
#: Alpha from which on a pixel belongs to the object of a transparent image.
OPAQUE = 128
#: Share of what surrounds the source's object that a result may cover: above it the background has come back.
COVERED = 0.5
#: Share of the image that must lie around the source's object for that to be told.
SURROUNDINGS = 0.05
#: Pixels of a side of the squares whose mean colours are compared; one pixel of Stable Diffusion's latents has as many.
CELL = 8


def verdict(image: np.ndarray | None, size: tuple[int, int] | None = None) -> str:
    """Whether an image can be used: "ok", or why it cannot.

    Args:
        image: ``(H, W, 3)`` uint8, or ``(H, W, 4)``, of which the colours that can be seen count; None where the
            generator gave NaN or infinity.
        size: Height and width it was asked for, where that is known.

    Raises:
        TypeError: it is no image at all: the renderer is wrong, and no other seed would help.

    Example:
        >>> verdict(None), verdict(np.zeros((4, 4, 3), np.uint8)), verdict(np.full((4, 4, 3), 90, np.uint8))
        ('not finite', 'black', 'constant')
        >>> verdict(np.zeros((4, 4, 4), np.uint8))
        'transparent'
    """
    if image is None:
        return "not finite"
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise TypeError(f"a renderer must give images (H, W, 3) or (H, W, 4) of uint8, got {image.dtype} {image.shape}")
    if size is not None and image.shape[:2] != tuple(size):
        return f"size {image.shape[1]}x{image.shape[0]}"
    colours = image[..., :3].reshape(-1, 3) if image.shape[2] == 3 else image[image[..., 3] >= OPAQUE, :3]
    if not len(colours):
        return "transparent"
    if colours.max() <= BLACK:
        return "black"
    if colours.std(axis=0).max() < CONSTANT:
        return "constant"
    return "ok"


def object_verdict(
    source: np.ndarray, made: np.ndarray, min_iou: float, area: tuple[float, float], min_change: float
) -> str:
    """Whether an edited object can stand for its source: "ok", or why it cannot.

    Args:
        source: ``(H, W, 4)`` uint8 RGBA, with the object.
        made: Of the same size.
        min_iou: Smallest overlap of the objects.
        area: Smallest and largest area of the made object, as a share of the source's.
        min_change: Smallest :func:`colour_change`.
    """
    before, after = source[..., 3] >= OPAQUE, made[..., 3] >= OPAQUE
    around = np.ones_like(before)
    if (box := mask_box(before)) is not None:
        x, y, width, height = box
        around[y : y + height, x : x + width] = False
    if around.mean() >= SURROUNDINGS and after[around].mean() > COVERED:
        return "all opaque"
    share = int(np.count_nonzero(after)) / max(1, int(np.count_nonzero(before)))
    if not area[0] <= share <= area[1]:
        return "alpha coverage"
    if iou(before, after) < min_iou:
        return "IoU with the source mask"
    if colour_change(source, made) < min_change:
        return "unchanged"
    return "ok"


def colour_change(source: np.ndarray, made: np.ndarray) -> float:
    """How much the colours of an object have changed, in [0, 1] of their range.

    Mean absolute difference of the mean colours of squares of :data:`CELL` pixels, inside both objects. An autoencoder
    alone changes details and leaves these means: that of the tiny generator moved the means of 40 toybirds by 0.003 to
    0.007 and single pixels by 0.011 to 0.021; edits moved the means by 0.013 to 0.031 at a strength of 0.1, by 0.03 to
    0.07 at 0.4.

    Args:
        source: ``(H, W, 4)`` uint8 RGBA.
        made: Of the same size.

    Returns:
        The difference; 1 where the objects share no pixel.

    Example:
        >>> grey = np.full((16, 16, 4), 255, np.uint8)
        >>> grey[..., :3] = 100
        >>> brighter = grey + np.array([51, 51, 51, 0], np.uint8)
        >>> colour_change(grey, grey), round(colour_change(grey, brighter), 6)
        (0.0, 0.2)
    """
    both = ((source[..., 3] >= OPAQUE) & (made[..., 3] >= OPAQUE)).astype(np.float32)
    if not both.any():
        return 1.0
    cells = max(1, round(both.shape[1] / CELL)), max(1, round(both.shape[0] / CELL))
    difference = (made[..., :3].astype(np.float32) - source[..., :3]) * both[..., None]
    sums = cv2.resize(difference, cells, interpolation=cv2.INTER_AREA)
    weights = cv2.resize(both, cells, interpolation=cv2.INTER_AREA)
    return float(np.abs(sums).sum() / (weights.sum() * 3 * 255))
