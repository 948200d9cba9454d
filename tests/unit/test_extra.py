"""How many synthetic images ALIA adds: one of each source, and of each class as many as are asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from genaug.data.base import Sample
from genaug.data.images import RealImages
from genaug.synthesis.extra import OnePerSource, one_of_each

CLASSES = ("jay", "finch", "owl")


def edits(sources=6, copies=3, label=lambda number: number % 2):
    """``copies`` edits of each of ``sources`` images; of owls there are none."""
    pairs = [(number, copy) for copy in range(copies) for number in range(sources)]
    samples = [Sample(f"{number}-{copy}", Path("x"), label(number)) for number, copy in pairs]
    return SimpleNamespace(samples=samples, sources=[f"s{number}" for number, _ in pairs], classes=CLASSES)


def added(view, made):
    real = RealImages([Sample(f"s{number}", Path("x"), number % 2) for number in range(6)], 3)
    source = view(real, made)
    assert len(source) == len(source.samples)
    return [sample.id for sample in list(source.samples)[6:]]


def test_one_of_each_source_is_drawn():
    made = edits(sources=60)
    found = added(OnePerSource(), made)
    assert [name.split("-")[0] for name in found] == [str(number) for number in range(60)]
    assert set(Counter(name.split("-")[1] for name in found)) == {"0", "1", "2"}
    assert found == added(OnePerSource(), made)
    assert found != added(OnePerSource(seed=1), made)


def test_what_is_drawn_depends_on_the_edits_of_the_source_alone():
    made = edits()
    chosen = {sample.id for sample in one_of_each(made.samples, made.sources, 0)}
    part = [(sample, source) for sample, source in zip(made.samples, made.sources, strict=True) if source == "s3"]
    (alone,) = one_of_each(*zip(*part, strict=True), 0)
    assert alone.id in chosen


def test_a_budget_is_of_each_class():
    made = edits(sources=20)
    found = added(OnePerSource(extra=4), made)
    assert Counter(int(name.split("-")[0]) % 2 for name in found) == {0: 4, 1: 4}  # and there is no owl to add
    assert len(set(found)) == 8
    assert set(found) < set(added(OnePerSource(extra=7), made)) <= set(added(OnePerSource(), made))


def test_a_budget_by_class():
    found = added(OnePerSource(extra={"finch": 2}), edits(sources=20))
    assert [int(name.split("-")[0]) % 2 for name in found] == [1, 1]


def test_of_a_class_with_too_few_images_they_come_again():
    found = Counter(added(OnePerSource(extra=7), edits(sources=6)))
    assert sorted(found.values()) == [2, 2, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("extra", "made", "message"),
    [
        (-1, edits(), "0 or more"),
        ({"jay": -1}, edits(), "0 or more"),
        ({"gull": 1}, edits(), "does not have: gull"),
        (2, edits(label=lambda _: (0, 1)), "set it to null"),
    ],
)
def test_what_cannot_be_added_is_refused(extra, made, message):
    with pytest.raises(ValueError, match=message):
        added(OnePerSource(extra=extra), made)
