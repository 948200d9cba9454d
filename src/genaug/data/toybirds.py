"""``toybirds``: a small fine-grained bird dataset with a habitat shortcut, drawn by code.

Twenty invented species, five body plans of four look-alikes, in eight habitats. In ``train`` and ``test`` a bird mostly
stands in the home habitat of its species, so the background gives the species away; ``ood_habitat`` shows it anywhere
else, ``ood_sketch`` in pencil. The splits stand in for CUB, Waterbirds and ImageNet-Sketch where there is no download.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genaug.data.base import Sample
from genaug.data.toybirds_art.composition import BIRD_SIZE, COVER_SHARE, GROUPS, Composition, compose
from genaug.data.toybirds_art.drawn import RENDER_VERSION, DrawnDataset, png
from genaug.data.toybirds_art.habitat import HABITATS
from genaug.data.toybirds_art.scene import Scene, check_size, paint, render
from genaug.data.toybirds_art.species import CUE_COLOUR, CUE_SIZE, SPECIES
from genaug.data.toybirds_art.stage import LIGHTS, SEASONS
from genaug.synthesis.store import content_key, write_atomically

__all__ = ["HABITATS", "SPECIES", "Scene", "ToyBirds", "render"]

SPLITS = ("train", "test", "ood_habitat", "ood_sketch")


@dataclass(frozen=True, slots=True)
class _Picture:
    """One picture of a split, as arguments of a drawing process."""

    split: str
    species: int
    number: int

    @property
    def name(self) -> str:
        return f"{self.split}/{SPECIES[self.species].slug}/{self.number:04d}.png"


def _mask_name(name: str) -> str:
    return f"masks/{name}"


class ToyBirds(DrawnDataset[_Picture]):
    """Twenty species of birds, drawn once into a cache under ``root``.

    Args:
        root: Folder of the cache; each setting of the other arguments has a folder of its own in it.
        image_size: Side of the pictures in pixels, 32 to 256.
        train_per_class: Pictures of each species in ``train``.
        test_per_class: Pictures of each species in each of the other splits.
        correlation: Probability that a bird of ``train`` or ``test`` is in its home habitat; otherwise it is in any
            of the others. 1 / 8 makes the habitat say nothing.
        data_seed: Seed of the pictures. Picture k of a species in a split depends on nothing else but the split,
            the species, k and ``correlation``.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> import tempfile
        >>> birds = ToyBirds(tempfile.mkdtemp(), image_size=32, train_per_class=1, test_per_class=0)
        >>> birds.splits()["train"][0].id
        'train/amber-crested-finch/0000.png'
    """

    name = "toybirds"
    superclass = "bird"
    split_names = SPLITS

    def __init__(
        self,
        root: str | Path,
        image_size: int = 64,
        train_per_class: int = 30,
        test_per_class: int = 20,
        correlation: float = 0.95,
        data_seed: int = 0,
    ) -> None:
        check_size(image_size)
        if not 0 <= correlation <= 1:
            raise ValueError(f"correlation={correlation}: it is a probability, so give a number from 0 to 1")
        for name, value in (
            ("train_per_class", train_per_class),
            ("test_per_class", test_per_class),
            ("data_seed", data_seed),
        ):
            if value < 0:
                raise ValueError(f"{name}={value}: expected 0 or more")
        self.image_size = image_size
        self.train_per_class, self.test_per_class = train_per_class, test_per_class
        self.correlation, self.data_seed = float(correlation), data_seed
        self.root = Path(root) / self._fingerprint()

    def _fingerprint(self) -> str:
        """Hash of everything that the pictures depend on."""
        settings = [self.image_size, self.train_per_class, self.test_per_class, self.correlation, self.data_seed]
        drawing = [RENDER_VERSION, CUE_COLOUR, CUE_SIZE, BIRD_SIZE, COVER_SHARE]
        return content_key(json.dumps([*settings, *drawing]))[:12]

    @property
    def classes(self) -> Sequence[str]:
        """Names of the species, such as ``Amber-crested Finch``."""
        return tuple(species.name for species in SPECIES)

    @property
    def groups(self) -> Sequence[str]:
        """Home of the species and place of the picture, as in Waterbirds: index ``2 * waterbird + water``."""
        return GROUPS

    def _pictures(self) -> Iterator[_Picture]:
        for split in SPLITS:
            count = self.train_per_class if split == "train" else self.test_per_class
            for species in range(len(SPECIES)):
                yield from (_Picture(split, species, number) for number in range(count))

    def compose(self, split: str, species: int, number: int) -> Composition:
        """What picture ``number`` of a species in a split shows; nothing is drawn."""
        rng = np.random.default_rng([self.data_seed, SPLITS.index(split), species, number])
        home, others = SPECIES[species].home, len(HABITATS) - 1
        stays = split in ("train", "test") and rng.random() < self.correlation
        habitat = home if stays else (home + 1 + int(rng.integers(others))) % (others + 1)
        return compose(species, habitat, rng, sketch=split == "ood_sketch")

    def _files(self, picture: _Picture) -> tuple[str, ...]:
        return picture.name, _mask_name(picture.name)

    def _draw(self, picture: _Picture) -> None:
        scene = paint(self.compose(picture.split, picture.species, picture.number), self.image_size)
        write_atomically(self.root / _mask_name(picture.name), png(scene.mask))
        write_atomically(self.root / picture.name, png(scene.image))

    def _record(self, picture: _Picture) -> dict[str, Any]:
        shown = self.compose(picture.split, picture.species, picture.number)
        sketch = shown.habitat is None
        return {
            "file_name": picture.name,
            "mask": _mask_name(picture.name),
            "split": picture.split,
            "label": picture.species,
            "species": SPECIES[picture.species].name,
            "habitat": None if shown.habitat is None else HABITATS[shown.habitat].name,
            "time": None if sketch else LIGHTS[shown.light].name,
            "season": None if sketch else SEASONS[shown.season].name,
            "pose": shown.pose.kind,
            "group": shown.group,
            "caption": shown.caption,
        }

    def _sample(self, record: Mapping[str, Any]) -> Sample:
        return Sample(
            id=record["file_name"],
            path=self.root / record["file_name"],
            label=record["label"],
            mask=self.root / record["mask"],
            group=record["group"],
            caption=record["caption"],
        )
