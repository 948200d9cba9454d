"""An object pasted at a random place, as large as it fits or of a random size (Beyond Generation, Ge et al. 2023)."""

from __future__ import annotations

import cv2
import numpy as np

from genaug.functional.composite import cut_out, paste, resize, rotate
from genaug.functional.masks import mask_box

#: ``(x, y, radius)`` in pixels.
Circle = tuple[float, float, float]


def lifted(image: np.ndarray, mask: np.ndarray, degrees: float) -> np.ndarray:
    """The object under ``mask``, rotated counter-clockwise, as RGBA ``(h, w, 4)`` without empty borders.

    Args:
        image: ``(H, W, 3)`` uint8.
        mask: ``(H, W)`` bool, not empty.
        degrees: Of the rotation.

    Raises:
        ValueError: the mask is empty.
    """
    box = mask_box(mask)
    if box is None:
        raise ValueError("an empty mask has no object to cut out")
    turned = rotate(cut_out(image, mask, box), degrees)
    left, top, width, height = mask_box(turned[..., 3] > 0) or (0, 0, turned.shape[1], turned.shape[0])
    return np.ascontiguousarray(turned[top : top + height, left : left + width])


def enclosing_circle(cutout: np.ndarray) -> Circle:
    """The smallest circle around what is not transparent of an RGBA cut-out.

    >>> square = np.full((3, 3, 4), 255, np.uint8)
    >>> [round(value, 2) for value in enclosing_circle(square)]  # through the outer corners of its pixels
    [1.5, 1.5, 2.12]
    """
    rows, columns = np.nonzero(cutout[..., 3])
    corners = [np.stack([columns + right, rows + down], axis=1) for right in (0, 1) for down in (0, 1)]
    (x, y), radius = cv2.minEnclosingCircle(np.concatenate(corners).astype(np.float32))
    return x, y, radius


def random_circle(height: int, width: int, size: tuple[float, float], rng: np.random.Generator) -> Circle:
    """A circle of random size anywhere in a picture, all of it inside.

    Args:
        height: Of the picture.
        width: Of the picture.
        size: Smallest and largest diameter, as shares of the picture's short side.
        rng: Chooses.
    """
    radius = rng.uniform(*size) * min(height, width) / 2
    return rng.uniform(radius, width - radius), rng.uniform(radius, height - radius), radius


def largest_circle(height: int, width: int, smallest: float, rng: np.random.Generator) -> Circle:
    """The largest circle around a random place of a picture that lies inside it.

    Args:
        height: Of the picture.
        width: Of the picture.
        smallest: Diameter that must fit, as a share of the short side.
        rng: Chooses the place.
    """
    x, y, _ = random_circle(height, width, (smallest, smallest), rng)
    return x, y, min(x, width - x, y, height - y)


def paste_in_circle(scene: np.ndarray, cutout: np.ndarray, circle: Circle, sigma: float) -> np.ndarray:
    """Scale a cut-out so that the circle around it becomes ``circle``, and blend it into a copy of the scene.

    Args:
        scene: ``(H, W, 3)`` uint8.
        cutout: ``(h, w, 4)`` uint8, see :func:`lifted`.
        circle: Where to, inside the scene.
        sigma: Of the Gaussian, in pixels, that the opacity is blurred with; 0 leaves a hard edge.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    x, y, radius = enclosing_circle(cutout)
    scale = circle[2] / radius
    height, width = scene.shape[:2]
    # The object lies in its circle and that in the scene: what could stick out is the rounding to whole pixels.
    small = resize(
        cutout,
        min(width, max(1, round(cutout.shape[1] * scale))),
        min(height, max(1, round(cutout.shape[0] * scale))),
    )
    if sigma > 0:
        side = 2 * max(1, round(sigma)) + 1  # the published 5 pixels for a sigma of 2
        alpha = cv2.GaussianBlur(
            np.ascontiguousarray(small[..., 3]), (side, side), sigma, borderType=cv2.BORDER_CONSTANT
        )
        small = np.dstack([small[..., :3], alpha])
    left = int(np.clip(round(circle[0] - x * scale), 0, width - small.shape[1]))
    top = int(np.clip(round(circle[1] - y * scale), 0, height - small.shape[0]))
    canvas = scene.copy()
    paste(canvas, small, left, top)
    return canvas
