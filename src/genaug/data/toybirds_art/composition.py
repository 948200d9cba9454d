"""What a picture shows, decided before anything is painted: cheap, and enough for its caption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genaug.data.toybirds_art.bird import Pose
from genaug.data.toybirds_art.habitat import HABITATS
from genaug.data.toybirds_art.species import SPECIES, Species
from genaug.data.toybirds_art.stage import LIGHTS, SEASONS

#: Smallest and largest long side of the bird's box, as a fraction of the frame.
BIRD_SIZE = (0.4, 0.75)
#: Share of pictures with plants in front of the bird.
COVER_SHARE = 0.5
#: Share of pictures taken at dawn, noon, dusk and night.
LIGHT_SHARES = (0.25, 0.40, 0.25, 0.10)

#: In the order of the index ``2 * waterbird + water``.
GROUPS = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")


@dataclass(frozen=True, slots=True)
class Composition:
    """Everything a picture shows.

    Attributes:
        species: Index into ``SPECIES``.
        habitat: Index into ``HABITATS``; None for a sketch.
        light: Index into ``LIGHTS``.
        season: Index into ``SEASONS``.
        pose: How the bird holds itself.
        support: What carries it: ``branch``, ``post``, ``rock``, ``reed``, ``ground``, ``water`` or ``air``.
        size: Long side of the bird's box, as a fraction of the frame.
        spot: Where the bird is within the room it has, (x, y) in 0..1.
        horizon: Height of the horizon from the top.
        cover: Whether plants grow in front of the bird.
        seeds: Of the scenery, the bird's colours and the plants in front.
    """

    species: int
    habitat: int | None
    light: int
    season: int
    pose: Pose
    support: str
    size: float
    spot: tuple[float, float]
    horizon: float
    cover: bool
    seeds: tuple[int, int, int]

    @property
    def caption(self) -> str:
        """One sentence.

        >>> compose(0, 4, np.random.default_rng(5)).caption
        'a photo of an amber-crested finch perched on a branch in a forest at dusk in spring'
        """
        name = with_article(SPECIES[self.species].name.lower())
        if self.habitat is None:
            return f"a pencil sketch of {name} {_doing(self)}"
        place = HABITATS[self.habitat].place
        time, season = LIGHTS[self.light].name, SEASONS[self.season].name
        return f"a photo of {name} {_doing(self)} {place} at {time} in {season}"

    @property
    def group(self) -> int | None:
        """Index into :data:`GROUPS`; None for a sketch."""
        if self.habitat is None:
            return None
        return 2 * HABITATS[SPECIES[self.species].home].water + HABITATS[self.habitat].water


def with_article(noun: str) -> str:
    """``noun`` with "a" or "an".

    >>> with_article("ivory-collared kingfisher"), with_article("jay")
    ('an ivory-collared kingfisher', 'a jay')
    """
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _doing(composition: Composition) -> str:
    kind, support = composition.pose.kind, composition.support
    if kind in ("flying", "swimming") or (composition.habitat is None and support == "ground"):
        return kind
    if support == "ground" and composition.habitat is not None:
        return f"standing {HABITATS[composition.habitat].ground}"
    return f"{kind} on a {support}"


def _pose_kind(species: Species, water: bool, rng: np.random.Generator) -> str:
    genus = species.genus
    if genus.swims:
        shares = {"swimming": 0.6, "standing": 0.25, "flying": 0.15} if water else {"standing": 0.8, "flying": 0.2}
    elif genus.perches:
        shares = {"perched": 0.55, "standing": 0.25, "flying": 0.2}
    else:
        shares = {"standing": 0.8, "flying": 0.2}
    return str(rng.choice(list(shares), p=list(shares.values())))


def _support(kind: str, habitat: int | None, rng: np.random.Generator) -> str:
    if kind in ("flying", "swimming"):
        return {"flying": "air", "swimming": "water"}[kind]
    perches = ("branch",) if habitat is None else HABITATS[habitat].perches
    perch = perches[rng.integers(len(perches))]
    if kind == "perched":
        return perch
    return "rock" if habitat is not None and HABITATS[habitat].ground == "on a rock" else "ground"


def compose(species: int, habitat: int, rng: np.random.Generator, sketch: bool = False) -> Composition:
    """Decide what a picture shows.

    Args:
        species: Index into ``SPECIES``.
        habitat: Index into ``HABITATS``; a sketch has none, but takes the poses of this one.
        rng: Source of all decisions.
        sketch: Whether it is a pencil sketch.
    """
    place = HABITATS[habitat]
    light, season = int(rng.choice(len(LIGHTS), p=LIGHT_SHARES)), int(rng.integers(len(SEASONS)))
    kind = _pose_kind(SPECIES[species], place.water, rng)
    tilt, nod, stretch = rng.normal(0, 6), rng.uniform(-22, 22), rng.normal(0, 8)
    stroke = rng.choice([-1, 1]) * rng.uniform(0.2, 1.0)
    gape = rng.uniform(3, 10) if rng.random() < 0.15 else 0.0
    seeds = rng.integers(2**62, size=3)
    pose = Pose(kind, bool(rng.random() < 0.5), tilt, nod, stretch, stroke, gape)
    return Composition(
        species=species,
        habitat=None if sketch else habitat,
        light=light,
        season=season,
        pose=pose,
        support=_support(kind, None if sketch else habitat, rng),
        size=rng.uniform(*BIRD_SIZE),
        spot=(rng.random(), rng.random()),
        horizon=rng.uniform(*place.horizon),
        cover=bool(not sketch and rng.random() < COVER_SHARE),
        seeds=(int(seeds[0]), int(seeds[1]), int(seeds[2])),
    )
