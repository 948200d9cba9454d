"""Colourful fractals from a seed: structure without a subject, to be blended into images.

Two kinds, half of the pictures each. Julia sets of z^2 + c, with c just outside the Mandelbrot set's main cardioid,
where they have the most arms; a point's colour follows from how soon it escapes. And flames (Draves and Reckase 2003):
points that random maps of the plane send on and on; a pixel's brightness follows from how many come by, its colour from
the maps that sent them.
"""

from __future__ import annotations

import cv2
import numpy as np

#: Most pixels of a side that are computed; a larger picture is enlarged, as its finest structure is noise anyway.
SIDE = 256
#: Of a Julia set: a point that has not escaped by then is taken for one that never will.
ITERATIONS = 60
#: Of a flame: points for each pixel of a side, and how often they are sent on; the first steps do not count.
POINTS, STEPS, SETTLING = 16, 60, 10


def fractal(seed: int, height: int, width: int) -> np.ndarray:
    """A fractal ``(height, width, 3)`` uint8 that fills its picture.

    Example:
        >>> fractal(1, 6, 9).shape, bool((fractal(1, 6, 9) == fractal(1, 6, 9)).all())
        ((6, 9, 3), True)
    """
    rng = np.random.default_rng(seed)
    side = min(SIDE, max(height, width))
    picture = (_julia if rng.random() < 0.5 else _flame)(rng, side)
    # Of the square, the part that has the picture's aspect: nothing is squeezed.
    rows, columns = max(1, round(side * min(1, height / width))), max(1, round(side * min(1, width / height)))
    top, left = (side - rows) // 2, (side - columns) // 2
    picture = picture[top : top + rows, left : left + columns]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def _colours(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """RGB in [0, 1] of ``values``, by cosines of random phase: once round the colours for each 1."""
    phases, contrast = rng.random(3), rng.uniform(0.3, 0.5, 3)
    return 0.5 + contrast * np.cos(2 * np.pi * (values[..., None] + phases))


def _julia(rng: np.random.Generator, side: int) -> np.ndarray:
    """A Julia set ``(side, side, 3)`` uint8; points that stay are coloured by how near the origin they come."""
    edge = np.exp(2j * np.pi * rng.random())
    c = (edge / 2 - edge**2 / 4) * rng.uniform(1.02, 1.12)
    steps = np.linspace(-1, 1, side) * rng.uniform(0.4, 1.2)
    turn = np.exp(2j * np.pi * rng.random())
    points = ((steps[None, :] + 1j * steps[:, None]) * turn + rng.uniform(-0.3, 0.3)).ravel()
    escape, nearest = np.full(points.size, np.nan), np.full(points.size, np.inf)
    left = np.arange(points.size)
    for step in range(ITERATIONS):
        points = points * points + c
        size = points.real**2 + points.imag**2
        nearest[left] = np.minimum(nearest[left], size)
        gone = size > 256  # far out, so that the fraction of a step below is smooth
        escape[left[gone]] = np.log1p(max(step, 1) - np.log2(np.log2(size[gone]) / 8))
        left, points = left[~gone], points[~gone]
    values = np.where(np.isnan(escape), 1.5 + np.sqrt(nearest), escape).reshape(side, side)
    return (_colours(rng, values * rng.uniform(0.4, 0.9)) * 255).astype(np.uint8)


def _flame(rng: np.random.Generator, side: int) -> np.ndarray:
    """A flame ``(side, side, 3)`` uint8, on a dark ground of the colour that is its opposite."""
    count = int(rng.integers(3, 6))
    maps = rng.uniform(-1, 1, (count, 2, 2))
    maps *= (rng.uniform(0.75, 1.0, count) / np.linalg.norm(maps, 2, axis=(1, 2)))[:, None, None]  # all contract
    shifts, bends, own = rng.uniform(-0.6, 0.6, (count, 2)), rng.integers(0, 4, count), rng.random(count)
    wanderers = POINTS * side
    points, colour = rng.uniform(-1, 1, (wanderers, 2)), np.full(wanderers, 0.5)
    seen, shades = [], []
    for step in range(STEPS):
        chosen = rng.integers(0, count, wanderers)
        points = _bend(np.einsum("nij,nj->ni", maps[chosen], points) + shifts[chosen], bends[chosen])
        colour = (colour + own[chosen]) / 2
        if step >= SETTLING:
            seen.append(points)
            shades.append(colour)
    places, shade = np.concatenate(seen), np.concatenate(shades)
    low, high = np.quantile(places, [0.03, 0.97], axis=0)
    cells = ((places - low) / np.maximum(high - low, 1e-9) * side).astype(np.int64)
    inside = ((cells >= 0) & (cells < side)).all(axis=1)
    cell = cells[inside, 1] * side + cells[inside, 0]
    hits = np.bincount(cell, minlength=side * side).astype(np.float64)
    mean = np.bincount(cell, weights=shade[inside], minlength=side * side) / np.maximum(hits, 1)
    light = np.log1p(hits) / np.log1p(max(float(np.quantile(hits, 0.995)), 1.0))
    light = np.minimum(light, 1.0)[:, None]
    flame, ground = _colours(rng, mean * rng.uniform(1.0, 2.0)), 0.35 * rng.random(3)
    picture = (light * flame + (1 - light) * ground).reshape(side, side, 3)
    return cv2.GaussianBlur((picture * 255).astype(np.uint8), (0, 0), 0.6)


def _bend(points: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Points ``(n, 2)`` through one of four variations each: none, sines, a swirl, a fold at the unit circle."""
    x, y = points.T
    square = x * x + y * y
    sine, cosine = np.sin(square), np.cos(square)
    swirled = np.stack([x * sine - y * cosine, x * cosine + y * sine])
    return np.choose(kinds[None], [points.T, np.sin(points.T * 1.5), swirled, points.T / np.maximum(square, 1)]).T
