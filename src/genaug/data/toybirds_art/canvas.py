"""Drawing primitives: anti-aliased shapes with soft edges, smooth curves, fractal noise.

Coordinates are fractions of the frame, origin at the top left, y down; colours are RGB in 0..255. Nothing depends on
the size of the canvas in pixels, so one scene is the same scene at every size.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

_SUBPIXEL_BITS = 4

Polygon = np.ndarray
Colour = Sequence[float] | np.ndarray


def mix(first: Colour, second: Colour, amount: float) -> np.ndarray:
    """``first`` at amount 0, ``second`` at amount 1.

    >>> mix((0, 0, 0), (100, 200, 50), 0.5).tolist()
    [50.0, 100.0, 25.0]
    """
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return first + amount * (second - first)


def smooth(points: Sequence[Sequence[float]] | np.ndarray, closed: bool = True, steps: int = 6) -> Polygon:
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


def ellipse(centre: Sequence[float], radii: Sequence[float], angle: float = 0.0, steps: int = 28) -> Polygon:
    """Ellipse with semi-axes ``radii``, turned by ``angle`` radians."""
    t = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    x, y = radii[0] * np.cos(t), radii[1] * np.sin(t)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos], axis=1)


def ribbon(points: Sequence[Sequence[float]] | np.ndarray, widths: Sequence[float] | float, steps: int = 5) -> Polygon:
    """Curve through ``points`` as a band whose width goes through ``widths`` (spread evenly along it)."""
    centre = smooth(points, closed=False, steps=steps)
    widths = np.atleast_1d(np.asarray(widths, np.float64))
    width = np.interp(np.linspace(0, 1, len(centre)), np.linspace(0, 1, len(widths)), widths)
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
    total = np.zeros((side, side), np.float32)
    amplitude, power = 1.0, 0.0
    for octave in range(octaves):
        grid = rng.standard_normal((cells[0] << octave, cells[1] << octave), dtype=np.float32)
        total += amplitude * cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
        power += amplitude**2
        amplitude *= gain
    return total * np.float32(0.6 / np.sqrt(power))


class Canvas:
    """A layer that shapes are painted on: premultiplied RGB and opacity.

    Attributes:
        side: Pixels.
        rgb: (side, side, 3) float32, 0..255, multiplied by ``alpha``.
        alpha: (side, side) float32, 0..1.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.rgb = np.zeros((side, side, 3), np.float32)
        self.alpha = np.zeros((side, side), np.float32)

    def _window(self, polygons: Sequence[Polygon], pad: float) -> tuple[slice, slice] | None:
        """Rows and columns that the polygons reach, or None when they are out of the frame."""
        low = np.min([polygon.min(axis=0) for polygon in polygons], axis=0) - pad
        high = np.max([polygon.max(axis=0) for polygon in polygons], axis=0) + pad
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
        if soft * self.side > 0.3:
            cover = cv2.GaussianBlur(cover, (0, 0), soft * self.side)
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
            colour: One RGB, or an image (side, side, 3) that shows through the shape.
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
        colour = colour[window] if colour.ndim == 3 else colour
        self.paint(cover, colour if texture is None else colour * texture[window][..., None], window)

    def paint(self, cover: np.ndarray, colour: np.ndarray, window: tuple[slice, slice] = np.s_[:, :]) -> None:
        """Paint ``colour`` where ``cover`` (0..1) says so, inside a window of the frame."""
        keep = 1 - cover
        rgb, alpha = self.rgb[window], self.alpha[window]
        rgb *= keep[..., None]
        rgb += cover[..., None] * colour
        alpha *= keep
        alpha += cover

    def over(self, below: np.ndarray) -> np.ndarray:
        """This layer laid over the opaque image ``below``: (side, side, 3)."""
        return below * (1 - self.alpha[..., None]) + self.rgb
