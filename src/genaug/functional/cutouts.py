"""Objects with an alpha channel: squares cut from photographs, scaled so that no other colour gets into their edges."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from genaug.functional.pushpull import fill_holes

#: ``(x, y, width, height)`` in whole pixels.
PixelBox = tuple[int, int, int, int]

#: Alpha this near to nothing or to all of 255 is the autoencoder's rounding, and becomes 0 or 255.
ROUNDING = 8


@dataclass(frozen=True, slots=True)
class Square:
    """The square of a photograph that is edited, in its pixels; it may begin and end outside.

    Attributes:
        left: Column of its first pixel.
        top: Row of its first pixel.
        side: Pixels of a side.
    """

    left: int
    top: int
    side: int

    @classmethod
    def around(cls, box: PixelBox, padding: float) -> Square:
        """The square around a box, with ``padding`` of the box's long side on each side of that.

        >>> Square.around((10, 20, 40, 20), 0.1)
        Square(left=6, top=6, side=48)
        """
        x, y, width, height = box
        side = max(width, height) + 2 * round(padding * max(width, height))
        return cls(x + (width - side) // 2, y + (height - side) // 2, side)

    @classmethod
    def of(cls, size: tuple[int, int]) -> Square:
        """The square around a photograph of a height and width.

        >>> Square.of((40, 100))
        Square(left=0, top=-30, side=100)
        """
        side = max(size)
        return cls((size[1] - side) // 2, (size[0] - side) // 2, side)

    def cut(self, image: np.ndarray, weight: np.ndarray, pixels: int) -> np.ndarray:
        """What the square shows, scaled to ``pixels``.

        Args:
            image: ``(H, W, 3)`` uint8, the photograph.
            weight: ``(H, W)`` in [0, 1] or bool: becomes the alpha channel; outside the photograph that is 0.
            pixels: Side of the answer.

        Returns:
            ``(pixels, pixels, 4)`` uint8 RGBA. No colour is mixed with one of weight 0, and where alpha is 0 the others
            go on.
        """
        layer = np.zeros((self.side, self.side, 4), np.float32)
        left, top = max(self.left, 0), max(self.top, 0)
        right, bottom = min(self.left + self.side, image.shape[1]), min(self.top + self.side, image.shape[0])
        inside = weight[top:bottom, left:right, None].astype(np.float32)
        there = layer[top - self.top : bottom - self.top, left - self.left : right - self.left]
        there[..., :3], there[..., 3:] = image[top:bottom, left:right] * inside, inside
        return _scaled(layer, pixels)


def _scaled(layer: np.ndarray, pixels: int) -> np.ndarray:
    """RGBA ``(pixels, pixels, 4)`` uint8 of a square float32 layer, its colours multiplied by its alpha in [0, 1]."""
    if pixels != layer.shape[0]:
        method = cv2.INTER_AREA if pixels < layer.shape[0] else cv2.INTER_LINEAR
        layer = cv2.resize(layer, (pixels, pixels), interpolation=method)
    colours, alpha = layer[..., :3], layer[..., 3:]
    straight = np.divide(colours, alpha, out=np.zeros_like(colours), where=alpha > 0)
    rgba = np.rint(np.dstack([straight, alpha * 255])).clip(0, 255).astype(np.uint8)
    return filled(rgba)


def filled(rgba: np.ndarray) -> np.ndarray:
    """``(H, W, 4)`` uint8 with the object's colours going on where alpha is 0; without an object as it is."""
    known = rgba[..., 3] > 0
    if known.any() and not known.all():
        rgba = np.dstack([fill_holes(np.ascontiguousarray(rgba[..., :3]), known), rgba[..., 3]])
    return rgba


def shrunk(rgba: np.ndarray, pixels: int) -> np.ndarray:
    """A square RGBA image at ``pixels``, its colours weighted by its alpha."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return _scaled(np.dstack([rgba[..., :3] * alpha, alpha]), pixels)


def without_rounding(rgba: np.ndarray) -> np.ndarray:
    """A decoded RGBA image whose nearly transparent and nearly opaque pixels are fully so."""
    alpha = rgba[..., 3]
    clean = np.where(alpha <= ROUNDING, 0, np.where(alpha >= 255 - ROUNDING, 255, alpha))
    return np.dstack([rgba[..., :3], clean.astype(np.uint8)])


def on_white(rgba: np.ndarray) -> np.ndarray:
    """``(H, W, 3)`` uint8 of an RGBA image, as a viewer shows it."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
