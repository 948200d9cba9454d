"""The eight habitats: four on water, four on land."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from genaug.data.toybirds_art import plants
from genaug.data.toybirds_art.canvas import Colour, Polygon, ellipse, mix, ribbon, smooth
from genaug.data.toybirds_art.plants import BARK, DARK, PALE
from genaug.data.toybirds_art.stage import Stage, level


@dataclass(frozen=True, slots=True)
class Habitat:
    """A kind of place.

    Attributes:
        name: One word.
        water: Whether it counts as water in the groups.
        place: How a caption says where.
        ground: How a caption says what a bird there stands on.
        perches: What a bird there perches on: ``branch``, ``post``, ``rock`` or ``reed``.
        cover: What can grow in front of a bird there: ``reeds``, ``grass``, ``leaves``, ``palm``,
            ``needles`` or ``thorns``.
        horizon: Lowest and highest place of the horizon, as fractions of the frame from the top.
        paint: Paints the scenery.
    """

    name: str
    water: bool
    place: str
    ground: str
    perches: tuple[str, ...]
    cover: str
    horizon: tuple[float, float]
    paint: Callable[[Stage], None]


def _snowy(stage: Stage, colour: Colour) -> np.ndarray:
    """``colour`` of open ground under the snow of the season."""
    return mix(colour, (236, 240, 246), 0.85 * stage.season.snow)


def _leaf(stage: Stage) -> Colour:
    return stage.season.leaves[1]


def _lake(stage: Stage) -> None:
    stage.paint_sky()
    h, rng = stage.horizon, stage.rng
    stage.ridge(h, rng.uniform(0.14, 0.24), (92, 116, 140), 0.55, 0.5)
    stage.ridge(h, rng.uniform(0.05, 0.10), _snowy(stage, (70, 104, 84)), 0.35, 0.35)
    plants.firs(stage, 34, h + 0.01, 0.12, (38, 76, 62), 0.22, stage.season.snow)
    stage.finish_distance()
    stage.water(level(h), (26, 94, 164), (70, 140, 190), 0.55)
    mirror = stage.profile(h + 0.10, 0.05, 0.5, 8)
    shade = np.concatenate([np.array([(0.0, h), (1.0, h)]), mirror[::-1]])
    stage.canvas.fill([shade], stage.lit((26, 58, 66)), soft=0.02, opacity=0.5)
    for _ in range(rng.integers(2, 5)):
        plants.rock(
            stage, (rng.uniform(0, 1), rng.uniform(0.9, 1.02)), (rng.uniform(0.05, 0.14), rng.uniform(0.03, 0.06))
        )
    plants.reeds(stage, rng.uniform(-0.05, 1.05, 2), h + 0.22, 0.2, _leaf(stage), 0.1)


def _seashore(stage: Stage) -> None:
    stage.paint_sky()
    h, rng = stage.horizon, stage.rng
    side = rng.choice([-1, 1])
    cliff = stage.profile(h, rng.uniform(0.16, 0.26), 0.5, 4)
    cliff[:, 1] = h - (h - cliff[:, 1]) * np.clip(1.2 - 2.4 * np.abs(cliff[:, 0] - (side > 0)), 0, 1)
    stage.fill([np.concatenate([cliff, [(1, h + 0.01), (0, h + 0.01)]])], (182, 168, 150), 0.3)
    stage.finish_distance(0.003)
    stage.water(level(h), (42, 118, 138), (58, 122, 150), 0.8)
    beach = 0.88 if stage.afloat else h + rng.uniform(0.20, 0.28)
    for y in np.geomspace(0.035, beach - h, 4):
        crest = stage.profile(h + y, 0.012, 0.6, 5)
        width = 0.09 * y + 0.004
        stage.fill(
            [ribbon(crest[::4], rng.uniform(0.3, 1.3, 9) * width, steps=4)],
            (246, 250, 250),
            0.1,
            soft=0.003,
            opacity=0.9,
        )
        stage.fill([ribbon(crest[::4] + (0, 1.2 * width), width)], (24, 84, 104), 0.1, soft=0.006, opacity=0.5)
    stage.ground(stage.profile(beach + 0.05, 0.02, 0.5), _snowy(stage, (228, 198, 148)), (176, 148, 112), 0.16, 0.1)
    foam = stage.profile(beach + 0.055, 0.02, 0.5)
    stage.fill([ribbon(foam[::4], rng.uniform(0.2, 1.4, 9) * 0.022, steps=4)], (252, 252, 250), soft=0.003)
    shells = np.stack([rng.uniform(0, 1, 14), rng.uniform(beach + 0.12, 1, 14)], 1)
    stage.fill([ellipse(p, (0.012, 0.008), rng.uniform(0, 3), 10) for p in shells[:9]], (250, 236, 224))
    stage.fill([ellipse(p, (0.016, 0.011), rng.uniform(0, 3), 10) for p in shells[9:]], (120, 104, 92))


def pool(stage: Stage, edge: Polygon) -> None:
    """Still water that mirrors the sky, darker towards the viewer."""
    top, bottom = edge[:, 1].min(), edge[:, 1].max()
    shine = stage.gradient(top - 0.03, bottom + 0.08, mix(stage.light.low, (70, 82, 66), 0.25), stage.lit((62, 80, 62)))
    stage.canvas.fill([edge], shine, soft=0.012, opacity=0.92, texture=stage.grain)


def _marsh(stage: Stage) -> None:
    stage.paint_sky()
    h, rng = stage.horizon, stage.rng
    stage.ridge(h, 0.05, (104, 122, 96), 0.55, 0.5, 8)
    stage.ground(level(h), _snowy(stage, mix(stage.season.grass, (96, 110, 60), 0.5)), stage.season.grass, 0.4, 0.45)
    stage.finish_distance()
    for y in (h + 0.06, h + 0.17, h + 0.34):
        width = 0.3 + 1.2 * (y - h)
        for x in rng.uniform(0, 1, 2):
            pool(stage, ellipse((x, y + 0.02), (width * rng.uniform(0.7, 1.2), 0.12 * width)))
    for y, tall, far in ((h + 0.05, 0.13, 0.35), (h + 0.15, 0.24, 0.15), (h + 0.33, 0.34, 0.0)):
        plants.reeds(stage, rng.uniform(-0.05, 1.05, 4), y, tall, mix(stage.season.grass, (120, 132, 60), 0.4), far)
    pads = np.stack([rng.uniform(0, 1, 9), rng.uniform(0.75, 1.0, 9)], 1)
    stage.fill([ellipse(p, (0.045, 0.014), 0, 14) for p in pads], _snowy(stage, (86, 138, 74)))


def _lagoon(stage: Stage) -> None:
    stage.paint_sky()
    h, rng = stage.horizon, stage.rng
    stage.ridge(h, rng.uniform(0.10, 0.2), (70, 132, 112), 0.5, 0.35, 2)
    stage.finish_distance()
    stage.water(level(h), (36, 196, 186), (64, 198, 206), 0.5)
    for x in rng.uniform(0, 1, 5):
        y = rng.uniform(h + 0.1, 0.8)
        size = 0.06 + 0.3 * (y - h)
        stage.fill([ellipse((x, y), (size * 1.6, 0.22 * size))], (18, 112, 132), soft=0.015, opacity=0.55)
    shore = rng.choice([0.0, 1.0])
    bank = np.array(
        [(shore, h - 0.035), (abs(shore - 0.45), h + 0.015), (abs(shore - 0.5), h + 0.03), (shore, h + 0.06)]
    )
    stage.fill([bank], (244, 228, 186), 0.1)
    for x in rng.uniform(0.02, 0.42, 4):
        plants.palm(stage, abs(shore - x), h + 0.01, rng.uniform(0.2, 0.34), 0.12)
    beach = stage.profile(0.98 if stage.afloat else rng.uniform(0.74, 0.82), 0.03, 0.5, 2)
    stage.fill([ribbon(beach[::4] - (0, 0.006), 0.03)], (226, 252, 246), soft=0.008, opacity=0.8)
    stage.ground(beach, (250, 232, 188), (236, 216, 172), 0.12, 0.0)


def _forest(stage: Stage) -> None:
    h, rng, side = stage.horizon, stage.rng, stage.canvas.side
    glow, floor = stage.lit(mix(_leaf(stage), (236, 240, 196), 0.45)), stage.lit(mix(_leaf(stage), DARK, 0.4))
    stage.canvas.paint(np.ones((side, side), np.float32), stage.gradient(0.1, h + 0.1, floor, glow) * stage.grain)
    for far, count, width in ((0.0, 10, 0.022), (0.0, 7, 0.04)):
        for x in rng.uniform(0, 1, count):
            trunk = ribbon([(x, h + 0.1), (x + rng.normal(0, 0.02), -0.05)], [width, 0.8 * width])
            stage.fill([trunk], mix(BARK, glow, 0.55 if width < 0.03 else 0.3), far)
    for _ in range(7):
        plants.canopy(stage, (rng.uniform(0, 1), rng.uniform(0.0, h - 0.1)), rng.uniform(0.10, 0.18), 0.0, 7)
    stage.finish_distance(0.006)
    litter = mix(stage.season.leaves[0], (92, 74, 52), 0.55)
    stage.ground(
        stage.profile(h + 0.1, 0.02, 0.5, 4), _snowy(stage, mix(litter, DARK, 0.2)), _snowy(stage, litter), 0.5, 0.0
    )
    for x in (rng.uniform(-0.02, 0.25), rng.uniform(0.7, 1.02)):
        foot, width = h + rng.uniform(0.2, 0.32), rng.uniform(0.07, 0.12)
        trunk = ribbon(
            [(x, foot), (x, 0.5 * foot), (x + rng.normal(0, 0.03), -0.05)], [1.6 * width, width, 0.9 * width]
        )
        stage.fill([trunk], (84, 64, 50))
        stage.fill([trunk * (0.4, 1) + (0.6 * x + 0.028, 0)], DARK, soft=0.01, opacity=0.4)
    for _ in range(5):
        plants.canopy(stage, (rng.uniform(0, 1), rng.uniform(-0.04, 0.08)), rng.uniform(0.12, 0.2), 0.0)
    plants.grass(stage, 60, (h + 0.2, 1.05), 0.09, mix(stage.season.grass, (40, 90, 50), 0.4), 0.02)
    plants.flowers(stage, 12, (h + 0.15, 1.0), 0.010)


def _meadow(stage: Stage) -> None:
    stage.paint_sky()
    h, rng, green = stage.horizon, stage.rng, stage.season.grass
    stage.ridge(h, rng.uniform(0.06, 0.12), _snowy(stage, mix(green, (90, 130, 120), 0.4)), 0.5, 0.25, 2)
    for x in rng.uniform(0, 1, 6):
        plants.tree(stage, x, h + 0.03, rng.uniform(0.10, 0.2), 0.3)
    stage.ground(
        stage.profile(h + 0.02, 0.03, 0.3, 2), _snowy(stage, green), _snowy(stage, mix(green, PALE, 0.15)), 0.3, 0.35
    )
    stage.finish_distance()
    plants.tree(stage, rng.choice([0.08, 0.9]) + rng.normal(0, 0.05), h + 0.1, rng.uniform(0.3, 0.42), 0.08)
    lush = _snowy(stage, mix(green, PALE, 0.05))
    plants.grass(stage, 160, (h + 0.1, 1.05), 0.09, lush, 0.011)
    plants.flowers(stage, 34, (h + 0.06, 1.0), 0.014)


def _desert(stage: Stage) -> None:
    stage.paint_sky()
    h, rng = stage.horizon, stage.rng
    for _ in range(3):
        x, w, tall = rng.uniform(0, 1), rng.uniform(0.10, 0.22), rng.uniform(0.08, 0.18)
        mesa = [(x - w, h + 0.02), (x - 0.75 * w, h - 0.7 * tall), (x - 0.6 * w, h - tall), (x + 0.62 * w, h - tall),
                (x + 0.7 * w, h - 0.6 * tall), (x + w, h + 0.02)]  # fmt: skip
        stage.fill([np.array(mesa)], (188, 104, 74), 0.35)
        stage.fill(
            [np.array(mesa) * (1, 0.5) + (0, 0.5 * h - 0.25 * tall)], (220, 148, 104), 0.4, soft=0.01, opacity=0.6
        )
    stage.finish_distance()
    for y, colour in ((h, (222, 168, 108)), (h + 0.14, (232, 180, 116)), (h + 0.34, (240, 190, 122))):
        line = stage.profile(y + 0.03, 0.05, 0.25, 2)
        stage.ground(line, colour, mix(colour, (150, 84, 54), 0.3), 0.14, 0.12)
        stage.fill([ribbon(line[::4], 0.01)], (255, 226, 166), soft=0.004, opacity=0.7)
    for x in rng.uniform(0, 1, 3):
        y = h + rng.uniform(0.06, 0.25)
        plants.cactus(stage, x, y, 0.10 + 0.8 * (y - h), 0.12)
    for _ in range(4):
        x, y = rng.uniform(0, 1), rng.uniform(h + 0.2, 1.0)
        plants.rock(stage, (x, y), (0.05 + 0.06 * (y - h), 0.03 + 0.03 * (y - h)), (190, 122, 86))


def _mountain(stage: Stage) -> None:
    stage.paint_sky()
    h, rng = stage.horizon, stage.rng
    for base, tall, far in ((h, 0.26, 0.45), (h + 0.02, 0.18, 0.2)):
        peaks = stage.ridge(base, tall, (112, 126, 152), far, 0.55, 3)
        stage.fill([np.concatenate([peaks, (peaks + (0, 0.03) + rng.normal(0, 0.016, peaks.shape) * (0, 1))[::-1]])],
                   (250, 252, 255), 0.6 * far)  # fmt: skip
        left = [np.array([p, p + (-0.03, 0.14), p + (0.012, 0.10)]) for p in peaks[2:-2:3]]
        stage.fill(left, (240, 246, 255), far, soft=0.004, opacity=0.8)
    stage.finish_distance()
    plants.firs(stage, 16, h + 0.05, 0.13, (48, 78, 82), 0.2, 0.9)
    for y, colour in ((h + 0.05, (222, 232, 246)), (h + 0.25, (240, 245, 252))):
        stage.ground(stage.profile(y, 0.04, 0.3, 2), colour, (196, 212, 238), 0.10, 0.05)
    plants.firs(stage, 3, h + 0.22, 0.34, (40, 70, 72), 0.05, 0.9)
    for _ in range(4):
        x, y = rng.uniform(0, 1), rng.uniform(h + 0.2, 1.0)
        plants.rock(stage, (x, y), (0.05 + 0.10 * (y - h), 0.03 + 0.06 * (y - h)), (116, 120, 132))


HABITATS: tuple[Habitat, ...] = (
    Habitat("lake", True, "at a lake", "on a rock", ("branch", "rock"), "reeds", (0.34, 0.46), _lake),
    Habitat("seashore", True, "at the seashore", "on the sand", ("post", "rock"), "grass", (0.32, 0.42), _seashore),
    Habitat("marsh", True, "in a marsh", "in shallow water", ("reed", "post"), "reeds", (0.30, 0.42), _marsh),
    Habitat("lagoon", True, "at a lagoon", "on the sand", ("branch", "post"), "palm", (0.34, 0.46), _lagoon),
    Habitat("forest", False, "in a forest", "on the ground", ("branch", "branch"), "leaves", (0.50, 0.60), _forest),
    Habitat("meadow", False, "in a meadow", "in the grass", ("post", "branch"), "grass", (0.36, 0.50), _meadow),
    Habitat("desert", False, "in a desert", "on the sand", ("rock", "branch"), "thorns", (0.38, 0.50), _desert),
    Habitat("mountain", False, "in snowy mountains", "on the snow", ("rock", "branch"), "needles",
            (0.40, 0.50), _mountain),
)  # fmt: skip


def perch(stage: Stage, kind: str, foot: np.ndarray) -> None:
    """Paint what a bird perches on, its top at ``foot``."""
    rng, (x, y) = stage.rng, foot
    if kind == "rock":
        plants.rock(stage, (x + rng.uniform(-0.03, 0.03), y + 0.125), (rng.uniform(0.17, 0.24), 0.15))
        plants.rock(stage, (x + rng.choice([-0.22, 0.22]), y + 0.22), (0.14, 0.10))
    elif kind == "post":
        post = np.array([(x - 0.045, y + 0.008), (x + 0.045, y + 0.008), (x + 0.05, 1.05), (x - 0.05, 1.05)])
        stage.fill([post], (128, 104, 82))
        stage.fill([post * (0.4, 1) + (0.6 * x + 0.03, 0)], DARK, soft=0.008, opacity=0.45)
        stage.fill([ellipse((x, y + 0.008), (0.045, 0.014))], (172, 148, 122))
    elif kind == "reed":
        lean = rng.uniform(-0.08, 0.08)
        for dx in (-0.05, 0.0, 0.06):
            stalk = [(x + dx - lean, 1.05), (x + dx, y - 0.02), (x + 1.6 * dx + 0.5 * lean, y - 0.2)]
            stage.fill([ribbon(stalk, [0.022, 0.018, 0.004])], mix(stage.season.grass, DARK, 0.2))
        bent = [(x - 0.1, y + 0.012), (x, y + 0.008), (x + 0.12, y + 0.006)]
        stage.fill([ribbon(bent, [0.012, 0.018, 0.01])], mix(stage.season.grass, BARK, 0.5))
    else:
        _branch(stage, foot)


def _branch(stage: Stage, foot: np.ndarray) -> None:
    """A branch from one edge of the frame, through under ``foot``, with a few leaves."""
    rng, (x, y) = stage.rng, foot
    side, rise = rng.choice([-1.0, 1.0]), rng.uniform(-0.10, 0.14)
    start, end = (x - side * 1.0, y + 0.01 + rise), (x + side * 0.42, y - 0.3 * rise)
    path = [start, (x - side * 0.2, y + 0.022 + 0.2 * rise), (x + side * 0.08, y + 0.014), end]
    twig, leaves = plants.spray(
        rng, (x + side * 0.15, y + 0.015), (x + side * 0.5, y + rng.uniform(-0.2, 0.2)), (0.08, 0.035), 0.06
    )
    stage.fill([ribbon(path, [0.075, 0.045, 0.034, 0.012]), twig], mix(BARK, DARK, 0.25))
    stage.fill(
        [ribbon(np.array(path) - (0, 0.007), [0.03, 0.018, 0.013, 0.004])],
        mix(BARK, PALE, 0.3),
        soft=0.003,
        opacity=0.8,
    )
    if not stage.season.snow:
        stage.fill(leaves, stage.season.leaves[0])
    else:
        stage.fill(
            [smooth(np.array(path) - (0, 0.017), closed=False)[::3], ribbon(np.array(path) - (0, 0.014), 0.012)], PALE
        )
