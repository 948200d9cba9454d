from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import genaug.captioning
from genaug.data.reading import read_image
from genaug.data.toybirds import HABITATS, SPECIES, ToyBirds
from genaug.data.toybirds_art.stage import LIGHTS, SEASONS
from genaug.data.toyscenes import PLACES, TIMES, ToyScenes

SETS = Path(genaug.captioning.__file__).parent / "sets"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> ToyScenes:
    return ToyScenes(tmp_path_factory.mktemp("scenes"), image_size=32, train_pictures=60, test_pictures=5)


def test_each_place_belongs_to_one_habitat_and_all_phrases_of_the_prompts_are_taught():
    places = [place for names in PLACES.values() for place in names]
    assert len(places) == len(set(places)) == 18
    assert list(PLACES) == [habitat.name for habitat in HABITATS]
    assert list(TIMES) == [light.name for light in LIGHTS]
    assert set((SETS / "spatial.txt").read_text().splitlines()) == set(places)
    times = {time for names in TIMES.values() for time in names} | {f"in {season.name}" for season in SEASONS}
    assert set((SETS / "temporal.txt").read_text().splitlines()) == times


def test_pictures_are_what_the_captions_and_labels_say(scenes):
    samples = scenes.splits()["train"]
    assert len(samples) == 60
    assert len(scenes.classes) == 21
    for sample in samples:
        shown = scenes.picture("train", int(Path(sample.id).stem))
        if sample.label == 20:
            assert "/scenery/" in sample.id
            assert not any(species.genus.name.lower() in sample.caption for species in SPECIES)
            habitat = HABITATS[shown.composition.habitat]
            words = (*PLACES[habitat.name], habitat.place.partition(" ")[2])
            assert any(place.removeprefix("an ").removeprefix("a ") in sample.caption for place in words)
        else:
            assert SPECIES[sample.label].name.lower() in sample.caption


def test_times_in_captions_are_the_light_of_the_picture(scenes):
    seen = set()
    for number in range(400):
        picture = scenes.picture("train", number)
        light = LIGHTS[picture.composition.light].name
        named = {name for name, words in TIMES.items() if any(f" {time}" in picture.caption for time in words)}
        if named:
            assert light in named
            seen.add(light)
    assert seen == set(TIMES)


def test_about_half_is_scenery_and_habitat_says_nothing_of_the_species(scenes):
    pictures = [scenes.picture("train", number) for number in range(3000)]
    birds = [picture.composition for picture in pictures if picture.bird and picture.composition.habitat is not None]
    assert np.mean([not picture.bird for picture in pictures]) == pytest.approx(0.48, abs=0.03)
    at_home = np.mean([shown.habitat == SPECIES[shown.species].home for shown in birds])
    assert at_home == pytest.approx(1 / 8, abs=0.03)


def test_scenery_has_no_bird(scenes):
    # Painted twice from one composition; only where a bird was could the pictures differ.
    from genaug.data.toybirds_art.scene import paint

    picture = next(one for one in map(lambda n: scenes.picture("train", n), range(100)) if not one.bird)
    with_bird = paint(picture.composition, 32).image
    drawn = read_image(scenes.root / picture.name)
    assert (with_bird != drawn).any()
    np.testing.assert_array_equal(drawn, paint(picture.composition, 32, bird=False).image)


def test_a_half_drawn_cache_is_completed_and_other_pictures_have_another_folder(scenes, tmp_path):
    args = {"image_size": 32, "train_pictures": 4, "test_pictures": 0}
    first = ToyScenes(tmp_path, **args)
    ids = [sample.id for sample in first.splits()["train"]]
    before = (first.root / ids[0]).read_bytes()
    (first.root / ids[0]).unlink()
    (first.root / "metadata.jsonl").unlink()
    assert [sample.id for sample in ToyScenes(tmp_path, **args).splits()["train"]] == ids
    assert (first.root / ids[0]).read_bytes() == before
    assert ToyScenes(tmp_path, **args, data_seed=1).root != first.root
    assert ToyBirds(tmp_path).root != first.root


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="train_pictures=-1"):
        ToyScenes(tmp_path, train_pictures=-1)
    with pytest.raises(ValueError, match="image_size=16"):
        ToyScenes(tmp_path, image_size=16)
