"""Drawing primitives: anti-aliased shapes with soft edges, smooth curves, fractal noise.

Coordinates are fractions of the frame, origin at the top left, y down; colours are RGB in 0..255. Nothing depends on
the size of the canvas in pixels, so one scene is the same scene at every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

_SUBPIXEL_BITS = 4
# A softer edge than this, in pixels of the canvas, is blurred: the last reduction hides smaller ones.
_SHARPEST = 0.8

Polygon = np.ndarray
Colour = Sequence[float] | np.ndarray
#: A point, a pair of radii, a row of widths.
Vector = Sequence[float] | np.ndarray


def mix(first: Colour, second: Colour, amount: float) -> np.ndarray:
    """``first`` at amount 0, ``second`` at amount 1.

    >>> mix((0, 0, 0), (100, 200, 50), 0.5).tolist()
    [50.0, 100.0, 25.0]
    """
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return first + amount * (second - first)


def smooth(points: Sequence[Vector] | np.ndarray, closed: bool = True, steps: int = 6) -> Polygon:
    """Catmull-Rom curve through ``points``, ``steps`` samples a segment: (N, 2)."""
    points = np.asarray(points, np.float64)
    if closed:
        padded = np.concatenate([points[-1:], points, points[:2]])
    else:
        padded = np.concatenate([points[:1], points, points[-1:]])
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def ellipse(centre: Vector, radii: Vector, angle: float = 0.0, steps: int = 28) -> Polygon:
    """Ellipse with semi-axes ``radii``, turned by ``angle`` radians."""
    points = _unit_circle(steps) * radii
    if angle:
        cos, sin = np.cos(angle), np.sin(angle)
        points = points @ np.array([[cos, sin], [-sin, cos]])
    return points + centre


@lru_cache
def _unit_circle(steps: int) -> np.ndarray:
    t = 2 * np.pi * np.arange(steps) / steps
    return np.stack([np.cos(t), np.sin(t)], axis=1)


def ribbon(points: Sequence[Vector] | np.ndarray, widths: Vector | float, steps: int = 5) -> Polygon:
    """Curve through ``points`` as a band whose width goes through ``widths`` (spread evenly along it)."""
    centre = smooth(points, closed=False, steps=steps)
    knots = np.atleast_1d(np.asarray(widths, np.float64))
    width = np.interp(np.linspace(0, 1, len(centre)), np.linspace(0, 1, len(knots)), knots)
    tangent = np.gradient(centre, axis=0)
    length = np.maximum(np.hypot(tangent[:, 0], tangent[:, 1]), 1e-9)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * (0.5 * width / length)[:, None]
    return np.concatenate([centre + normal, (centre - normal)[::-1]])


def fractal(
    rng: np.random.Generator, side: int, cells: tuple[int, int] = (4, 4), octaves: int = 4, gain: float = 0.55
) -> np.ndarray:
    """Noise of mean about 0 and standard deviation about 1/2, the sum of ``octaves`` layers: (side, side) float32.

    Args:
        rng: Source of the noise; how much is drawn does not depend on ``side``.
        side: Pixels.
        cells: Rows and columns of the coarsest layer: unequal numbers give streaks.
        octaves: Layers, each twice as fine as the one before.
        gain: Amplitude of a layer relative to the one before.
    """
    total: np.ndarray = np.zeros(cells, np.float32)
    for octave in range(octaves):
        shape = (cells[0] << octave, cells[1] << octave)
        # Each layer is added at its own resolution: enlarging every one to the full side costs ten times as much.
        total = cv2.resize(total, shape[::-1], interpolation=cv2.INTER_CUBIC)
        total = total + np.float32(gain**octave) * rng.standard_normal(shape, dtype=np.float32)
    power = sum(gain ** (2 * octave) for octave in range(octaves))
    return cv2.resize(total, (side, side), interpolation=cv2.INTER_LINEAR) * np.float32(0.6 / np.sqrt(power))


def blades(
    roots: np.ndarray, tips: np.ndarray, widths: np.ndarray | float, bends: np.ndarray | float = 0.0, leaf: bool = False
) -> list[Polygon]:
    """Many leaves at once: of grass (widest at the root), or of a twig (widest in the middle).

    Args:
        roots: (N, 2).
        tips: (N, 2).
        widths: Largest width of each.
        bends: How far the middle of each is moved to the right.
        leaf: Widest in the middle.
    """
    t = np.array([0.0, 0.25, 0.5, 0.75, 1.0])[None, :, None]
    bend = np.stack([np.broadcast_to(bends, len(roots)), np.zeros(len(roots))], axis=1)[:, None]
    centre = roots[:, None] * (1 - t) + tips[:, None] * t + 4 * t * (1 - t) * bend
    along = tips - roots
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)
    normal = (
        np.stack([-along[:, 1], along[:, 0]], axis=1) * (0.5 * np.broadcast_to(widths, len(roots)) / length)[:, None]
    )
    shape = np.array([0.15, 0.8, 1.0, 0.7, 0.05] if leaf else [1.0, 0.95, 0.8, 0.5, 0.05])[None, :, None]
    side = normal[:, None] * shape
    return list(np.concatenate([centre + side, (centre - side)[:, ::-1]], axis=1))


def _blur(cover: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; a wide one on a quarter of the resolution, where nobody sees the difference."""
    height, width = cover.shape
    if sigma < 6 or min(height, width) < 8:
        return np.asarray(cv2.GaussianBlur(cover, (0, 0), sigma))
    small = cv2.resize(cover, (-(-width // 4), -(-height // 4)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / 4), (width, height)))


class Canvas:
    """A layer that shapes are painted on: premultiplied RGB and opacity.

    Attributes:
        side: Pixels.
        rgb: (3, side, side) float32, 0..255, multiplied by ``alpha``. Planes: numpy is slow on short last axes.
        alpha: (side, side) float32, 0..1.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.rgb = np.zeros((3, side, side), np.float32)
        self.alpha = np.zeros((side, side), np.float32)

    def _window(self, polygons: Sequence[Polygon], pad: float) -> tuple[slice, slice] | None:
        """Rows and columns that the polygons reach, or None when they are out of the frame."""
        points = polygons[0] if len(polygons) == 1 else np.concatenate(polygons)
        low, high = points.min(axis=0) - pad, points.max(axis=0) + pad
        x0, y0 = np.clip(np.floor(low * self.side).astype(int) - 1, 0, self.side)
        x1, y1 = np.clip(np.ceil(high * self.side).astype(int) + 2, 0, self.side)
        return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None

    def _cover(self, polygons: Sequence[Polygon], soft: float, window: tuple[slice, slice]) -> np.ndarray:
        """How much of each pixel of the window the union of the polygons covers, 0..1."""
        rows, columns = window
        cover = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        offset = (columns.start + 0.5, rows.start + 0.5)
        for polygon in polygons:
            points = np.rint((polygon * self.side - offset) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
            cv2.fillPoly(cover, [points], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        if soft * self.side > _SHARPEST:
            cover = _blur(cover, soft * self.side)
        return cover.astype(np.float32) * np.float32(1 / 255)

    def coverage(self, polygons: Sequence[Polygon], soft: float = 0.0) -> np.ndarray:
        """How much of each pixel the union of ``polygons`` covers: (side, side) in 0..1."""
        cover = np.zeros((self.side, self.side), np.float32)
        if polygons and (window := self._window(polygons, 3 * soft)) is not None:
            cover[window] = self._cover(polygons, soft, window)
        return cover

    def fill(
        self,
        polygons: Sequence[Polygon],
        colour: Colour,
        soft: float = 0.0,
        opacity: float = 1.0,
        clip: np.ndarray | None = None,
        texture: np.ndarray | None = None,
    ) -> None:
        """Paint the union of ``polygons``.

        Args:
            polygons: Each (N, 2).
            colour: One RGB, or planes (3, side, side) that shows through the shape.
            soft: Standard deviation of the blur of the edge, as a fraction of the frame.
            opacity: 0..1.
            clip: (side, side) in 0..1; paint only there.
            texture: (side, side), multiplies the colour.
        """
        if not polygons or (window := self._window(polygons, 3 * soft)) is None:
            return
        cover = self._cover(polygons, soft, window) * np.float32(opacity)
        if clip is not None:
            cover *= clip[window]
        colour = np.asarray(colour, np.float32)
        colour = colour[:, *window] if colour.ndim == 3 else colour[:, None, None]
        self.paint(cover, colour if texture is None else colour * texture[window], window)

    def paint(self, cover: np.ndarray, colour: np.ndarray, window: tuple[slice, slice] = np.s_[:, :]) -> None:
        """Paint ``colour`` (3, 1 or height, 1 or width) where ``cover`` (0..1) says so, in a window of the frame."""
        keep = 1 - cover
        rgb, alpha = self.rgb[:, *window], self.alpha[window]
        rgb *= keep
        rgb += cover * colour
        alpha *= keep
        alpha += cover

    def over(self, below: np.ndarray) -> np.ndarray:
        """This layer laid over the opaque planes ``below``: (3, side, side)."""
        return below * (1 - self.alpha) + self.rgb
