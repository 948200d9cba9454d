"""The twenty invented species: five body plans of four look-alikes that differ in two or three parts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from genaug.data.toybirds_art.canvas import mix

#: How far the colours of a species go from those of its genus: 0 = look-alikes of one colour, 1 = as in the table.
#: Lower it to make the species harder to see (and the habitat a relatively easier cue).
CUE_COLOUR = 1.0
#: Size of the parts that tell species apart (crest, wing bars, eye ring, brow, collar) relative to the table.
CUE_SIZE = 1.0
#: Standard deviation of the colour of one individual's part, in levels of 255.
INDIVIDUAL_JITTER = 5.0

RGB = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Genus:
    """A body plan; lengths are in units of the length of the body without head and tail.

    Attributes:
        name: Last word of the species' names.
        depth: Height of the body.
        tilt: Angle of a standing body in degrees, head up.
        head: Radius of the head.
        neck: Length from the shoulder to the centre of the head.
        neck_angle: Direction of the neck in degrees above the horizontal.
        bill: Kind of bill: ``cone``, ``dagger``, ``needle``, ``flat`` or ``stout``.
        bill_size: Length and depth of the bill.
        tail: Length and width of the tail.
        leg: Length of the legs.
        swims: Whether it swims on water.
        perches: Whether it perches on twigs.
        colours: Part to colour; a species changes some of them.
    """

    name: str
    depth: float
    tilt: float
    head: float
    neck: float
    neck_angle: float
    bill: str
    bill_size: tuple[float, float]
    tail: tuple[float, float]
    leg: float
    swims: bool
    perches: bool
    colours: dict[str, RGB]


@dataclass(frozen=True, slots=True)
class Species:
    """What one species looks like and where it lives.

    Attributes:
        name: Common name.
        genus: Its body plan.
        home: Index of its habitat in ``HABITATS``.
        colours: Colours of the parts that are not those of the genus.
        crest: Length of the crest in head radii, 0 for none.
        bars: Number of bars on the wing.
        ring: Whether the eye has a coloured ring (colour ``ring``).
        brow: Whether a stripe runs over the eye (colour ``brow``).
        mask: Whether a dark or light patch covers the cheek (colour ``mask``).
        collar: Whether a band runs round the neck (colour ``collar``).
        fork: Depth of the notch of the tail as a fraction of its length; negative for a rounded tail.
        tail: Length of the tail relative to the genus.
        bill: Length of the bill relative to the genus.
        curve: Bend of the bill, positive downwards.
        leg: Length of the legs relative to the genus.
    """

    name: str
    genus: Genus
    home: int
    colours: dict[str, RGB] = field(default_factory=dict)
    crest: float = 0.0
    bars: int = 0
    ring: bool = False
    brow: bool = False
    mask: bool = False
    collar: bool = False
    fork: float = 0.0
    tail: float = 1.0
    bill: float = 1.0
    curve: float = 0.0
    leg: float = 1.0

    @property
    def slug(self) -> str:
        """The name as a folder: ``amber-crested-finch``."""
        return self.name.lower().replace(" ", "-")

    def palette(self) -> dict[str, tuple[float, ...]]:
        """Colour of every part, the species' own ones at :data:`CUE_COLOUR` between genus and table."""
        base = self.genus.colours
        colours = {part: np.asarray(rgb, np.float32) for part, rgb in base.items()}
        colours |= {part: mix(base.get(part, rgb), rgb, CUE_COLOUR) for part, rgb in self.colours.items()}
        return {part: tuple(map(float, rgb)) for part, rgb in colours.items()}


_SHARED: dict[str, RGB] = {
    "ring": (250, 246, 232),
    "brow": (248, 240, 220),
    "mask": (34, 32, 36),
    "collar": (250, 248, 240),
    "bars": (248, 244, 234),
    "eye": (22, 18, 20),
}

FINCH = Genus(
    "Finch", 0.66, 28, 0.275, 0.20, 72, "cone", (0.24, 0.23), (0.62, 0.20), 0.34, False, True,
    {**_SHARED, "back": (146, 116, 84), "wing": (104, 80, 62), "tip": (58, 46, 42), "tail": (92, 72, 58),
     "rump": (158, 130, 96), "crown": (134, 100, 72), "face": (176, 142, 104), "throat": (222, 200, 164),
     "breast": (220, 192, 150), "belly": (240, 228, 204), "crest": (134, 100, 72), "bill": (222, 176, 104),
     "leg": (156, 112, 88)},
)  # fmt: skip
KINGFISHER = Genus(
    "Kingfisher", 0.68, 44, 0.34, 0.20, 66, "dagger", (0.66, 0.17), (0.42, 0.20), 0.20, False, True,
    {**_SHARED, "back": (34, 122, 168), "wing": (28, 96, 150), "tip": (20, 50, 92), "tail": (26, 88, 146),
     "rump": (64, 170, 206), "crown": (30, 100, 156), "face": (40, 116, 164), "throat": (246, 238, 222),
     "breast": (222, 140, 72), "belly": (236, 176, 112), "crest": (30, 100, 156), "bill": (44, 42, 48),
     "leg": (206, 92, 64)},
)  # fmt: skip
STILT = Genus(
    "Stilt", 0.50, 14, 0.18, 0.70, 66, "needle", (0.60, 0.08), (0.32, 0.16), 1.05, False, False,
    {**_SHARED, "back": (206, 202, 194), "wing": (74, 74, 80), "tip": (34, 34, 40), "tail": (170, 168, 164),
     "rump": (230, 228, 222), "crown": (196, 192, 184), "face": (226, 222, 212), "throat": (240, 238, 230),
     "breast": (236, 232, 224), "belly": (246, 244, 238), "crest": (60, 58, 62), "bill": (40, 38, 42),
     "leg": (132, 128, 122)},
)  # fmt: skip
TEAL = Genus(
    "Teal", 0.58, 6, 0.26, 0.36, 62, "flat", (0.38, 0.20), (0.32, 0.22), 0.24, True, False,
    {**_SHARED, "back": (126, 108, 90), "wing": (144, 126, 106), "tip": (72, 62, 58), "tail": (86, 74, 64),
     "rump": (60, 52, 50), "crown": (112, 88, 70), "face": (136, 110, 88), "throat": (152, 126, 100),
     "breast": (172, 140, 110), "belly": (206, 186, 158), "crest": (112, 88, 70), "bill": (84, 90, 96),
     "leg": (226, 138, 62)},
)  # fmt: skip
JAY = Genus(
    "Jay", 0.56, 24, 0.265, 0.24, 62, "stout", (0.32, 0.16), (0.98, 0.22), 0.38, False, True,
    {**_SHARED, "back": (112, 130, 158), "wing": (86, 106, 146), "tip": (46, 54, 82), "tail": (84, 102, 140),
     "rump": (128, 144, 168), "crown": (98, 114, 144), "face": (164, 172, 186), "throat": (206, 208, 212),
     "breast": (196, 196, 198), "belly": (226, 224, 222), "crest": (98, 114, 144), "bill": (46, 46, 52),
     "leg": (60, 58, 64)},
)  # fmt: skip

_AMBER, _ROSE, _SLATE, _LEMON = (248, 166, 32), (226, 76, 104), (62, 76, 98), (244, 218, 60)

# Look-alikes live apart, so that the habitat alone tells them from each other: the shortcut the splits are about.
# Two of each genus live on water (habitats 0 to 3), two on land (4 to 7).
SPECIES: tuple[Species, ...] = (
    Species("Amber-crested Finch", FINCH, 4, {"crest": _AMBER, "crown": _AMBER}, crest=1.25, bars=1),
    Species("Rose-breasted Finch", FINCH, 1, {"breast": _ROSE, "throat": _ROSE, "rump": _ROSE}, fork=0.25),
    Species("Slate-capped Finch", FINCH, 2, {"crown": _SLATE, "face": (120, 126, 138)}, ring=True, bars=2),
    Species("Lemon-winged Finch", FINCH, 6, {"wing": _LEMON, "bars": (66, 56, 46)}, bars=1, bill=0.8, fork=0.1),
    Species("Ruby-billed Kingfisher", KINGFISHER, 0, {"bill": (220, 44, 40), "throat": (34, 32, 36)}, bill=1.1),
    Species("Ivory-collared Kingfisher", KINGFISHER, 5, {"breast": (246, 240, 224), "throat": (250, 246, 234)},
            collar=True, bill=0.9),
    Species("Violet-crowned Kingfisher", KINGFISHER, 3, {"crown": (134, 64, 176), "crest": (134, 64, 176),
            "wing": (92, 70, 160)}, crest=0.8),
    Species("Ashy-breasted Kingfisher", KINGFISHER, 7, {"breast": (138, 146, 156), "belly": (184, 188, 194)},
            bars=2, tail=1.35),
    Species("Coral-legged Stilt", STILT, 1, {"leg": (244, 92, 84), "crown": (34, 32, 38)}, leg=1.1),
    Species("Rufous-necked Stilt", STILT, 6, {"face": (196, 98, 48), "crown": (178, 84, 42), "throat": (202, 110, 60)},
            curve=-0.5, bill=1.1),
    Species("Golden-browed Stilt", STILT, 5, {"brow": (246, 190, 36), "leg": (244, 196, 60), "wing": (150, 116, 78)},
            brow=True, leg=0.8),
    Species("Sooty-breasted Stilt", STILT, 2, {"breast": (70, 68, 76), "throat": (96, 94, 100)}, bars=1, curve=0.5),
    Species("Emerald-headed Teal", TEAL, 0, {"face": (18, 132, 84), "crown": (14, 116, 76), "throat": (18, 122, 78)},
            collar=True),
    Species("Cinnamon-flanked Teal", TEAL, 4, {"belly": (204, 104, 48), "breast": (188, 94, 46)}, brow=True),
    Species("Pearl-masked Teal", TEAL, 7, {"mask": (248, 246, 240), "crown": (44, 42, 50), "back": (92, 90, 96)},
            mask=True, crest=0.8),
    Species("Crimson-billed Teal", TEAL, 3, {"bill": (226, 46, 52), "bars": (54, 110, 200), "face": (190, 180, 170)},
            bars=2),
    Species("Azure-tailed Jay", JAY, 3, {"tail": (20, 150, 232), "rump": (40, 166, 236)}, tail=1.25, fork=-0.15),
    Species("Saffron-breasted Jay", JAY, 6, {"breast": (244, 178, 44), "belly": (248, 206, 104)}, mask=True, tail=0.9),
    Species("Plum-crested Jay", JAY, 2, {"crest": (132, 44, 116), "crown": (132, 44, 116)}, crest=1.7),
    Species("Snowy-winged Jay", JAY, 4, {"wing": (232, 236, 242), "bars": (50, 58, 84), "throat": (44, 44, 52)},
            bars=2, ring=True, fork=0.3),
)  # fmt: skip
