"""A subject lifted out of its image, moved as a whole, and laid over another scene (AGA section 4.3)."""

from __future__ import annotations

import cv2
import numpy as np

from genaug.functional.composite import resize
from genaug.functional.masks import mask_box


def soft_alpha(mask: np.ndarray, softness: float) -> np.ndarray:
    """Opacity of a subject whose edge fades out over ``softness`` pixels, all of them inside the mask.

    Inside, because just outside the mask there is the scene that is to be replaced. A part that is too thin for it, a
    leg or a beak, fades towards its middle, which stays opaque.

    Args:
        mask: ``(H, W)`` bool.
        softness: Width of the fading edge in pixels; 0 gives a hard edge.

    Returns:
        ``(H, W)`` uint8, 0 outside the mask.

    Example:
        >>> soft_alpha(np.array([[False, True, True, True, False]]), 1).tolist()
        [[0, 128, 255, 128, 0]]
    """
    if mask.all():  # the distance to nothing is a number that OpenCV does not promise
        return np.full(mask.shape, 255, np.uint8)
    # The frame's border is no edge of the subject, which goes on outside: distances count to the background alone.
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    reach = int(np.ceil(softness))
    middle = cv2.dilate(inside, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
    width = np.clip(middle, 1, softness + 1)  # distance from the edge at which this part is opaque
    return np.rint(255 * np.clip(inside / width, 0, 1)).astype(np.uint8)


def subject_motion(mask: np.ndarray, flip: bool, degrees: float, zoom: float) -> np.ndarray:
    """Affine map of a subject: mirrored with its image, then rotated and scaled about its own centre.

    It stays in the frame where it fits. Where the frame cuts the subject off, the cut stays at or outside the frame;
    a subject that is cut on opposite sides is only mirrored, for there is nothing to show beyond.

    Args:
        mask: ``(H, W)`` bool, not empty.
        flip: Mirror left and right.
        degrees: Rotation, counter-clockwise.
        zoom: Scale, above 0.

    Returns:
        ``(2, 3)`` float64: from pixel (x, y, 1) of the image to pixel of the result.

    Raises:
        ValueError: the mask is empty.

    Example:
        >>> mask = np.zeros((9, 9), bool)
        >>> mask[3:6, 3:6] = True
        >>> subject_motion(mask, False, 0, 2).tolist()  # the centre (4, 4) stays
        [[2.0, 0.0, -4.0], [0.0, 2.0, -4.0]]
    """
    box = mask_box(mask)
    if box is None:
        raise ValueError("an empty mask has no subject to move")
    height, width = mask.shape
    mirror = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]]) if flip else np.eye(3)
    seen = mask[:, ::-1] if flip else mask
    cut = {
        (0, -1): np.flatnonzero(seen[:, 0]), (0, 1): np.flatnonzero(seen[:, -1]),
        (1, -1): np.flatnonzero(seen[0]), (1, 1): np.flatnonzero(seen[-1]),
    }  # fmt: skip
    if any(len(cut[axis, -1]) and len(cut[axis, 1]) for axis in (0, 1)):
        return mirror[:2]
    x = width - box[0] - box[2] if flip else box[0]
    centre = (x + (box[2] - 1) / 2, box[1] + (box[3] - 1) / 2)
    turned = cv2.getRotationMatrix2D(centre, degrees, zoom)
    contour = np.vstack([points[:, 0] for points in _contours(seen)])
    for axis, last in ((0, width - 1), (1, height - 1)):
        turned[axis, 2] += _shift(turned[axis], contour, cut, axis, last)
    return turned @ mirror


def _contours(mask: np.ndarray) -> list[np.ndarray]:
    return list(cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0])


def _shift(row: np.ndarray, contour: np.ndarray, cut: dict[tuple[int, int], np.ndarray], axis: int, last: int) -> float:
    """How far to move along ``axis`` so that a cut lies at the frame, or an uncut subject inside it."""
    places = contour @ row[:2] + row[2]
    for side, border in ((-1, 0), (1, last)):
        where = cut[axis, side]
        if len(where):
            edge = (
                np.stack([np.full(len(where), border), where], axis=1)[:, :: 1 if axis == 0 else -1] @ row[:2] + row[2]
            )
            return float(min(0.0, -edge.max()) if side < 0 else max(0.0, last - edge.min()))
    low, high = places.min(), places.max()
    if high - low > last:
        return float(last / 2 - (low + high) / 2)
    return float(max(0.0, -low) or min(0.0, last - high))


def cover(scene: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A part of ``scene`` as large as possible, at ``height`` x ``width``: the aspect is kept, the rest is cut off.

    Args:
        scene: ``(H, W, 3)`` uint8.
        height: Of the result, in pixels.
        width: Of the result.
        rng: Chooses which part.
    """
    scale = max(height / scene.shape[0], width / scene.shape[1])
    large = resize(scene, max(width, round(scene.shape[1] * scale)), max(height, round(scene.shape[0] * scale)))
    y, x = rng.integers(large.shape[0] - height + 1), rng.integers(large.shape[1] - width + 1)
    return large[y : y + height, x : x + width]


def lay_over(scene: np.ndarray, image: np.ndarray, alpha: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """The subject of ``image``, moved by ``motion``, on ``scene``.

    Args:
        scene: ``(H, W, 3)`` uint8.
        image: ``(H, W, 3)`` uint8: where ``alpha`` is 0 it is not seen.
        alpha: ``(H, W)`` uint8, see :func:`soft_alpha`.
        motion: ``(2, 3)``, see :func:`subject_motion`.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    size = (image.shape[1], image.shape[0])
    share = alpha[..., None].astype(np.float32) / 255
    # Colours weighted before they are interpolated: what is not the subject's does not mix into its rim.
    front = cv2.warpAffine(image * share, motion, size, flags=cv2.INTER_LINEAR)
    weight = cv2.warpAffine(share, motion, size, flags=cv2.INTER_LINEAR)[..., None]
    return np.rint(scene * (1 - weight) + front).astype(np.uint8)
