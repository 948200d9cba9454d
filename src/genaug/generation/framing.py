"""Images of any size for a model that takes only some: scaled alike in both directions, then padded."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from PIL import Image


@dataclass(frozen=True, slots=True)
class Frame:
    """How images of one size are shown to a model, and how its answers come back to that size.

    The image is scaled to ``content`` without changing its aspect, which moves no pixel where the model takes about
    that size anyway; what is missing to ``size`` is filled at the lower and right side with the image's reflection, and
    cut off again from the answer.

    Attributes:
        source: Height and width of the image.
        content: Height and width it is scaled to.
        size: Height and width the model sees.
    """

    source: tuple[int, int]
    content: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def of(cls, height: int, width: int, step: int, side: int | None = None) -> Frame:
        """The frame of an image of ``height`` x ``width``.

        Args:
            height: In pixels.
            width: In pixels.
            step: What both sides of the model's images are multiples of.
            side: Side of a square of as many pixels as the model is to see; None leaves the image at its own size.

        >>> Frame.of(100, 70, step=8).size
        (104, 72)
        >>> Frame.of(375, 500, step=8, side=512)
        Frame(source=(375, 500), content=(443, 591), size=(448, 592))
        """
        scale = 1.0 if side is None else side / sqrt(height * width)
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        return cls((height, width), (rows, columns), (-(-rows // step) * step, -(-columns // step) * step))

    def _pad(self, image: np.ndarray) -> np.ndarray:
        below, right = (size - content for size, content in zip(self.size, self.content, strict=True))
        return np.pad(image, ((0, below), (0, right)) + ((0, 0),) * (image.ndim - 2), mode="reflect")

    def show(self, image: np.ndarray) -> np.ndarray:
        """``(H, W, 3)`` uint8 of the frame's size for an image of the source's."""
        return self._pad(resize(image, self.content))

    def show_mask(self, mask: np.ndarray) -> np.ndarray:
        """``(H, W)`` bool of the frame's size for a mask of the source's; a pixel that it touches belongs to it."""
        scaled = Image.fromarray(mask.astype(np.uint8) * 255).resize(self.content[::-1], Image.Resampling.BOX)
        return self._pad(np.asarray(scaled) > 0)

    def back(self, image: np.ndarray) -> np.ndarray:
        """``(H, W, 3)`` uint8 of the source's size for an answer of the frame's."""
        return resize(image[: self.content[0], : self.content[1]], self.source)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``(H, W, 3)`` uint8 scaled to a height and width; the image itself where it has them."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS))
