"""Trees, grasses, rocks and twigs, painted on any canvas through a ``lit`` function."""

from __future__ import annotations

import numpy as np

from genaug.data.toybirds_art.canvas import Colour, Polygon, Vector, blades, ellipse, mix, ribbon, smooth
from genaug.data.toybirds_art.stage import Stage

BARK, STONE = (96, 74, 58), (136, 132, 128)
DARK, PALE = (16, 18, 24), (255, 252, 244)


def grass(
    stage: Stage, count: int, rows: tuple[float, float], height: float, colour: Colour, width: float = 0.012
) -> None:
    """Blades rooted between two heights of the frame, in three shades, back to front."""
    rng = stage.rng
    roots = np.stack([rng.uniform(-0.05, 1.05, count), np.sort(rng.uniform(*rows, count))], 1)
    tall = height * rng.uniform(0.5, 1.2, count)
    lean = rng.normal(0, 0.3, count) * tall
    every = blades(roots, roots + np.stack([lean, -tall], 1), width * rng.uniform(0.6, 1.3, count), -0.15 * lean)
    third = -(-count // 3)
    for i, shade in enumerate((-0.32, 0.0, 0.28)):
        tone = mix(colour, DARK if shade < 0 else PALE, abs(shade))
        stage.fill(every[i * third : (i + 1) * third], tone)


def reeds(stage: Stage, places: Vector, y: float, height: float, colour: Colour, far: float = 0.0) -> None:
    """Clumps of reeds with bulrush heads at ``places`` (x of each clump)."""
    rng = stage.rng
    count = 7 * len(places)
    roots = np.stack([np.repeat(places, 7) + rng.normal(0, 0.035, count), np.full(count, y)], 1)
    tall = height * rng.uniform(0.55, 1.15, count)
    lean = rng.normal(0, 0.22, count) * tall
    every = blades(roots, roots + np.stack([lean, -tall], 1), 0.013, -0.2 * lean)
    dark, leaves, heads = every[::3], [leaf for i, leaf in enumerate(every) if i % 3], []
    for x in places:
        stalk, top = x + rng.normal(0, 0.02), y - height * rng.uniform(0.8, 1.1)
        dark.append(ribbon([(x, y), (stalk, top)], [0.007, 0.005]))
        heads.append(ribbon([(stalk, top + 0.01), (stalk, top - 0.15 * height)], [0.018, 0.016]))
    stage.fill(dark, mix(colour, DARK, 0.35), far)
    stage.fill(leaves, colour, far)
    stage.fill(heads, (110, 70, 44), far)


def conifer(x: float, y: float, height: float, rng: np.random.Generator) -> Polygon:
    """A fir: a jagged cone standing at (x, y)."""
    tiers = 6
    half = 0.24 * height * np.linspace(0.12, 1, tiers) * rng.uniform(0.8, 1.2, tiers)
    levels = y - height * np.linspace(0.9, 0.08, tiers)
    right = [p for w, h in zip(half, levels, strict=True) for p in ((x + w, h), (x + 0.45 * w, h - 0.01 * height))]
    left = [(2 * x - px, py) for px, py in right][::-1]
    return np.array([(x, y - height), *right, (x, y), *left])


def firs(stage: Stage, count: int, y: float, height: float, colour: Colour, far: float, snow: float = 0.0) -> None:
    """A row of firs along the height ``y``, white on one side where there is snow."""
    rng = stage.rng
    xs = rng.uniform(-0.05, 1.05, count)
    trees = [conifer(x, y + rng.uniform(-0.01, 0.02), height * rng.uniform(0.6, 1.25), rng) for x in xs]
    stage.fill(trees, colour, far)
    if snow:
        caps = [
            np.stack([tree[:, 0].mean() + 0.62 * (tree[:, 0] - tree[:, 0].mean()) - 0.004, tree[:, 1] - 0.012], 1)
            for tree in trees
        ]
        stage.fill(caps, PALE, far, opacity=0.7 * snow)


def canopy(stage: Stage, centre: Vector, radius: float, far: float, lobes: int = 9) -> None:
    """The crown of a broad-leaved tree: lobes from dark below to light above."""
    rng = stage.rng
    colour = stage.season.leaves[rng.integers(2)]
    for shade, lift, size in ((0.42, 0.14, 0.62), (0.12, 0.0, 0.52), (-0.22, -0.18, 0.38)):
        spots = np.asarray(centre) + rng.normal(0, 0.42, (lobes, 2)) * (radius, 0.62 * radius) + (0, lift * radius)
        shapes = [ellipse(p, (size * radius, 0.8 * size * radius), rng.uniform(0, 3), 14) for p in spots]
        stage.fill(shapes, mix(colour, DARK if shade > 0 else PALE, abs(shade)), far)


def tree(stage: Stage, x: float, y: float, height: float, far: float) -> None:
    """A broad-leaved tree standing at (x, y)."""
    stage.fill([ribbon([(x, y), (x, y - 0.6 * height)], [0.10 * height, 0.05 * height])], BARK, far)
    canopy(stage, (x, y - 0.68 * height), 0.36 * height, far)


def palm(stage: Stage, x: float, y: float, height: float, far: float) -> None:
    """A palm with a bowed trunk standing at (x, y)."""
    rng = stage.rng
    lean = rng.normal(0, 0.25) * height
    top = np.array([x + lean, y - height])
    stage.fill(
        [ribbon([(x, y), (x + 0.25 * lean, y - 0.5 * height), top], [0.05 * height, 0.03 * height])],
        (140, 112, 84),
        far,
    )
    for shade in (0.3, 0.0):
        fronds = []
        for angle in rng.uniform(-0.5, np.pi + 0.5, 6):
            reach = 0.45 * height * np.array([np.cos(angle), -np.sin(angle)])
            fronds.append(
                ribbon([top, top + 0.6 * reach, top + reach + (0, 0.2 * height)], [0.02 * height, 0.09 * height, 0.01])
            )
        stage.fill(fronds, mix((62, 136, 70), DARK, shade), far)


def cactus(stage: Stage, x: float, y: float, height: float, far: float) -> None:
    """A columnar cactus with two arms standing at (x, y)."""
    w = 0.17 * height
    arms = [[(x, y), (x, y - height)]]
    for side, low in ((-1, 0.35), (1, 0.5)):
        out = x + side * 0.27 * height
        arms.append([(x, y - low * height), (out, y - low * height), (out, y - (low + 0.34) * height)])
    for colour, shift, size in (((70, 122, 78), 0.0, 1.0), ((122, 170, 108), -0.22 * w, 0.28)):
        stage.fill(
            [ribbon(np.array(arm) + (shift, 0), [w * size * (1 if i == 0 else 0.7)] * 2) for i, arm in enumerate(arms)],
            colour,
            far,
        )


def rock(stage: Stage, centre: Vector, radii: Vector, colour: Colour = STONE, far: float = 0.0) -> None:
    """A boulder with a lit top and snow on it in winter."""
    rng = stage.rng
    angles = np.linspace(0, 2 * np.pi, 11, endpoint=False) + rng.uniform(-0.15, 0.15, 11)
    reach = rng.uniform(0.85, 1.1, 11)[:, None]
    outline = np.asarray(centre) + np.stack([np.cos(angles), np.sin(angles)], 1) * np.asarray(radii) * reach
    stage.fill([outline], mix(colour, DARK, 0.42), far)
    top = np.asarray(centre) + (outline - centre) * (0.86, 0.62) - (0.04 * radii[0], 0.30 * radii[1])
    stage.fill([smooth(top)], colour, far, soft=0.006)
    cap = np.asarray(centre) + (outline - centre) * (0.6, 0.3) - (0.08 * radii[0], 0.55 * radii[1])
    stage.fill([smooth(cap)], PALE, far, soft=0.008, opacity=0.25 + 0.7 * stage.season.snow)


def flowers(stage: Stage, count: int, rows: tuple[float, float], size: float) -> None:
    """Blossoms (or fallen leaves, or snow) scattered between two heights, larger towards the viewer."""
    rng = stage.rng
    for colour in stage.season.flower:
        spots = np.stack([rng.uniform(0, 1, count), rng.uniform(*rows, count)], 1)
        near = 0.35 + 0.65 * (spots[:, 1] - rows[0]) / (rows[1] - rows[0])
        stage.fill([ellipse(p, (size * n, 0.8 * size * n), steps=8) for p, n in zip(spots, near, strict=True)], colour)


def spray(
    rng: np.random.Generator, start: Vector, end: Vector, leaf: tuple[float, float], gap: float
) -> tuple[Polygon, list[Polygon]]:
    """A twig from ``start`` to ``end`` and its leaves (length, width), one every ``gap`` of the frame."""
    root, tip = np.asarray(start, float), np.asarray(end, float)
    along = tip - root
    length = float(np.hypot(*along))
    sag = 0.5 * (root + tip) + (0, 0.06 * length)
    t = np.arange(0.1, 1.0, gap / length)[:, None]
    feet = (1 - t) ** 2 * root + 2 * t * (1 - t) * sag + t * t * tip
    sides = np.where(np.arange(len(t)) % 2, 1, -1)
    angles = np.arctan2(along[1], along[0]) + sides * rng.uniform(0.5, 1.1, len(t))
    sizes = leaf[0] * rng.uniform(0.7, 1.15, len(t))
    tips = feet + sizes[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    leaves = blades(feet, tips, leaf[1], leaf=True)
    return ribbon([root, sag, tip], [0.013, 0.010, 0.004]), leaves
