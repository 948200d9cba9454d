"""Cut an object out of an image and paste it onto another."""

from __future__ import annotations

import cv2
import numpy as np

from genaug.data.base import Box


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize ``(H, W, C)`` uint8: area averaging to shrink, bilinear to enlarge."""
    if image.shape[1] == width and image.shape[0] == height:
        return image
    shrinks = width * height < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_quickly(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize ``(H, W, C)`` uint8 bilinearly, by area averaging only to less than half: for the training loop.

    Averaging at a factor between one and two takes four times as long, for a difference that a crop hides.
    """
    shrinks = max(image.shape[1] / width, image.shape[0] / height) > 2
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def middle_square(image: np.ndarray, side: int) -> np.ndarray:
    """The middle square of ``(H, W, C)`` uint8, resized to ``side`` pixels: by area to shrink, bicubic to enlarge."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    square = image[top : top + shorter, left : left + shorter]
    if shorter == side:
        return square
    return cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA if shorter > side else cv2.INTER_CUBIC)


def paste(canvas: np.ndarray, cutout: np.ndarray, x: int, y: int) -> np.ndarray:
    """Blend an RGBA cut-out into ``canvas`` in place, its top left corner at ``(x, y)``; it must lie inside.

    Args:
        canvas: ``(H, W, 3)`` uint8, changed.
        cutout: ``(h, w, 4)`` uint8, colour not multiplied by alpha.
        x: Column of the cut-out's left edge.
        y: Row of its top edge.

    Returns:
        The cut-out's alpha, ``(h, w)`` uint8.

    Example:
        >>> canvas = np.zeros((2, 2, 3), np.uint8)
        >>> _ = paste(canvas, np.array([[[200, 100, 50, 255]]], np.uint8), 1, 0)
        >>> canvas[0].tolist()
        [[0, 0, 0], [200, 100, 50]]
    """
    height, width = cutout.shape[:2]
    colour, alpha = cv2.cvtColor(cutout, cv2.COLOR_RGBA2RGB), cv2.extractChannel(cutout, 3)
    region = canvas[y : y + height, x : x + width]
    # Nearly all pixels are opaque or empty: copying those and blending the rim alone takes a third of the time.
    rows, columns = np.divmod(np.flatnonzero((alpha - 1) < 254), width)  # 1..254; 0 - 1 is 255
    below = region[rows, columns].astype(np.float32)
    weight = alpha[rows, columns, None] / np.float32(255)
    cv2.copyTo(colour, alpha, region)
    region[rows, columns] = (below + weight * (colour[rows, columns] - below)).round().astype(np.uint8)
    return alpha


def visible_areas(
    first: np.ndarray, first_at: tuple[int, int], second: np.ndarray, second_at: tuple[int, int]
) -> tuple[float, float]:
    """Pixels of two pasted cut-outs that can be seen when the second lies over the first.

    Args:
        first: Alpha ``(h, w)`` uint8 of the lower cut-out.
        first_at: Its ``(x, y)``.
        second: Alpha of the upper one.
        second_at: Its ``(x, y)``.

    Returns:
        Both visible areas in pixels, soft edges counted by their alpha.

    Example:
        >>> opaque = np.full((2, 2), 255, np.uint8)
        >>> visible_areas(opaque, (0, 0), opaque, (1, 0))
        (2.0, 4.0)
    """
    left, top = np.maximum(first_at, second_at)
    right = min(first_at[0] + first.shape[1], second_at[0] + second.shape[1])
    bottom = min(first_at[1] + first.shape[0], second_at[1] + second.shape[0])
    hidden = 0.0
    if right > left and bottom > top:
        below = first[top - first_at[1] : bottom - first_at[1], left - first_at[0] : right - first_at[0]]
        above = second[top - second_at[1] : bottom - second_at[1], left - second_at[0] : right - second_at[0]]
        hidden = cv2.sumElems(cv2.multiply(below, above, scale=1 / 255))[0]
    return (cv2.sumElems(first)[0] - hidden) / 255, cv2.sumElems(second)[0] / 255


def cut_out(image: np.ndarray, mask: np.ndarray, box: Box) -> np.ndarray:
    """The object inside ``box`` as RGBA ``(h, w, 4)`` uint8; colours under alpha 0 are left as they are."""
    x, y, width, height = (int(value) for value in box)
    alpha = mask[y : y + height, x : x + width].astype(np.uint8) * 255
    return np.dstack([image[y : y + height, x : x + width], alpha])


def rotate(cutout: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate an RGBA cut-out about its centre, counter-clockwise, on a canvas that holds all of it."""
    height, width = cutout.shape[:2]
    # OpenCV counts from the centre of the first pixel, so the middle of n pixels is (n - 1) / 2.
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    new_width, new_height = round(height * sin + width * cos), round(height * cos + width * sin)
    matrix[:, 2] += (new_width - width) / 2, (new_height - height) / 2
    colour = cv2.warpAffine(cutout[..., :3], matrix, (new_width, new_height), borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(np.ascontiguousarray(cutout[..., 3]), matrix, (new_width, new_height))
    return np.dstack([colour, alpha])
