"""Where the parts of a bird are: outlines in the bird's own frame.

Lengths are in units of the body (breast to rump), x forward (the way the bird looks), y up, origin in the middle of
the body. A :class:`Frame` places a part: the body's frame is turned by the body's tilt, the head's by the head's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genaug.data.toybirds_art.canvas import Polygon, ellipse, ribbon, smooth
from genaug.data.toybirds_art.species import Genus, Species


@dataclass(frozen=True, slots=True)
class Frame:
    """A turned and moved coordinate system: ``place`` takes its points to the bird's frame."""

    origin: np.ndarray
    angle: float

    def place(self, points: np.ndarray | list[tuple[float, float]]) -> Polygon:
        """Points of this frame in the bird's frame: (N, 2)."""
        points = np.asarray(points, np.float64)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return self.origin + points @ np.array([[cos, sin], [-sin, cos]])


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The frames that a pose gives: of the body, of the head, and the points that the neck joins."""

    body: Frame
    head: Frame
    shoulder: np.ndarray
    depth: float
    radius: float


def skeleton(genus: Genus, tilt: float, nod: float, stretch: float) -> Skeleton:
    """The frames of a bird whose body is tilted by ``tilt`` and head by ``nod`` radians.

    Args:
        genus: The body plan.
        tilt: Angle of the body, head up.
        nod: Angle of the head, bill up.
        stretch: Direction of the neck above the horizontal in radians.
    """
    body = Frame(np.zeros(2), tilt)
    shoulder = body.place([(0.30, 0.10 * genus.depth / 0.6)])[0]
    head = shoulder + genus.neck * np.array([np.cos(stretch), np.sin(stretch)])
    return Skeleton(body, Frame(head, nod), shoulder, genus.depth, genus.head)


def trunk(bones: Skeleton) -> list[Polygon]:
    """Body, neck and head, whose union is the silhouette without the limbs."""
    d = bones.depth
    egg = [(0.50, -0.02), (0.40, 0.30 * d), (0.14, 0.47 * d), (-0.22, 0.36 * d), (-0.54, 0.12 * d)]
    egg += [(-0.56, -0.06 * d), (-0.30, -0.38 * d), (0.04, -0.53 * d), (0.34, -0.42 * d)]
    root = bones.body.place([(0.14, -0.02), (0.32, 0.06 * d / 0.6)])
    path = np.stack([root[0], 0.6 * root[1] + 0.4 * bones.shoulder, _bend(bones), bones.head.origin])
    neck = ribbon(path, [0.80 * d, 0.66 * d, max(0.9 * bones.radius, 0.2 * d), 1.45 * bones.radius])
    head = bones.head.place(ellipse((0, 0), (1.05 * bones.radius, bones.radius)))
    return [bones.body.place(smooth(egg)), neck, head]


def _bend(bones: Skeleton) -> np.ndarray:
    """A point of the neck, bowed forward at the base and back at the head when the neck is long."""
    along = bones.head.origin - bones.shoulder
    length = float(np.hypot(*along))
    ahead = np.array([along[1], -along[0]]) / max(length, 1e-6)
    return bones.shoulder + 0.55 * along + ahead * 0.16 * max(length - 0.25, 0)


def head_part(bones: Skeleton, points: list[tuple[float, float]]) -> Polygon:
    """A smooth closed outline in head radii."""
    return bones.head.place(smooth(np.asarray(points) * bones.radius))


CROWN = [(1.15, 0.42), (0.7, 1.2), (-0.3, 1.35), (-1.1, 0.85), (-1.25, 0.1), (-0.75, 0.12), (-0.1, 0.48), (0.6, 0.46)]
FACE = [(1.2, 0.6), (0.2, 1.3), (-1.0, 0.9), (-1.25, -0.1), (-0.9, -0.95), (0.0, -1.2), (0.9, -0.9), (1.25, -0.2)]
THROAT = [(1.15, -0.18), (0.5, -0.36), (0.1, -0.7), (0.0, -1.35), (0.5, -1.7), (1.2, -1.2)]
CHEEK = [(1.0, 0.1), (0.5, 0.36), (-0.2, 0.32), (-0.78, -0.05), (-0.5, -0.5), (0.2, -0.52), (0.85, -0.3)]


def crest(bones: Skeleton, length: float) -> Polygon:
    """Three pointed feathers at the back of the crown."""
    k = length
    outline = [
        (0.55, 0.74),
        (0.15, 1.0 + 0.28 * k),
        (-0.35 - 0.45 * k, 1.0 + 0.62 * k),
        (-0.42 - 0.1 * k, 0.98 + 0.1 * k),
    ]
    outline += [
        (-0.85 - 0.55 * k, 0.85 + 0.28 * k),
        (-0.75 - 0.12 * k, 0.62),
        (-1.0 - 0.42 * k, 0.35),
        (-0.8, 0.2),
        (0.2, 0.5),
    ]
    return bones.head.place(np.asarray(outline) * bones.radius)


def bill(bones: Skeleton, species: Species, gape: float) -> tuple[Polygon, Polygon]:
    """Upper and lower half of the bill; ``gape`` opens it, in radians."""
    genus, r = species.genus, bones.radius
    length, depth = genus.bill_size[0] * species.bill, genus.bill_size[1]
    # Height of the upper and lower edge along the bill, as fractions of the depth.
    upper, lower = {
        "cone": ([0.62, 0.52, 0.28, 0.02], [-0.42, -0.34, -0.14, 0.0]),
        "dagger": ([0.52, 0.42, 0.24, 0.02], [-0.44, -0.36, -0.20, -0.02]),
        "needle": ([0.55, 0.40, 0.28, 0.10], [-0.45, -0.36, -0.24, -0.04]),
        "flat": ([0.80, 0.30, 0.14, 0.06], [-0.40, -0.42, -0.50, -0.36]),
        "stout": ([0.60, 0.58, 0.44, -0.06], [-0.42, -0.38, -0.28, -0.10]),
    }[genus.bill]
    along = np.array([0.0, 0.35, 0.7, 1.0])
    x = 0.80 * r + along * (length + 0.15 * r)
    drop = -species.curve * 0.34 * length * along**2
    # The halves meet in a line that ends in the point.
    middle = np.linspace(0.04, 0.5 * (upper[-1] + lower[-1]), 4) * depth + drop
    halves = []
    for edge, turn in ((upper, 0.3 * gape), (lower, -0.7 * gape)):
        rim = np.stack([x, np.asarray(edge) * depth + drop], axis=1)
        inner = np.stack([x, middle], axis=1)[::-1]
        outline = np.concatenate([smooth(rim, closed=False), smooth(inner, closed=False)])
        base = np.array([0.8 * r, 0.0])
        halves.append(bones.head.place(Frame(base, turn).place(outline - base)))
    return halves[0], halves[1]


def tail(bones: Skeleton, species: Species, spread: float) -> tuple[Polygon, list[Polygon]]:
    """The tail and the shafts of its feathers; ``spread`` widens it."""
    length, width = species.genus.tail[0] * species.tail, species.genus.tail[1] * spread
    d, end = bones.depth, -0.46 - species.genus.tail[0] * species.tail
    notch = end + species.fork * length
    outline = [(-0.34, 0.20 * d), (-0.56, 0.10 * d + 0.02), (end, 0.62 * width), (notch, 0.04 * width)]
    outline += [(end - 0.02, -0.52 * width), (-0.55, -0.10 * d), (-0.38, -0.2 * d)]
    frame = Frame(bones.body.place([(0.0, 0.0)])[0], bones.body.angle - 0.06)
    ends = [(0.9 * end + 0.1 * notch, 0.30 * width), (notch * 0.98, 0.04 * width), (0.9 * end, -0.26 * width)]
    shafts = [frame.place(ribbon([(-0.5, 0.05 * y), (x, y)], [0.012, 0.02])) for x, y in ends]
    return frame.place(np.asarray(outline)), shafts


def leg(bones: Skeleton, genus: Genus, length: float, swing: float, near: bool) -> list[Polygon]:
    """One leg with its foot, hanging straight down from the belly; ``swing`` bends the knee (radians)."""
    hip = bones.body.place([(-0.02 if near else 0.08, -0.36 * genus.depth)])[0]
    foot = hip + np.array([0.02 + swing * length, -length])
    knee = hip + np.array([-0.03 * length - 0.05, -0.46 * length])
    thick = 0.034 + 0.022 * (genus.depth - 0.5)
    shin = ribbon([hip + (0, 0.1), knee, foot], [2.6 * thick, 1.15 * thick, thick, thick])
    reach = 0.13 + 0.06 * genus.head
    toes = [(reach, -0.02), (0.8 * reach, -0.055), (-0.55 * reach, -0.03)]
    feet = [ribbon([foot + (0, 0.01), foot + np.array(toe)], [thick, 0.5 * thick]) for toe in toes]
    if genus.swims:
        feet.append(np.stack([foot, foot + (reach, -0.02), foot + (0.75 * reach, -0.075), foot + (-0.02, -0.05)]))
    return [shin, *feet]


def folded_wing(bones: Skeleton) -> dict[str, list[Polygon]]:
    """Outlines of the parts of a wing at rest: ``wing``, ``tip``, ``bars``, ``shafts`` and ``scales``."""
    d, place = bones.depth, bones.body.place
    outline = [(0.34, 0.10 * d), (0.20, 0.36 * d), (-0.12, 0.40 * d), (-0.46, 0.20 * d), (-0.82, 0.02 * d)]
    outline += [(-0.56, -0.10 * d), (-0.22, -0.20 * d), (0.12, -0.20 * d), (0.30, -0.08 * d)]
    primaries = [(-0.30, 0.12 * d), (-0.50, 0.16 * d), (-0.84, 0.02 * d), (-0.56, -0.12 * d), (-0.28, -0.08 * d)]
    bars = [[(0.06 - x, 0.40 * d), (0.13 - x, 0.10 * d), (0.06 - x, -0.21 * d)] for x in (0.02, 0.22)]
    shafts = [
        [(-0.18, y * d), (-0.46, (0.5 * y + 0.05) * d), (-0.74, (0.15 * y + 0.02) * d)] for y in (0.24, 0.12, 0.0, -0.1)
    ]
    scales = [
        ellipse((x, y * d), (0.055, 0.03), -0.4) for x, y in ((0.2, 0.14), (0.16, -0.02), (0.1, 0.26), (0.02, 0.1))
    ]
    return {
        "wing": [place(smooth(outline))],
        "tip": [place(smooth(primaries))],
        "bars": [place(smooth(bar, closed=False)) for bar in bars],
        "shafts": [place(ribbon(shaft, [0.016, 0.012, 0.006])) for shaft in shafts],
        "scales": [place(scale) for scale in scales],
    }


def spread_wing(bones: Skeleton, raise_: float, span: float) -> dict[str, list[Polygon]]:
    """Outlines of the parts of a wing in flight, raised by ``raise_`` radians (0 to pi up, else down)."""
    root = bones.body.place([(0.06, 0.10 * bones.depth)])[0]
    frame, ahead = Frame(root, raise_), np.sign(np.sin(raise_))

    def place(points: list[tuple[float, float]]) -> Polygon:
        # Along the span, then across it: the leading edge (c < 0) is ahead of the bird, wing up or down.
        return frame.place([(s * span, c * span * ahead) for s, c in points])

    lead = [(-0.06, -0.24), (0.14, -0.27), (0.36, -0.30), (0.60, -0.22), (0.84, -0.06), (1.0, 0.14)]
    trail = [(0.90, 0.15), (0.90, 0.22), (0.79, 0.20), (0.76, 0.29), (0.65, 0.25), (0.60, 0.33), (0.48, 0.27)]
    trail += [(0.42, 0.33), (0.30, 0.26), (0.22, 0.31), (0.08, 0.24), (-0.04, 0.26)]
    outline = np.concatenate([smooth(lead, closed=False), trail])
    tip = [(0.50, -0.02), (0.80, -0.1), (1.05, 0.14), (0.8, 0.34), (0.55, 0.36)]
    bars = [[(-0.02, c), (0.25, c - 0.03), (0.56, c + 0.02), (0.72, c + 0.04)] for c in (0.02, 0.13)]
    ends = ((0.90, 0.16), (0.77, 0.22), (0.62, 0.27), (0.44, 0.27), (0.25, 0.25))
    shafts = [[(0.55 * s + 0.12, -0.06), (s, c)] for s, c in ends]
    return {
        "wing": [place(outline.tolist())],
        "tip": [place(smooth(tip).tolist())],
        "bars": [place(smooth(bar, closed=False).tolist()) for bar in bars],
        "shafts": [place(ribbon(shaft, [0.008, 0.014]).tolist()) for shaft in shafts],
        "scales": [],
    }
