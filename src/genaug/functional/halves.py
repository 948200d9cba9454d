"""Two images in one, half of each."""

from __future__ import annotations

from typing import Literal

import numpy as np

#: The half that the first image keeps.
Half = Literal["left", "right", "top", "bottom"]


def half_weights(height: int, width: int, half: Half, seam: float = 0.0) -> np.ndarray:
    """Share of the second image in each pixel, ``(height, width)`` float32, where the first one keeps ``half``.

    Args:
        height: In pixels.
        width: In pixels.
        half: Which half is the first image's, without the middle row or column of an odd number.
        seam: Width of the strip in the middle in which the one goes over into the other, as a share of the side that
            is divided. The weights rise from 0 to 1 over its pixels, both included; 0 is a hard edge.

    Raises:
        ValueError: there is no such half, or ``seam`` lies outside [0, 1].

    Example:
        >>> half_weights(1, 6, "left")[0].tolist(), half_weights(1, 6, "right")[0].tolist()
        ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
        >>> half_weights(8, 1, "top", seam=0.625)[:, 0].tolist()
        [0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """
    if half not in ("left", "right", "top", "bottom"):
        raise ValueError(f"an image has a left, right, top and bottom half, not {half!r}")
    if not 0 <= seam <= 1:
        raise ValueError(f"seam={seam} is no share of a side: give a number in [0, 1]")
    across = half in ("left", "right")
    length = width if across else height
    strip = round(seam * length)
    before = length // 2 - strip // 2
    row = np.concatenate([np.zeros(before), np.linspace(0, 1, strip), np.ones(length - before - strip)])
    row = row[::-1] if half in ("right", "bottom") else row
    weights = np.broadcast_to(row if across else row[:, None], (height, width))
    return weights.astype(np.float32)


def blend(first: np.ndarray, second: np.ndarray, weight: np.ndarray | float) -> np.ndarray:
    """``(1 - weight) * first + weight * second`` of images ``(H, W, 3)`` uint8, rounded to the nearest.

    Args:
        first: Counts where the weight is 0.
        second: Counts where it is 1.
        weight: ``(H, W)``, or one for all pixels.

    Example:
        >>> one, other = np.full((1, 2, 3), 100, np.uint8), np.full((1, 2, 3), 200, np.uint8)
        >>> blend(one, other, np.array([[0.0, 0.25]]))[0, :, 0].tolist(), int(blend(one, other, 0.2)[0, 0, 0])
        ([100, 125], 120)
    """
    share = np.asarray(weight, np.float32)
    share = share[..., None] if share.ndim else share
    return ((1 - share) * first + share * second).round().astype(np.uint8)
