"""Draws that depend on the seed and the ids alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from genaug.data.base import Sample
from genaug.data.subsets import few_shot, hold_out, long_tail, training_subset


def make(*sizes: int) -> list[Sample]:
    """Classes of the sizes given."""
    return [
        Sample(f"c{label}/{i:03}.jpg", Path(f"c{label}/{i:03}.jpg"), label)
        for label, size in enumerate(sizes)
        for i in range(size)
    ]


def ids(samples: list[Sample]) -> list[str]:
    return [sample.id for sample in samples]


def counts(samples: list[Sample]) -> dict:
    return dict(Counter(sample.label for sample in samples))


def shuffled(samples: list[Sample]) -> list[Sample]:
    return [samples[i] for i in np.random.default_rng(1).permutation(len(samples))]


def test_few_shot_draws_as_many_of_each_class() -> None:
    samples = make(10, 5, 30)
    drawn = few_shot(samples, shots=5, seed=0)
    assert counts(drawn) == {0: 5, 1: 5, 2: 5}
    assert ids(drawn) == sorted(set(ids(drawn)))
    assert set(ids(drawn)) <= set(ids(samples))


def test_few_shot_depends_on_seed_and_ids_only() -> None:
    samples = make(20, 20)
    first = few_shot(samples, shots=5, seed=3)
    assert few_shot(shuffled(samples), shots=5, seed=3) == first
    assert few_shot(samples, shots=5, seed=4) != first
    # A class that grows leaves the draw of the other alone.
    grown = few_shot(make(20, 40), shots=5, seed=3)
    assert [s for s in grown if s.label == 0] == [s for s in first if s.label == 0]


def test_few_shot_draws_every_image_equally_often() -> None:
    drawn = Counter(sample.id for seed in range(400) for sample in few_shot(make(8), shots=2, seed=seed))
    # 100 expected; the standard deviation is sqrt(400 * 1/4 * 3/4) = 8.7
    assert len(drawn) == 8
    assert all(60 < count < 140 for count in drawn.values())


def test_few_shot_refuses_small_classes_and_no_shots() -> None:
    with pytest.raises(
        ValueError, match=r"subset.shots=3 needs 3 images with label 1 \(such as 'c1/000.jpg'\), .* are 2"
    ):
        few_shot(make(5, 2), shots=3, seed=0)
    with pytest.raises(ValueError, match="subset.shots=0"):
        few_shot(make(5, 2), shots=0, seed=0)


def test_fewer_shots_are_among_more() -> None:
    drawn = [set(ids(few_shot(make(20, 20), shots, seed=1))) for shots in (1, 2, 4, 8, 16)]
    assert all(few < more for few, more in zip(drawn, drawn[1:], strict=False))


def test_a_long_tail_by_hand() -> None:
    # 50 * 0.1 ** (k / 4): 50, 28.1, 15.8, 8.9, 5.
    assert counts(long_tail(make(50, 50, 50, 50, 50), 0.1, seed=0)) == {0: 50, 1: 28, 2: 15, 3: 8, 4: 5}
    # 30 * 0.01 would be 0.3 images.
    assert counts(long_tail(make(30, 30, 30), 0.01, seed=0)) == {0: 30, 1: 3, 2: 1}
    assert counts(long_tail(make(4, 4), 1, seed=0)) == {0: 4, 1: 4}
    assert counts(long_tail(make(9), 0.5, seed=0)) == {0: 9}


def test_the_largest_class_stays_the_largest_and_none_gets_more_than_it_has() -> None:
    # Ranks: class 1 (100), 3 (40), 0 (10), 2 (5); 100 * 0.1 ** (k / 3) = 100, 46.4, 21.5, 10.
    assert counts(long_tail(make(10, 100, 5, 40), 0.1, seed=0)) == {0: 10, 1: 100, 2: 5, 3: 40}
    # 100 * 0.001 ** (k / 3) = 100, 10, 1, 0.1.
    assert counts(long_tail(make(10, 100, 5, 40), 0.001, seed=0)) == {0: 1, 1: 100, 2: 1, 3: 10}


def test_a_long_tail_like_that_of_diff_mix() -> None:
    """Of CUB's 5,994 images of 29 or 30 a class its code keeps, by its own formula, a few images less."""
    sizes = [30] * 194 + [29] * 6
    theirs = sum(max(1, int(5994 / 200 * 0.01 ** (rank / 198))) for rank in range(200))
    ours = len(long_tail(make(*sizes), 0.01, seed=0))
    assert (theirs, ours) == (1242, 1252)


def test_a_long_tail_depends_on_seed_and_ids_only() -> None:
    samples = make(40, 40, 40)
    first = long_tail(samples, 0.1, seed=3)
    assert long_tail(shuffled(samples), 0.1, seed=3) == first
    assert ids(first) == sorted(ids(first))
    other = long_tail(samples, 0.1, seed=4)
    assert counts(other) == counts(first)
    assert other != first


def test_a_longer_tail_is_part_of_a_shorter_one() -> None:
    drawn = [set(ids(long_tail(make(40, 35, 40), factor, seed=1))) for factor in (0.02, 0.1, 0.5, 1)]
    assert all(long < short for long, short in zip(drawn, drawn[1:], strict=False))


@pytest.mark.parametrize("imbalance", [0, -0.1, 1.5])
def test_a_tail_takes_a_factor(imbalance: float) -> None:
    with pytest.raises(ValueError, match=f"subset.imbalance={imbalance} is not possible"):
        long_tail(make(5, 5), imbalance, seed=0)


def test_images_with_several_labels_have_no_tail() -> None:
    samples = [Sample(f"{i:02}.jpg", Path(), (0, 1 + i % 2)) for i in range(20)]
    with pytest.raises(ValueError, match=r"several labels: set subset.imbalance=null"):
        long_tail(samples, 0.1, seed=0)


def test_shots_and_a_tail_together() -> None:
    samples = make(40, 100, 30)
    both = training_subset(samples, shots=16, imbalance=0.25, seed=2)
    assert counts(both) == {0: 16, 1: 8, 2: 4}  # equally many first, so that the classes keep their order
    assert set(ids(both)) <= set(ids(few_shot(samples, 16, seed=2)))
    assert training_subset(samples, None, None, seed=2) == samples
    assert training_subset(samples, 5, None, seed=2) == few_shot(samples, 5, seed=2)
    assert training_subset(samples, None, 0.5, seed=2) == long_tail(samples, 0.5, seed=2)


def test_draws_are_the_same_on_every_machine() -> None:
    """Pinned (computed with hashlib alone): a change here changes the splits of every study."""
    assert ids(few_shot(make(6, 6), shots=2, seed=0)) == ["c0/002.jpg", "c0/004.jpg", "c1/001.jpg", "c1/004.jpg"]
    assert ids(long_tail(make(6, 6), 0.5, seed=0))[6:] == ["c1/002.jpg", "c1/004.jpg", "c1/005.jpg"]
    assert ids(hold_out(make(6, 6), 0.3, seed=0)[1]) == ["c0/000.jpg", "c0/002.jpg", "c1/000.jpg", "c1/005.jpg"]


def test_hold_out_is_stratified() -> None:
    samples = make(10, 20, 2, 1, 3)
    train, held = hold_out(samples, 0.2, seed=0)
    # 0.2 of 10, 20, 2, 1, 3: at least one of two or more, none of one.
    assert counts(held) == {0: 2, 1: 4, 2: 1, 4: 1}
    assert counts(train) == {0: 8, 1: 16, 2: 1, 3: 1, 4: 2}
    assert sorted(ids(train) + ids(held)) == ids(samples)
    assert ids(train) == sorted(ids(train))
    assert ids(held) == sorted(ids(held))


def test_hold_out_never_takes_a_whole_class() -> None:
    train, held = hold_out(make(2, 10), 0.99, seed=0)
    assert counts(train) == {0: 1, 1: 1}
    assert counts(held) == {0: 1, 1: 9}


def test_hold_out_depends_on_seed_and_ids_only() -> None:
    samples = make(30, 30)
    first = hold_out(samples, 0.2, seed=7)
    assert hold_out(shuffled(samples), 0.2, seed=7) == first
    assert hold_out(samples, 0.2, seed=8) != first


def test_images_with_several_labels_are_drawn_alike() -> None:
    samples = [Sample(f"{i:02}.jpg", Path(), (0, 1 + i % 2)) for i in range(20)]
    train, held = hold_out(samples, 0.25, seed=0)
    assert (len(train), len(held)) == (15, 5)
    assert sorted(ids(train) + ids(held)) == ids(samples)
    assert len(few_shot(samples, shots=2, seed=0)) == 2 * 3  # three classes
    # Images that show none of the classes are drawn like the others.
    some = [Sample(one.id, one.path, () if i < 10 else one.label) for i, one in enumerate(samples)]
    assert ids(hold_out(some, 0.25, seed=0)[1]) == ids(held)
    assert len(few_shot(some, shots=2, seed=0)) == 2 * 3


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 20])
def test_hold_out_takes_a_share(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        hold_out(make(5, 5), fraction, seed=0)


@pytest.mark.parametrize("samples", [[], make(1, 1, 1)])
def test_hold_out_needs_two_of_a_class(samples: list[Sample]) -> None:
    with pytest.raises(ValueError, match="Nothing can be held out"):
        hold_out(samples, 0.5, seed=0)
