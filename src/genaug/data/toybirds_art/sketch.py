"""Pencil on paper: outlines, and hatching where the colours are dark."""

from __future__ import annotations

import cv2
import numpy as np

from genaug.data.toybirds_art.bird import Placement, Shape
from genaug.data.toybirds_art.canvas import Canvas, Polygon, fractal, ribbon

PAPER, PENCIL = (243, 239, 229), (52, 51, 54)
#: Width of a pencil line and distance of two hatching lines, as fractions of the frame.
LINE, HATCH = 0.009, 0.034


def paint_paper(side: int, rng: np.random.Generator) -> np.ndarray:
    """Off-white paper with fibres and a little uneven tone: (3, side, side)."""
    tone = 1 + 0.025 * fractal(rng, side, (3, 3), 3) + 0.030 * fractal(rng, side, (48, 48), 2, 0.9)
    return np.asarray(PAPER, np.float32)[:, None, None] * tone


def _outline(cover: np.ndarray) -> np.ndarray:
    """The rim of a shape, one pencil line wide."""
    width = max(1, round(LINE * len(cover)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * (width // 2) + 1,) * 2)
    return np.asarray(cv2.dilate(cover, kernel) - cv2.erode(cover, kernel), np.float32)


def _hatching(darkness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines that grow thicker with darkness, crossed where it is darkest: 0..1."""
    side = len(darkness)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    wobble = 0.012 * fractal(rng, side, (4, 4), 3)
    ink = np.zeros_like(darkness)
    for angle, start in ((0.9, 0.22), (2.3, 0.52), (1.6, 0.75)):
        turn = angle + rng.normal(0, 0.12)
        wave = np.cos((2 * np.pi / HATCH) * (x * np.cos(turn) + y * np.sin(turn) + wobble))
        width = np.clip(1.6 * (darkness - start), 0, 0.75) * (darkness > start)
        ink = np.maximum(ink, np.clip(4 * (wave - 1 + 2 * width), 0, 1) * (width > 0))
    return ink


def draw_bird(
    shapes: list[Shape], place: Placement, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a bird in pencil.

    Returns:
        Ink (side, side) in 0..1 and the area of the bird (side, side) in 0..1.
    """
    tones = Canvas(side)
    ink = np.zeros((side, side), np.float32)
    masks: dict[str, np.ndarray] = {}
    for shape in (shape for shape in shapes if shape.drawn):
        polygons = [place(polygon) for polygon in shape.polygons]
        clip = masks[shape.on] if shape.on else None
        tones.fill(polygons, shape.colour, shape.soft * place.scale, shape.opacity, clip)
        if not shape.name:
            continue
        cover = tones.coverage(polygons)
        rim = _outline(cover)
        if clip is None:
            masks[shape.name] = cover
        else:
            cover, rim = cover * clip, rim * clip
        ink = np.maximum(ink * (1 - cover), rim)
    luminance = np.tensordot(np.array([0.3, 0.59, 0.11], np.float32), tones.rgb, 1) / 255
    hatched = _hatching(np.where(tones.alpha > 0.5, 1 - luminance, 0), rng)
    pressure = np.clip(0.85 + 0.5 * fractal(rng, side, (32, 32), 2, 0.9), 0.35, 1)
    return np.maximum(0.95 * ink, 0.75 * hatched) * pressure, tones.alpha


def draw_support(support: str, foot: np.ndarray, rng: np.random.Generator, side: int) -> np.ndarray:
    """Pencil lines of what carries the bird: ink (side, side) in 0..1."""
    x, y = foot
    lines: list[Polygon] = []
    if support == "branch":
        for dy, width in ((0.004, 0.008), (0.036, 0.010)):
            path = [
                (x - 0.42, y + dy + rng.uniform(-0.03, 0.05)),
                (x, y + dy),
                (x + 0.4, y + dy + rng.uniform(-0.05, 0.02)),
            ]
            lines.append(ribbon(path, [0.4 * width, width, 0.4 * width]))
    elif support in ("ground", "water"):
        for i in range(5):
            dx, dy, length = rng.normal(0, 0.14), 0.004 + 0.012 * i, rng.uniform(0.12, 0.34)
            bow = 0.01 if support == "water" else 0.0
            path = [(x + dx - length / 2, y + dy), (x + dx, y + dy + bow), (x + dx + length / 2, y + dy)]
            lines.append(ribbon(path, [0.002, 0.008, 0.002]))
    canvas = Canvas(side)
    return 0.7 * canvas.coverage(lines)
