"""From a composition to pixels: scenery, bird, plants in front, light."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from genaug.data.toybirds_art import sketch as pencil
from genaug.data.toybirds_art.bird import Placement, Shape, bird_shapes, extent, individual_palette, paint_bird
from genaug.data.toybirds_art.canvas import Canvas, ellipse, mix, ribbon
from genaug.data.toybirds_art.composition import Composition, compose
from genaug.data.toybirds_art.cover import paint_cover
from genaug.data.toybirds_art.habitat import HABITATS, perch, pool
from genaug.data.toybirds_art.species import SPECIES
from genaug.data.toybirds_art.stage import LIGHTS, SEASONS, Stage

#: Sides in pixels that a picture can have.
IMAGE_SIZES = range(32, 257)
#: Plants may hide this much of a bird, at most.
MAX_HIDDEN = 0.3
#: Share of a bird below the water it swims on.
_DRAUGHT = 0.26


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A finished picture.

    Attributes:
        image: (size, size, 3) uint8 RGB.
        mask: (size, size) uint8: 255 where the bird is seen, else 0.
        caption: One sentence.
        composition: What it shows.
    """

    image: np.ndarray
    mask: np.ndarray
    caption: str
    composition: Composition


def render(species: int, habitat: int, rng: np.random.Generator, size: int = 64, sketch: bool = False) -> Scene:
    """Draw one picture; the same arguments and generator state give the same picture.

    Args:
        species: Index into ``SPECIES``.
        habitat: Index into ``HABITATS``; of a sketch it decides only whether the bird may swim.
        rng: Source of everything that varies.
        size: Side in pixels, 32 to 256.
        sketch: Draw in pencil on paper instead.

    Raises:
        ValueError: a size or an index is out of range.

    Example:
        >>> scene = render(0, 4, np.random.default_rng(0), size=48)
        >>> scene.image.shape, scene.mask.shape, bool(scene.mask.any())
        ((48, 48, 3), (48, 48), True)
    """
    check_size(size)
    for name, index, count in (("species", species, len(SPECIES)), ("habitat", habitat, len(HABITATS))):
        if not 0 <= index < count:
            raise ValueError(f"{name}={index}: there are {count}, so give 0 to {count - 1}")
    return paint(compose(species, habitat, rng, sketch), size)


def check_size(size: int) -> None:
    """Refuse a size that the drawings are not made for.

    Raises:
        ValueError: ``size`` is not in :data:`IMAGE_SIZES`.
    """
    if size not in IMAGE_SIZES:
        raise ValueError(
            f"image_size={size}: toybirds are drawn from {IMAGE_SIZES[0]} to {IMAGE_SIZES[-1]} px;"
            " resize in a transform for other sizes"
        )


def paint(composition: Composition, size: int, bird: bool = True) -> Scene:
    """Draw ``composition``; ``bird=False`` leaves the bird out and everything else as it is."""
    # Whole multiples let INTER_AREA average equal blocks; 256 keeps thin parts (legs, twigs) at 32 px.
    side = size * max(3, -(-256 // size))
    palette = individual_palette(SPECIES[composition.species], np.random.default_rng(composition.seeds[1]))
    shapes = bird_shapes(SPECIES[composition.species], palette, composition.pose)
    place, foot = _placement(shapes, composition)
    draw = _paint_sketch if composition.habitat is None else _paint_photo
    picture, seen = draw(composition, side, shapes, place, foot, bird)
    picture = cv2.resize(np.ascontiguousarray(np.moveaxis(picture, 0, 2)), (size, size), interpolation=cv2.INTER_AREA)
    if composition.habitat is not None:
        noise = np.random.default_rng(composition.seeds[2]).normal(0, 2.2, (size, size, 1))
        picture = _grade(picture) + noise
    seen = cv2.resize(seen, (size, size), interpolation=cv2.INTER_AREA)
    image = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return Scene(image, np.where(seen >= 0.5, 255, 0).astype(np.uint8), composition.caption, composition)


def _placement(shapes: list[Shape], composition: Composition) -> tuple[Placement, np.ndarray]:
    """Where the bird goes in the frame, and the point of the frame where it stands or floats."""
    low, high = extent(shapes)
    feet = [polygon for shape in shapes if shape.name == "leg" for polygon in shape.polygons[1:]]
    foot = np.concatenate(feet).mean(axis=0) if feet else 0.5 * (low + high)
    if feet:
        foot[1] = np.concatenate(feet)[:, 1].min() + 0.03
    if composition.support == "water":
        trunk = next(shape for shape in shapes if shape.name == "trunk")
        bottom, top = (np.concatenate(trunk.polygons)[:, 1].min(), trunk.polygons[0][:, 1].max())
        foot = np.array([0.0, bottom + _DRAUGHT * (top - bottom)])
    scale = composition.size / float((high - low).max())
    left = composition.pose.left
    back, ahead = (foot[0] - low[0], high[0] - foot[0]) if not left else (high[0] - foot[0], foot[0] - low[0])
    x = _within(composition.spot[0], scale * back + 0.02, 0.98 - scale * ahead)
    up, down = scale * (high[1] - foot[1]), scale * (foot[1] - low[1])
    lowest, highest = {"air": (0.2, 0.6), "water": (0.66, 0.86), "ground": (0.79, 0.93)}.get(
        composition.support, (0.58, 0.84)
    )
    y = _within(composition.spot[1], max(lowest, up + 0.02), min(highest, 0.98 - down))
    sign = -1.0 if left else 1.0
    return Placement(scale, left, x - sign * scale * foot[0], y + scale * foot[1]), np.array([x, y])


def _within(share: float, low: float, high: float) -> float:
    """The point at ``share`` between two limits, or halfway when they cross."""
    return low + share * (high - low) if high > low else 0.5 * (low + high)


def _paint_photo(
    composition: Composition, side: int, shapes: list[Shape], place: Placement, foot: np.ndarray, bird: bool
) -> tuple[np.ndarray, np.ndarray]:
    stage = _paint_stage(composition, side, foot)
    layer = Canvas(side)
    paint_bird(layer, shapes, place)
    if composition.support == "water":
        _submerge(layer, foot[1], np.random.default_rng(composition.seeds[0]))
    cover = _cover(composition, stage, layer.alpha, foot)
    picture = stage.canvas.rgb
    if bird:
        layer.rgb *= _bird_light(stage)[:, None, None]
        picture = layer.over(picture)
    if cover is not None:
        picture = cover.over(picture)
    seen = layer.alpha if cover is None else layer.alpha * (1 - cover.alpha)
    return picture, seen


def _paint_stage(composition: Composition, side: int, foot: np.ndarray) -> Stage:
    """The scenery with what carries the bird, its shadow or its ripples."""
    assert composition.habitat is not None
    habitat = HABITATS[composition.habitat]
    rng = np.random.default_rng(composition.seeds[0])
    afloat = composition.support == "water"
    stage = Stage(side, rng, LIGHTS[composition.light], SEASONS[composition.season], composition.horizon, afloat)
    habitat.paint(stage)
    shallow = habitat.ground == "in shallow water"
    if afloat or (composition.support == "ground" and shallow):
        if shallow:
            pool(stage, ellipse(foot + (0, 0.03), (0.95 * composition.size, 0.14)))
        _ripples(stage, foot, composition.size)
    elif composition.support == "ground":
        shadow = ellipse(foot + (0.02, 0.006), (0.34 * composition.size, 0.035))
        stage.canvas.fill([shadow], stage.lit((30, 30, 44)), soft=0.014, opacity=0.45)
    elif composition.support != "air":
        perch(stage, composition.support, foot)
    return stage


def _ripples(stage: Stage, foot: np.ndarray, size: float) -> None:
    """A dark mirror image below the bird, and rings around it."""
    mirror = ellipse(foot + (0, 0.06), (0.40 * size, 0.07))
    stage.canvas.fill([mirror], stage.lit((24, 40, 52)), soft=0.018, opacity=0.5)
    for reach, lift in ((0.52, 0.012), (0.66, 0.04), (0.8, 0.075)):
        ring = [
            (foot[0] - reach * size, foot[1] + lift),
            (foot[0], foot[1] + 1.6 * lift + 0.02),
            (foot[0] + reach * size, foot[1] + lift),
        ]
        stage.canvas.fill(
            [ribbon(ring, [0.001, 0.007, 0.001])], mix(stage.light.low, (255, 255, 255), 0.4), opacity=0.6
        )


def _submerge(layer: Canvas, waterline: float, rng: np.random.Generator) -> None:
    """Hide what is under water."""
    x = np.linspace(0, 2 * np.pi, layer.side)
    surface = waterline + 0.004 * np.sin(9 * x + rng.uniform(0, 6)) + 0.002 * np.sin(23 * x)
    rows = (np.arange(layer.side) + 0.5) / layer.side
    above = np.clip((surface[None, :] - rows[:, None]) * layer.side + 0.5, 0, 1).astype(np.float32)
    layer.alpha *= above
    layer.rgb *= above


def _bird_light(stage: Stage) -> np.ndarray:
    """What the light multiplies the bird's colours with: a little less tinted than the scenery, so that it reads."""
    return mix(stage.light.tint, (1.0, 1.0, 1.0), 0.4)


def _cover(composition: Composition, stage: Stage, bird: np.ndarray, foot: np.ndarray) -> Canvas | None:
    """Plants in front of the bird; of three drafts, the first that hides no more than :data:`MAX_HIDDEN` of it."""
    if not composition.cover:
        return None
    assert composition.habitat is not None
    rng = np.random.default_rng(composition.seeds[2])
    for _ in range(3):
        layer = paint_cover(stage, HABITATS[composition.habitat].cover, rng, max(float(foot[1]), 0.66))
        if float((bird * layer.alpha).sum()) <= MAX_HIDDEN * float(bird.sum()):
            return layer
    return None


def _grade(picture: np.ndarray) -> np.ndarray:
    """Darker corners and a little more contrast, as a lens and a camera make them."""
    side = len(picture)
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    distance = axis[None, :] ** 2 + axis[:, None] ** 2
    picture = picture * (1.03 - 0.32 * distance[..., None])
    return picture + 0.10 * (picture - 118)


def _paint_sketch(
    composition: Composition, side: int, shapes: list[Shape], place: Placement, foot: np.ndarray, bird: bool
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(composition.seeds[0])
    paper = pencil.paint_paper(side, rng)
    support = pencil.draw_support(composition.support, foot, rng, side)
    ink, seen = pencil.draw_bird(shapes, place, side, rng)
    if composition.support == "water":
        # Pencil draws no water: the lines of the bird simply stop at it.
        above = (np.arange(side) < foot[1] * side)[:, None]
        ink, seen = ink * above, seen * above
    ink = np.maximum(ink, support * (1 - seen)) if bird else support * (1 - seen)
    return paper + ink * (np.asarray(pencil.PENCIL, np.float32)[:, None, None] - paper), seen
