"""Images of which only some pixels are told, the rest filled in, and how much information they hold.

The first half of performance information curves (:mod:`genaug.metrics.information_curves`), as published with XRAI
(Kapishnikov et al. 2019, section 4.1; the reference program is PAIR's ``pic.py``). NumPy, SciPy and Pillow alone: it is
work for processes of their own, which need not wait for torch to be imported.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process

import numpy as np
from PIL import Image
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import minimum_filter
from scipy.spatial import Delaunay

#: Shares of the most salient pixels that are told, as in the reference program's documentation.
THRESHOLDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75)


def random_mask(height: int, width: int, seed: int, fraction: float = 0.01) -> np.ndarray:
    """The pixels that even the fully blurred image is told, ``(height, width)`` bool.

    Args:
        height: Of the image.
        width: Of the image.
        seed: Names the draw: the same image must get the same mask for every map and network it is judged with.
        fraction: Share of pixels, rounded down to a whole number of them.

    >>> int(random_mask(20, 30, seed=0).sum())
    6
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is a share of the pixels: expected a number in [0, 1], came {fraction}")
    mask = np.zeros(height * width, dtype=bool)
    mask[np.random.default_rng(seed).choice(mask.size, size=int(mask.size * fraction), replace=False)] = True
    return mask.reshape(height, width)


def entropy(image: np.ndarray) -> int:
    """Information in an image: the bytes of its lossless WebP file.

    The number depends on the version of libwebp (by up to 3 %); ``PIL.features.version("webp")`` tells it.

    Args:
        image: ``(H, W, 3)``, ``(H, W, 1)`` or ``(H, W)`` uint8.
    """
    buffer = io.BytesIO()
    grey = image.ndim == 3 and image.shape[2] == 1
    Image.fromarray(image[..., 0] if grey else image).save(buffer, format="webp", lossless=True, quality=100)
    return buffer.tell()


def reconstruct(image: np.ndarray, known: np.ndarray, exact: bool = True) -> np.ndarray:
    """Fill in the pixels that are not known, linearly over the Delaunay triangles of those that are.

    Args:
        image: ``(H, W, C)`` uint8.
        known: ``(H, W)`` bool; the four corners count as known.
        exact: True gives the bytes of the reference program. False leaves known pixels that are surrounded by known
            ones out of the triangulation: no triangle with an unknown pixel in it needs them, but where four pixels lie
            on one circle another diagonal may be chosen. On 16 photographs of 224 px 0.5 % of the unknown pixels
            changed, by 0.04 grey levels in the mean.

    Returns:
        ``(H, W, C)`` uint8.

    >>> line = np.arange(0, 50, 10, dtype=np.uint8)[None, :, None].repeat(5, axis=0)
    >>> reconstruct(line, np.zeros((5, 5), bool))[2, :, 0].tolist()
    [0, 10, 20, 30, 40]
    """
    height, width = known.shape
    known = known.copy()
    corners = ([0, 0, height - 1, height - 1], [0, width - 1, 0, width - 1])
    known[corners] = True
    if known.all():
        return image.copy()
    corner_stones = known
    if not exact:
        corner_stones = known & ~minimum_filter(known, size=3, mode="constant", cval=True)
        corner_stones[corners] = True
    triangles = Delaunay(np.argwhere(corner_stones).astype(np.float64))
    colours = LinearNDInterpolator(triangles, image[corner_stones].astype(np.float64))(np.argwhere(~known))
    outside = np.isnan(colours)  # never, with the corners known, but for what rounding does at an edge
    if outside.any():
        colours[outside] = np.broadcast_to(image.mean(axis=(0, 1)), colours.shape)[outside]
    # In single precision before rounding, as the reference does: many values lie in the middle between two integers.
    filled = image.astype(np.float32)
    filled[~known] = colours
    return np.round(filled).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Blurred:
    """What of an image does not depend on any map.

    Attributes:
        image: The image with the random mask alone, ``(H, W, C)`` uint8.
        entropy: Its bytes.
        original_entropy: Bytes of the image itself.
    """

    image: np.ndarray
    entropy: int
    original_entropy: int


@dataclass(frozen=True, slots=True)
class Revealed:
    """An image told bit by bit in the order of a map.

    T thresholds, with the fully blurred image before them and the original after.

    Attributes:
        images: ``(T + 2, H, W, C)`` uint8.
        entropies: ``(T + 2,)`` integers, bytes.
    """

    images: np.ndarray
    entropies: np.ndarray

    @property
    def blurred(self) -> Blurred:
        """What another map of the same image need not compute again."""
        return Blurred(self.images[0], int(self.entropies[0]), int(self.entropies[-1]))


def reveal(
    image: np.ndarray,
    saliency: np.ndarray,
    mask: np.ndarray,
    thresholds: Sequence[float] = THRESHOLDS,
    exact: bool = True,
    blurred: Blurred | None = None,
) -> Revealed:
    """Tell an image its most salient pixels, more with each threshold, together with the random mask.

    Args:
        image: ``(H, W, C)`` uint8.
        saliency: ``(H, W)`` floats, larger = more important. Pixels that share the value at a threshold are all told.
        mask: ``(H, W)`` bool, from :func:`random_mask`.
        thresholds: Shares of the pixels, rising.
        exact: See :func:`reconstruct`.
        blurred: From an earlier call for the same image, mask and ``exact``.
    """
    if blurred is None:
        base = reconstruct(image, mask, exact)
        blurred = Blurred(base, entropy(base), entropy(image))
    images, sizes, before = [blurred.image], [blurred.entropy], mask
    for threshold in thresholds:
        # The quantile of each threshold by itself: asked for many at once, NumPy computes in another precision.
        told = (saliency >= np.quantile(saliency, 1 - float(threshold))) | mask
        if told.all():
            images.append(image)
            sizes.append(blurred.original_entropy)
        elif np.array_equal(told, before):
            images.append(images[-1])
            sizes.append(sizes[-1])
        else:
            images.append(reconstruct(image, told, exact))
            sizes.append(entropy(images[-1]))
        before = told
    return Revealed(np.stack([*images, image]), np.array([*sizes, blurred.original_entropy]))


@contextmanager
def processes(workers: int) -> Iterator[Executor | None]:
    """A pool for :func:`reveal`, or None for one worker or less: then the work is done here.

    Processes, for the triangulation holds the interpreter's lock. They are started anew and not forked, as a fork takes
    the locks of threads (OpenMP, CUDA, loaders) with it; on each the work is done by one thread.

    >>> with processes(1) as pool:
    ...     pool is None
    True
    """
    if workers <= 1:
        yield None
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when the one that started it is killed: it would wait for work for ever."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
