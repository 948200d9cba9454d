"""A bird as a list of coloured shapes, back to front."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from genaug.data.toybirds_art import anatomy
from genaug.data.toybirds_art.anatomy import Skeleton, skeleton
from genaug.data.toybirds_art.canvas import Canvas, Polygon, ellipse, mix, ribbon
from genaug.data.toybirds_art.species import CUE_SIZE, INDIVIDUAL_JITTER, Species

BLACK, WHITE = np.zeros(3, np.float32), np.full(3, 255, np.float32)


@dataclass(frozen=True, slots=True)
class Pose:
    """How one bird holds itself; angles in degrees.

    Attributes:
        kind: ``perched``, ``standing``, ``swimming`` or ``flying``.
        left: Whether it looks to the left.
        tilt: Turn of the body away from the genus' usual tilt.
        nod: Turn of the head, bill up.
        stretch: Turn of the neck, forward.
        stroke: Where the wings of a flying bird are: -1 down, 1 up.
        gape: Opening of the bill.
    """

    kind: str
    left: bool
    tilt: float
    nod: float
    stretch: float
    stroke: float
    gape: float


@dataclass(frozen=True, slots=True)
class Shape:
    """Polygons painted with one colour.

    Attributes:
        polygons: Their union is painted.
        colour: RGB.
        on: Name of the shape that it is painted on: it shows nowhere else.
        name: Name for shapes painted on it; a named shape gets an outline in a drawing.
        soft: Blur of its edge, in the bird's units.
        opacity: 0..1.
        drawn: Whether a pencil drawing shows it.
    """

    polygons: list[Polygon]
    colour: np.ndarray
    on: str = ""
    name: str = ""
    soft: float = 0.0
    opacity: float = 1.0
    drawn: bool = True


Palette = dict[str, np.ndarray]


def individual_palette(species: Species, rng: np.random.Generator) -> Palette:
    """The colours of one bird of ``species``: each differs a little from bird to bird."""
    palette = species.palette()
    shift = rng.normal(0, INDIVIDUAL_JITTER, (len(palette), 3)) + rng.normal(0, INDIVIDUAL_JITTER, (1, 3))
    return {
        part: np.clip(np.asarray(rgb) + delta, 8, 252).astype(np.float32)
        for (part, rgb), delta in zip(palette.items(), shift, strict=True)
    }


def bird_shapes(species: Species, palette: Palette, pose: Pose) -> list[Shape]:
    """The shapes of one bird, back to front, in the bird's frame (looking right)."""
    genus, flying = species.genus, pose.kind == "flying"
    tilt = np.radians((0.25 * genus.tilt if flying else genus.tilt) + pose.tilt)
    if pose.kind == "swimming":
        tilt = np.radians(0.5 * pose.tilt)
    stretch = np.radians(genus.neck_angle * (0.45 if flying else 1.0) - pose.stretch)
    bones = skeleton(genus, tilt, np.radians(pose.nod), stretch)
    spread = 1.35 if flying else 1.0
    return [
        *(_spread_wing(species, bones, palette, pose, near=False) if flying else ()),
        *_tail(species, bones, palette, spread),
        *_legs(species, bones, palette, pose),
        *_trunk(species, bones, palette),
        *_head(species, bones, palette, np.radians(pose.gape)),
        *(_spread_wing(species, bones, palette, pose, near=True) if flying else _folded_wing(species, bones, palette)),
    ]


def _tail(species: Species, bones: Skeleton, palette: Palette, spread: float) -> Iterator[Shape]:
    outline, shafts = anatomy.tail(bones, species, spread)
    colour = palette["tail"]
    yield Shape([outline], colour, name="tail")
    edge = outline + bones.body.place([(0.0, 0.07)])[0]
    yield Shape([edge], mix(colour, WHITE, 0.25), on="tail", soft=0.03, opacity=0.5, drawn=False)
    yield Shape(shafts, mix(colour, BLACK, 0.45), on="tail", opacity=0.7)


def _legs(species: Species, bones: Skeleton, palette: Palette, pose: Pose) -> Iterator[Shape]:
    genus, colour = species.genus, palette["leg"]
    if pose.kind == "swimming" or (pose.kind == "flying" and genus.leg < 0.8):
        return
    length = genus.leg * species.leg
    for near in (False, True):
        polygons = anatomy.leg(bones, genus, length, 0.07 * (1 if near else -1), near)
        if pose.kind == "flying":
            # Long legs trail behind the tail.
            hip = bones.body.place([(-0.35, -0.2 * genus.depth)])[0]
            turn = anatomy.Frame(hip, bones.body.angle - np.radians(78 if near else 84))
            top = polygons[0].max(axis=0)
            polygons = [turn.place(0.85 * (polygon - top)) for polygon in polygons]
        yield Shape(polygons, colour if near else mix(colour, BLACK, 0.3), name="leg")


def _trunk(species: Species, bones: Skeleton, palette: Palette) -> Iterator[Shape]:
    d, place = bones.depth, bones.body.place
    yield Shape(anatomy.trunk(bones), palette["back"], name="trunk")
    rump = place(ellipse((-0.46, 0.16 * d), (0.22, 0.20 * d), -0.2))
    yield Shape([rump], palette["rump"], on="trunk", soft=0.03)
    belly = place(ellipse((-0.06, -0.42 * d), (0.52, 0.34 * d)))
    yield Shape([belly], palette["belly"], on="trunk", soft=0.03)
    low = place([(0.30, -0.30 * d)])[0]
    front = bones.shoulder + 0.45 * (bones.head.origin - bones.shoulder)
    ahead = np.array([0.5 * d, -0.1])
    path = [front + 0.2 * ahead, bones.shoulder + 0.5 * ahead, low + 0.1 * ahead, place([(0.02, -0.46 * d)])[0]]
    breast = ribbon(path, [0.34 * d, 0.62 * d, 0.62 * d, 0.3 * d])
    yield Shape([breast], palette["breast"], on="trunk", soft=0.025)
    shade = place(ellipse((-0.08, -0.62 * d), (0.66, 0.24 * d)))
    yield Shape([shade], BLACK, on="trunk", soft=0.08, opacity=0.34, drawn=False)
    light = place(ellipse((0.05, 0.5 * d), (0.45, 0.12 * d)))
    yield Shape([light], WHITE, on="trunk", soft=0.07, opacity=0.28, drawn=False)


def _head(species: Species, bones: Skeleton, palette: Palette, gape: float) -> Iterator[Shape]:
    r, k = bones.radius, CUE_SIZE
    if species.crest:
        yield Shape([anatomy.crest(bones, species.crest * k)], palette["crest"], name="crest")
    yield Shape([anatomy.head_part(bones, anatomy.FACE)], palette["face"], on="trunk", soft=0.05 * r)
    yield Shape([anatomy.head_part(bones, anatomy.THROAT)], palette["throat"], on="trunk", soft=0.08 * r)
    if species.collar:
        yield Shape([_collar(bones, 0.42 * r * k)], palette["collar"], on="trunk", soft=0.04 * r)
    yield Shape([anatomy.head_part(bones, anatomy.CROWN)], palette["crown"], on="trunk", soft=0.05 * r)
    if species.mask:
        yield Shape([anatomy.head_part(bones, anatomy.CHEEK)], palette["mask"], on="trunk", soft=0.03 * r)
    if species.brow:
        brow = ribbon(
            np.array([(0.9, 0.3), (0.3, 0.52), (-0.4, 0.46), (-1.0, 0.06)]) * r, np.array([0.1, 0.3, 0.3, 0.12]) * r * k
        )
        yield Shape([bones.head.place(brow)], palette["brow"], on="trunk")
    light = bones.head.place(ellipse((0.1 * r, 0.8 * r), (0.6 * r, 0.22 * r)))
    yield Shape([light], WHITE, on="trunk", soft=0.16 * r, opacity=0.3, drawn=False)
    upper, lower = anatomy.bill(bones, species, gape)
    yield Shape([lower], mix(palette["bill"], BLACK, 0.28), name="bill")
    yield Shape([upper], palette["bill"], name="bill")
    yield from _eye(species, bones, palette)


def _collar(bones: Skeleton, width: float) -> Polygon:
    """A band across the neck, just below the head."""
    along = bones.head.origin - bones.shoulder
    along = along / max(float(np.hypot(*along)), 1e-6)
    across = np.array([along[1], -along[0]]) * 1.6 * bones.radius
    middle = bones.head.origin - along * 1.12 * bones.radius
    return ribbon([middle - across, middle - along * 0.06, middle + across], width)


def _eye(species: Species, bones: Skeleton, palette: Palette) -> Iterator[Shape]:
    r, place = bones.radius, bones.head.place
    centre = np.array([0.36, 0.14]) * r
    size = (0.17 + 0.02 / r * 0.2) * r
    if species.ring:
        yield Shape([place(ellipse(centre, (size * (1 + 0.85 * CUE_SIZE),) * 2))], palette["ring"], name="ring")
    else:
        yield Shape([place(ellipse(centre, (size * 1.25,) * 2))], mix(palette["face"], WHITE, 0.35), drawn=False)
    yield Shape([place(ellipse(centre, (size, size)))], palette["eye"], name="eye")
    yield Shape([place(ellipse(centre + 0.35 * size * np.array([0.6, 1.0]), (0.3 * size,) * 2))], WHITE)


def _wing(
    parts: dict[str, list[Polygon]], species: Species, palette: Palette, shade: float, name: str
) -> Iterator[Shape]:
    """Paint a wing, darkened by ``shade``."""
    colour = mix(palette["wing"], BLACK, shade)
    tip = mix(palette["tip"], BLACK, shade)
    yield Shape(parts["wing"], colour, name=name)
    light = [polygon + (0.02, 0.12) for polygon in parts["wing"]]
    yield Shape(light, mix(colour, WHITE, 0.3), on=name, soft=0.06, opacity=0.45, drawn=False)
    yield Shape(parts["tip"], tip, on=name, soft=0.04, opacity=0.85)
    yield Shape(parts["shafts"], mix(colour, BLACK, 0.5), on=name, opacity=0.7)
    yield Shape(parts["scales"], mix(colour, WHITE, 0.35), on=name, opacity=0.35, soft=0.006, drawn=False)
    for bar in parts["bars"][: species.bars]:
        yield Shape([ribbon(bar, 0.07 * CUE_SIZE, steps=1)], mix(palette["bars"], BLACK, shade), on=name, name="bar")


def _folded_wing(species: Species, bones: Skeleton, palette: Palette) -> Iterator[Shape]:
    parts = anatomy.folded_wing(bones)
    shadow = [polygon + (0.0, -0.05) for polygon in parts["wing"]]
    yield Shape(shadow, BLACK, on="trunk", soft=0.03, opacity=0.32, drawn=False)
    yield from _wing(parts, species, palette, 0.0, "wing")


def _spread_wing(species: Species, bones: Skeleton, palette: Palette, pose: Pose, near: bool) -> Iterator[Shape]:
    if pose.stroke >= 0:
        turn = 78 + 30 * pose.stroke + (12 if near else -16)
    else:
        turn = -66 + 26 * pose.stroke - (24 if near else 0)
    parts = anatomy.spread_wing(bones, np.radians(turn), 1.12 if near else 1.0)
    yield from _wing(parts, species, palette, 0.0 if near else 0.28, "wing" if near else "far")


@dataclass(frozen=True, slots=True)
class Placement:
    """Takes the bird's frame to the picture's: mirrored if it looks left, scaled, moved."""

    scale: float
    left: bool
    x: float
    y: float

    def __call__(self, points: Polygon) -> Polygon:
        """Points of the picture, in fractions of its side."""
        sign = -1.0 if self.left else 1.0
        return np.stack([self.x + sign * self.scale * points[:, 0], self.y - self.scale * points[:, 1]], axis=1)


def extent(shapes: list[Shape]) -> tuple[np.ndarray, np.ndarray]:
    """Lower left and upper right corner of the shapes that are not painted on another."""
    points = np.concatenate([polygon for shape in shapes if not shape.on for polygon in shape.polygons])
    return points.min(axis=0), points.max(axis=0)


def paint_bird(canvas: Canvas, shapes: list[Shape], place: Placement) -> None:
    """Paint the shapes on an empty canvas."""
    masks: dict[str, np.ndarray] = {}
    for shape in shapes:
        polygons = [place(polygon) for polygon in shape.polygons]
        clip = masks[shape.on] if shape.on else None
        canvas.fill(polygons, shape.colour, shape.soft * place.scale, shape.opacity, clip)
        if shape.name in ("trunk", "wing", "far", "tail"):
            masks[shape.name] = canvas.coverage(polygons)
