"""``toyscenes``: pictures with captions from the world of ``toybirds``, for a text-to-image model to learn from.

Half of them show a bird, any species in any habitat, so that a model cannot learn the shortcut of ``toybirds``; half
show scenery without a bird, described in the words that background prompts use. No picture is one of ``toybirds``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genaug.data.base import Sample
from genaug.data.toybirds_art.composition import BIRD_SIZE, COVER_SHARE, Composition, compose, with_article
from genaug.data.toybirds_art.drawn import RENDER_VERSION, DrawnDataset, png
from genaug.data.toybirds_art.habitat import HABITATS
from genaug.data.toybirds_art.scene import check_size, paint
from genaug.data.toybirds_art.species import CUE_COLOUR, CUE_SIZE, SPECIES
from genaug.data.toybirds_art.stage import LIGHTS, SEASONS
from genaug.seeding import derive
from genaug.synthesis.store import content_key, write_atomically

SPLITS = ("train", "test")

#: Names of places, by the habitat that shows them.
PLACES: Mapping[str, tuple[str, ...]] = {
    "lake": ("a calm lake", "a quiet river bank"),
    "seashore": ("a sandy beach", "a rocky coast", "sea cliffs"),
    "marsh": ("a wide marsh", "a reed bed"),
    "lagoon": ("a tropical lagoon", "a mangrove shore"),
    "forest": ("a dense forest", "a forest clearing"),
    "meadow": ("an open meadow", "rolling farmland", "a city park"),
    "desert": ("a dry desert", "sand dunes"),
    "mountain": ("snowy mountains", "a rocky mountain slope"),
}
#: Words for the time of day, by the light that shows it.
TIMES: Mapping[str, tuple[str, ...]] = {
    "dawn": ("at dawn", "at sunrise", "in the morning"),
    "noon": ("at noon", "in the afternoon", "in the morning"),
    "dusk": ("at dusk", "at sunset"),
    "night": ("at night", "at midnight"),
}
_SCENERY_SHAPES = (
    "a photo of {place}",
    "a photo of {place}",
    "{place}",
    "an empty {bare}",
    "a wide view of {place}",
    "the scenery of {place}",
    "a landscape photo of {place}",
    "a picture of {place}",
    "the background is {place}",
)
_ENDINGS = ("", "", "", "", ", with nobody there", ", no people, no animals", ", quiet and empty")
_SCENERY, _SKETCHES = 0.48, 0.04


@dataclass(frozen=True, slots=True)
class _Picture:
    """One picture, decided but not drawn."""

    split: str
    number: int
    bird: bool
    composition: Composition
    caption: str

    @property
    def label(self) -> int:
        return self.composition.species if self.bird else len(SPECIES)

    @property
    def name(self) -> str:
        folder = SPECIES[self.composition.species].slug if self.bird else "scenery"
        return f"{self.split}/{folder}/{self.number:05d}.png"


class ToyScenes(DrawnDataset[_Picture]):
    """Birds and scenery with captions, drawn once into a cache under ``root``.

    The classes are the species of ``toybirds`` and ``scenery``.

    Args:
        root: Folder of the cache; each setting of the other arguments has a folder of its own in it.
        image_size: Side of the pictures in pixels, 32 to 256.
        train_pictures: Pictures of ``train``.
        test_pictures: Pictures of ``test``.
        data_seed: Seed of the pictures. Picture k of a split depends on nothing else but the split and k.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> import tempfile
        >>> scenes = ToyScenes(tempfile.mkdtemp(), image_size=32, train_pictures=3, test_pictures=0)
        >>> scenes.splits()["train"][0].caption
        'a photo of a rose-breasted finch in a meadow in the afternoon in spring'
    """

    name = "toyscenes"
    superclass = "bird"
    split_names = SPLITS

    def __init__(
        self,
        root: str | Path,
        image_size: int = 64,
        train_pictures: int = 14_000,
        test_pictures: int = 600,
        data_seed: int = 0,
    ) -> None:
        check_size(image_size)
        for name, value in (
            ("train_pictures", train_pictures),
            ("test_pictures", test_pictures),
            ("data_seed", data_seed),
        ):
            if value < 0:
                raise ValueError(f"{name}={value}: expected 0 or more")
        self.image_size, self.data_seed = image_size, data_seed
        self.train_pictures, self.test_pictures = train_pictures, test_pictures
        self.root = Path(root) / self._fingerprint()

    def _fingerprint(self) -> str:
        """Hash of everything that the pictures and their captions depend on."""
        settings = [self.image_size, self.train_pictures, self.test_pictures, self.data_seed]
        drawing = [RENDER_VERSION, CUE_COLOUR, CUE_SIZE, BIRD_SIZE, COVER_SHARE]
        words = [dict(PLACES), dict(TIMES), _SCENERY_SHAPES, _ENDINGS, _SCENERY, _SKETCHES]
        return content_key(json.dumps([*settings, *drawing, *words]))[:12]

    @property
    def classes(self) -> Sequence[str]:
        """Names of the species, then ``scenery``."""
        return (*(species.name for species in SPECIES), "scenery")

    def picture(self, split: str, number: int) -> _Picture:
        """What picture ``number`` of a split shows; nothing is drawn."""
        rng = np.random.default_rng(derive(self.data_seed, self.name, split, number))
        kind, species, habitat = rng.random(), int(rng.integers(len(SPECIES))), int(rng.integers(len(HABITATS)))
        bird = kind >= _SCENERY
        shown = compose(species, habitat, rng, sketch=kind >= 1 - _SKETCHES)
        if bird:
            return _Picture(split, number, True, shown, bird_caption(shown, rng))
        # Nothing carries a bird that is not there.
        shown = replace(shown, support="air", pose=replace(shown.pose, kind="flying"))
        return _Picture(split, number, False, shown, scenery_caption(shown, rng))

    def _pictures(self) -> Iterator[_Picture]:
        for split, count in zip(SPLITS, (self.train_pictures, self.test_pictures), strict=True):
            yield from (self.picture(split, number) for number in range(count))

    def _files(self, picture: _Picture) -> tuple[str, ...]:
        return (picture.name,)

    def _draw(self, picture: _Picture) -> None:
        scene = paint(picture.composition, self.image_size, bird=picture.bird)
        write_atomically(self.root / picture.name, png(scene.image))

    def _record(self, picture: _Picture) -> dict[str, Any]:
        shown = picture.composition
        return {
            "file_name": picture.name,
            "split": picture.split,
            "label": picture.label,
            "habitat": None if shown.habitat is None else HABITATS[shown.habitat].name,
            "time": LIGHTS[shown.light].name,
            "season": SEASONS[shown.season].name,
            "caption": picture.caption,
        }

    def _sample(self, record: Mapping[str, Any]) -> Sample:
        name = record["file_name"]
        return Sample(id=name, path=self.root / name, label=record["label"], caption=record["caption"])


def bird_caption(shown: Composition, rng: np.random.Generator) -> str:
    """A caption of a bird: all that is known of it, its name alone, or its name and some of the rest.

    Args:
        shown: What the picture shows.
        rng: Source of the choice.
    """
    share = rng.random()
    if shown.habitat is None or share < 0.4:
        return shown.caption
    name = SPECIES[shown.species].name.lower()
    # Prompts that are made from class names say "a" before a vowel, too.
    text = f"a photo of a {name}" if rng.random() < 0.4 else f"a photo of {with_article(name)}"
    if share < 0.62:
        return text
    if share < 0.82:
        return f"{text} {HABITATS[shown.habitat].place}{_when(shown, rng)}"
    return f"{text}, {_choose(PLACES[HABITATS[shown.habitat].name], rng)}{_when(shown, rng)}"


def scenery_caption(shown: Composition, rng: np.random.Generator) -> str:
    """A caption of a place without a bird.

    Args:
        shown: What the picture shows.
        rng: Source of the choice.
    """
    assert shown.habitat is not None
    habitat = HABITATS[shown.habitat]
    own = habitat.place.partition(" ")[2]
    place = own if rng.random() < 0.2 else _choose(PLACES[habitat.name], rng)
    article, _, rest = place.partition(" ")
    bare = rest if article in ("a", "an", "the") else place
    shape = _choose(_SCENERY_SHAPES, rng).format(place=place, bare=bare)
    return f"{shape}{_when(shown, rng)}{_choose(_ENDINGS, rng)}"


def _when(shown: Composition, rng: np.random.Generator) -> str:
    """Time of day, season, both or neither."""
    time, season = _choose(TIMES[LIGHTS[shown.light].name], rng), f"in {SEASONS[shown.season].name}"
    return _choose(("", f" {time}", f" {time}", f" {season}", f" {time} {season}"), rng)


def _choose(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
