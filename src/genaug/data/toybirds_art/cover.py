"""Plants in front of the bird: they hide a part of it."""

from __future__ import annotations

import numpy as np

from genaug.data.toybirds_art import plants
from genaug.data.toybirds_art.canvas import Canvas, Colour, Polygon, blades, mix
from genaug.data.toybirds_art.plants import BARK, DARK, PALE
from genaug.data.toybirds_art.stage import Stage


def paint_cover(stage: Stage, kind: str, rng: np.random.Generator, foot: float) -> Canvas:
    """A layer of plants in front of the bird.

    Args:
        stage: Gives light and season; nothing is painted on it.
        kind: ``reeds``, ``grass``, ``leaves``, ``palm``, ``needles`` or ``thorns``.
        rng: Source of the plants.
        foot: Height of the bird's feet, as a fraction of the frame from the top: blades grow past it.
    """
    layer = Canvas(stage.canvas.side)
    if kind in ("reeds", "grass"):
        _blades(layer, stage, rng, foot, 0.36 if kind == "reeds" else 0.24)
    else:
        leaf = {"leaves": (0.11, 0.055), "palm": (0.20, 0.030), "needles": (0.07, 0.012), "thorns": (0.035, 0.016)}[
            kind
        ]
        gap = {"leaves": 0.055, "palm": 0.028, "needles": 0.014, "thorns": 0.022}[kind]
        for _ in range(rng.integers(1, 3)):
            _spray(layer, stage, rng, leaf, gap, foot)
    return layer


def _paint(layer: Canvas, stage: Stage, polygons: list[Polygon], colour: Colour) -> None:
    layer.fill(polygons, stage.lit(colour), soft=0.0015, texture=stage.grain)


def _blades(layer: Canvas, stage: Stage, rng: np.random.Generator, foot: float, height: float) -> None:
    """Two clumps of blades from the lower edge, reaching over the bird's lower parts."""
    green = mix(stage.season.grass, (250, 250, 250), 0.4 * stage.season.snow)
    count = 18
    x = np.repeat(rng.uniform(0.1, 0.9, 2), count // 2) + rng.normal(0, 0.07, count)
    tall = height * rng.uniform(0.45, 1.0, count)
    lean = rng.normal(0, 0.3, count) * tall
    root = max(foot + 0.10, 1.02)
    every = blades(np.stack([x, np.full(count, root)], 1), np.stack([x + lean, foot + 0.06 - tall], 1),
                   rng.uniform(0.012, 0.022, count), -0.15 * lean)  # fmt: skip
    for i, colour in enumerate((mix(green, DARK, 0.4), green, mix(green, PALE, 0.25))):
        _paint(layer, stage, every[i::3], colour)


def _spray(
    layer: Canvas, stage: Stage, rng: np.random.Generator, leaf: tuple[float, float], gap: float, foot: float
) -> None:
    """A twig that reaches in from one side."""
    side = rng.integers(2)
    start = (-0.05 if side else 1.05, rng.uniform(max(foot - 0.35, 0.2), min(foot + 0.1, 0.98)))
    reach = rng.uniform(0.32, 0.55)
    end = (reach if side else 1 - reach, start[1] + rng.uniform(-0.15, 0.1))
    twig, leaves = plants.spray(rng, start, end, leaf, gap)
    foliage = stage.season.leaves if leaf[1] > 0.05 else ((46, 104, 70), (74, 132, 84))
    if leaf[0] < 0.05:
        foliage = ((146, 132, 82), (178, 160, 104))
    _paint(layer, stage, [twig], mix(BARK, DARK, 0.3))
    for part, colour in (
        (leaves[::3], mix(foliage[0], DARK, 0.3)),
        (leaves[1::3], foliage[0]),
        (leaves[2::3], foliage[1]),
    ):
        _paint(layer, stage, part, colour)
        if leaf[1] > 0.05:
            veins = [np.stack([p[0], p[4], 0.8 * p[4] + 0.2 * p[5] + (0, 0.002), p[9]]) for p in part]
            layer.fill(veins, stage.lit(mix(colour, PALE, 0.4)), opacity=0.3)
