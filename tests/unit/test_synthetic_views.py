"""Views of real and synthetic images: which is drawn in the place of which, by hand, from pictures of one colour."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from genaug.data.base import Sample
from genaug.data.images import ImageDataset, RealImages
from genaug.synthesis.images import Replacement

#: Real images 0 to 3 have grey values 0 to 3. Of the synthetic ones, 10 and 11 are made of image 0, 12 of image 2,
#: and 13 of an image that is not in training; images 1 and 3 have none.
SYNTHETIC = {10: "0.png", 11: "0.png", 12: "2.png", 13: "elsewhere.png"}
DRAWS = 400


@pytest.fixture
def real(tmp_path) -> RealImages:
    samples = [painted(tmp_path, number, number % 2, group=number) for number in range(4)]
    return RealImages(samples, num_classes=3)


@pytest.fixture
def made(tmp_path) -> SimpleNamespace:
    samples = [painted(tmp_path, number, 2 if number == 13 else 0) for number in SYNTHETIC]
    return SimpleNamespace(samples=samples, sources=list(SYNTHETIC.values()))


def painted(folder, value: int, label: int, **more) -> Sample:
    path = folder / f"{value}.png"
    Image.fromarray(np.full((2, 3, 3), value, np.uint8)).save(path)
    return Sample(path.name, path, label, **more)


def drawn(source, index: int, draws: int = DRAWS) -> Counter[int]:
    """How often each image comes in the place of image ``index``, by its grey value."""
    rng = np.random.default_rng(index)
    return Counter(int(source.draw(index, rng)[0][0, 0, 0]) for _ in range(draws))


def near(counts: Counter[int], expected: dict[int, float]) -> bool:
    """Whether shares are within four standard deviations of a fair draw."""
    spread = {value: 4 * (p * (1 - p) * DRAWS) ** 0.5 for value, p in expected.items()}
    return set(counts) == set(expected) and all(
        abs(counts[value] - p * DRAWS) <= spread[value] + 1e-9 for value, p in expected.items()
    )


def test_an_image_gives_way_to_its_own_edits_alone(real, made):
    source = Replacement(p=1.0, pool="own")(real, made)
    assert near(drawn(source, 0), {10: 0.5, 11: 0.5})
    assert drawn(source, 2) == {12: DRAWS}
    assert (drawn(source, 1), drawn(source, 3)) == ({1: DRAWS}, {3: DRAWS})  # without any they stay


def test_with_a_half_every_second_draw_is_the_image_itself(real, made):
    source = Replacement(p=0.5)(real, made)
    assert near(drawn(source, 0), {0: 0.5, 10: 0.25, 11: 0.25})
    assert near(drawn(source, 2), {2: 0.5, 12: 0.5})
    assert drawn(source, 1) == {1: DRAWS}
    assert drawn(Replacement(p=0.0)(real, made), 0) == {0: DRAWS}


def test_from_the_whole_pool_comes_any_image_whatever_the_class(real, made):
    source = Replacement(p=0.5, pool="all")(real, made)
    for index in range(4):
        assert near(drawn(source, index), {index: 0.5, 10: 0.125, 11: 0.125, 12: 0.125, 13: 0.125})


def test_the_label_is_that_of_the_image_that_is_drawn(real, made):
    source = Replacement(p=1.0, pool="all")(real, made)
    for seed in range(30):
        image, label = source.draw(1, np.random.default_rng(seed))
        assert label.tolist() == ([0, 0, 1] if image[0, 0, 0] == 13 else [1, 0, 0])
    _, own = Replacement(p=1.0)(real, made).draw(3, np.random.default_rng(0))
    assert own.tolist() == [0, 1, 0]


def test_a_soft_label_is_the_target(real, made):
    made.samples[2] = Sample("12", made.samples[2].path, 0, soft_label=((0, 0.25), (2, 0.75)))
    _, label = Replacement(p=1.0)(real, made).draw(2, np.random.default_rng(0))
    assert label.tolist() == [0.25, 0, 0.75]


def test_an_epoch_stays_as_long_and_its_images_keep_their_groups(real, made):
    source = Replacement(p=0.5)(real, made)
    assert (len(source), source.num_classes) == (4, 3)
    dataset = ImageDataset(source, torch.nn.Identity(), seed=3)
    assert [int(dataset[0, index, True]["group"]) for index in range(4)] == [0, 1, 2, 3]


def test_what_replaces_an_image_follows_from_seed_epoch_and_index(real, made):
    def epochs(seed: int) -> list[int]:
        dataset = ImageDataset(Replacement(p=0.5)(real, made), torch.nn.Identity(), seed=seed)
        return [int(dataset[epoch, 0, True]["image"][0, 0, 0]) for epoch in range(40)]

    assert epochs(0) == epochs(0)
    assert set(epochs(0)) == {0, 10, 11}
    assert epochs(0) != epochs(1)


def test_where_nothing_was_made_all_images_are_real(real):
    nothing = SimpleNamespace(samples=[], sources=[])
    for pool in ("own", "all"):
        assert drawn(Replacement(p=1.0, pool=pool)(real, nothing), 0, 5) == {0: 5}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"p": -0.1}, r"method\.view\.p=-0\.1 is not a probability"),
        ({"p": 1.1}, r"method\.view\.p=1\.1 is not a probability"),
        ({"p": 0.5, "pool": "others"}, r"method\.view\.pool='others' is not known: choose own or all"),
    ],
)
def test_wrong_values_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Replacement(**settings)
