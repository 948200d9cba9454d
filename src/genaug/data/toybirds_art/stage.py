"""The stage of a scene: light, sky, distance, land and water that the habitats are built from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from genaug.data.toybirds_art.canvas import Canvas, Colour, Polygon, ellipse, fractal, mix


@dataclass(frozen=True, slots=True)
class Light:
    """The light of a time of day.

    Attributes:
        name: ``dawn``, ``noon``, ``dusk`` or ``night``.
        top: Colour of the sky above.
        low: Colour of the sky at the horizon, which distant things fade to.
        tint: What the light multiplies the colours of things with.
        lamp: Colour of sun or moon.
        height: Height of sun or moon above the horizon, 0..1 of the sky.
    """

    name: str
    top: tuple[int, int, int]
    low: tuple[int, int, int]
    tint: tuple[float, float, float]
    lamp: tuple[int, int, int]
    height: float


LIGHTS = (
    Light("dawn", (126, 158, 204), (255, 212, 186), (1.04, 0.94, 0.90), (255, 244, 214), 0.25),
    Light("noon", (82, 152, 220), (206, 230, 242), (1.06, 1.05, 1.00), (255, 255, 244), 0.80),
    Light("dusk", (92, 84, 142), (255, 164, 98), (1.02, 0.84, 0.76), (255, 206, 130), 0.18),
    Light("night", (18, 26, 62), (66, 84, 128), (0.58, 0.65, 0.88), (238, 240, 226), 0.70),
)


@dataclass(frozen=True, slots=True)
class Season:
    """What a season does to plants and ground.

    Attributes:
        name: ``spring``, ``summer``, ``autumn`` or ``winter``.
        leaves: Colours of foliage.
        grass: Colour of grass and reeds.
        snow: How much of the ground is white, 0..1.
        flower: Colours of flowers and fallen leaves.
    """

    name: str
    leaves: tuple[tuple[int, int, int], ...]
    grass: tuple[int, int, int]
    snow: float
    flower: tuple[tuple[int, int, int], ...]


SEASONS = (
    Season("spring", ((118, 178, 78), (150, 200, 96), (236, 178, 196)), (124, 178, 76), 0.0,
           ((250, 236, 120), (244, 160, 190), (250, 250, 246))),
    Season("summer", ((52, 116, 56), (74, 140, 62), (96, 152, 70)), (96, 148, 58), 0.0,
           ((236, 78, 70), (250, 214, 80), (120, 110, 210))),
    Season("autumn", ((206, 110, 42), (226, 160, 54), (160, 70, 44)), (178, 150, 78), 0.0,
           ((214, 122, 48), (172, 78, 44), (232, 180, 70))),
    Season("winter", ((104, 112, 104), (150, 158, 160), (226, 234, 240)), (158, 156, 136), 0.75,
           ((232, 240, 246), (206, 220, 232), (176, 160, 140))),
)  # fmt: skip


class Stage:
    """An opaque picture under construction, from the sky forward.

    Attributes:
        canvas: What has been painted.
        rng: Source of every random number of the scenery.
        light: The light of the time of day.
        season: The season.
        horizon: Height of the horizon, as a fraction of the frame from the top.
        afloat: Whether the bird swims, so that there must be water in the foreground.
        grain: (side, side) texture about 1 that gives surfaces a hand-painted look.
    """

    def __init__(
        self, side: int, rng: np.random.Generator, light: Light, season: Season, horizon: float, afloat: bool
    ) -> None:
        self.canvas = Canvas(side)
        self.rng, self.light, self.season, self.horizon, self.afloat = rng, light, season, horizon, afloat
        self.grain = 1 + 0.16 * fractal(rng, side, (12, 12), 4, 0.75)
        self._rows = (np.arange(side, dtype=np.float32) + 0.5) / side

    def lit(self, colour: Colour, far: float = 0.0) -> np.ndarray:
        """``colour`` in this light, faded into the sky at distance ``far`` (0 near, 1 horizon)."""
        return mix(np.asarray(colour, np.float32) * np.asarray(self.light.tint, np.float32), self.light.low, far)

    def fill(
        self, polygons: Sequence[Polygon], colour: Colour, far: float = 0.0, soft: float = 0.0, opacity: float = 1.0
    ) -> None:
        """Paint lit, grained shapes."""
        self.canvas.fill(polygons, self.lit(colour, far), soft, opacity, texture=self.grain)

    def gradient(self, top: float, bottom: float, first: Colour, last: Colour) -> np.ndarray:
        """Planes that go from colour ``first`` at height ``top`` to ``last`` at ``bottom``: (3, side, side)."""
        t = np.clip((self._rows - top) / (bottom - top), 0, 1)[:, None]
        first, last = (np.asarray(colour, np.float32)[:, None, None] for colour in (first, last))
        return np.broadcast_to(first + t * (last - first), (3, self.canvas.side, self.canvas.side))

    def paint_sky(self) -> None:
        """Sky with sun or moon, clouds, and stars at night."""
        light, side, rng = self.light, self.canvas.side, self.rng
        self.canvas.paint(np.ones((side, side), np.float32), self.gradient(0, self.horizon, light.top, light.low))
        if light.name == "night":
            stars = rng.random((40, 2)) * (1, self.horizon)
            sizes = rng.uniform(0.0015, 0.0045, 40)
            self.canvas.fill([ellipse(p, (s, s), steps=6) for p, s in zip(stars, sizes, strict=True)], (240, 240, 255))
        centre = (rng.uniform(0.08, 0.92), self.horizon * (1 - light.height) * rng.uniform(0.7, 1.1))
        radius = rng.uniform(0.03, 0.055)
        self.canvas.fill([ellipse(centre, (3 * radius,) * 2)], light.lamp, soft=0.07, opacity=0.55)
        self.canvas.fill([ellipse(centre, (radius, radius))], light.lamp, soft=0.004)
        cover = fractal(rng, side, (5, 2), 5, 0.6) - rng.uniform(-0.1, 0.5)
        cover = np.clip(1.6 * cover, 0, 0.85) * (self._rows < self.horizon + 0.05)[:, None]
        self.canvas.paint(cover, self.lit((250, 250, 252), 0.35)[:, None, None])

    def profile(self, base: float, height: float, roughness: float, cells: int = 3) -> np.ndarray:
        """A random skyline from the left to the right edge: (65, 2)."""
        x = np.linspace(0, 1, 65)
        y = np.zeros(65)
        for octave in range(5):
            knots = self.rng.standard_normal((cells << octave) + 2)
            at = np.linspace(-0.01, 1.01, len(knots))
            smooth = np.interp(x, at, knots)
            y += smooth * roughness**octave
        return np.stack([x, base - height * (0.6 + 0.4 * y)], axis=1)

    def ridge(
        self, base: float, height: float, colour: Colour, far: float, roughness: float = 0.4, cells: int = 3
    ) -> np.ndarray:
        """Hills that rise ``height`` above ``base``; returns the skyline."""
        line = self.profile(base, height, roughness, cells)
        self.fill([below(line, max(base + 0.02, line[:, 1].max() + 0.01))], colour, far)
        return line

    def _perspective(self, texture: np.ndarray, top: float) -> np.ndarray:
        """``texture`` laid on the ground below height ``top``."""
        side = self.canvas.side
        depth = np.clip((self._rows - top) / max(1 - top, 0.05), 0, 1) + 0.25
        x = (self._rows[None, :] - 0.5) / (1.25 * depth[:, None]) + 0.5
        y = np.broadcast_to(1.0 - 0.25 / depth[:, None], x.shape)
        columns, rows = (x * side).astype(np.float32), (y * side).astype(np.float32)
        return cv2.remap(texture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)

    def ground(self, line: np.ndarray, near: Colour, far: Colour, rough: float = 0.35, haze: float = 0.35) -> None:
        """Land below the skyline ``line``, from colour ``far`` to ``near``, rougher towards the viewer."""
        top = float(line[:, 1].mean())
        noise = fractal(self.rng, self.canvas.side, (10, 8), 5, 0.8)
        texture = (
            np.clip(1 + rough * (1 - 0.6 * self.season.snow) * self._perspective(noise, top), 0.35, 1.7) * self.grain
        )
        colours = self.gradient(top, 1.0, self.lit(far, haze), self.lit(near))
        self.canvas.fill([below(line, 1.05)], colours, texture=texture)

    def water(self, line: np.ndarray, near: Colour, far: Colour, choppy: float = 0.5) -> None:
        """Water below ``line`` that mirrors the sky at a distance, with ripples and glitter."""
        top, light, side = float(line[:, 1].mean()), self.light, self.canvas.side
        ripples = self._perspective(fractal(self.rng, side, (40, 5), 3, 0.8), top)
        colours = self.gradient(top, 1.0, mix(self.lit(far), light.low, 0.55), mix(self.lit(near), light.top, 0.22))
        shape = self.canvas.coverage([below(line, 1.05)])
        self.canvas.paint(shape, colours * (1 + 0.22 * choppy * ripples))
        self.canvas.paint(
            shape * np.clip(choppy * (ripples - 0.45), 0, 0.6), mix(light.low, (255, 255, 255), 0.4)[:, None, None]
        )

    def finish_distance(self, blur: float = 0.0035) -> None:
        """Throw what was painted so far slightly out of focus."""
        if blur * self.canvas.side > 0.3:
            for plane in self.canvas.rgb:
                cv2.GaussianBlur(plane, (0, 0), blur * self.canvas.side, plane)


def below(line: np.ndarray, bottom: float) -> Polygon:
    """The area between a skyline and the height ``bottom``."""
    return np.concatenate([line, [(line[-1, 0], bottom), (line[0, 0], bottom)]])


def level(y: float) -> np.ndarray:
    """A flat skyline."""
    return np.array([(0.0, y), (1.0, y)])
