"""What a small CLIP learns from: pictures with captions, phrases for their classes, and pictures of nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from genaug.data.base import Dataset, Sample
from genaug.generation.training import read_captioned
from genaug.seeding import derive
from genaug.synthesis.per_source import with_article

#: What a picture shows, of whatever class: one of them, a place without any, or nothing that a camera sees.
OBJECT, EMPTY, ABSTRACT = range(3)


@dataclass(frozen=True, slots=True)
class Described:
    """Pictures and what is true of them.

    Attributes:
        pictures: ``(N, 3, S, S)`` uint8.
        captions: One a picture.
        labels: ``(N,)``, of the classes.
        topics: ``(N,)``: :data:`OBJECT`, :data:`EMPTY` or :data:`ABSTRACT`.
    """

    pictures: Tensor
    captions: list[str]
    labels: Tensor
    topics: Tensor


@dataclass(frozen=True, slots=True)
class Phrases:
    """What can be said of pictures besides their captions.

    Attributes:
        classes: For each class that has objects, phrases of the same meaning.
        topics: The same for :data:`OBJECT`, :data:`EMPTY` and :data:`ABSTRACT`.
    """

    classes: Mapping[int, Sequence[str]]
    topics: Sequence[Sequence[str]]

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        *,
        classes: Sequence[str],
        object: Sequence[str],
        empty: Sequence[str],
        abstract: Sequence[str],
        empty_class: str | None,
    ) -> Phrases:
        """Fill in names: ``{name}`` and ``{a_name}`` stand for a class, ``{superclass}`` for what all objects are.

        Args:
            dataset: Has the names.
            classes: Phrases for a class.
            object: For any of them.
            empty: For a picture without an object.
            abstract: For a picture that is no photograph.
            empty_class: The class of pictures without an object, where there is one.
        """
        named = {
            label: [one.format(name=name.lower(), a_name=with_article(name.lower())) for one in classes]
            for label, name in enumerate(dataset.classes)
            if name != empty_class
        }
        topics = [[one.format(superclass=dataset.superclass) for one in topic] for topic in (object, empty, abstract)]
        return cls(named, topics)

    def all(self) -> list[str]:
        """Every phrase."""
        return [one for some in (*self.classes.values(), *self.topics) for one in some]


def describe(dataset: Dataset, samples: Sequence[Sample], size: int, empty_class: str | None) -> Described:
    """Read samples at ``size`` x ``size`` pixels into memory.

    Raises:
        ValueError: a sample has several labels.
    """
    if dataset.multilabel:
        raise ValueError(f"a CLIP is trained on pictures of one class each, and {dataset.name} has several labels")
    data = read_captioned(dataset, samples, size)
    labels = torch.tensor([sample.label for sample in samples])
    empty = dataset.classes.index(empty_class) if empty_class in dataset.classes else -1
    return Described(data.pictures, data.captions, labels, torch.where(labels == empty, EMPTY, OBJECT))


def draw_abstract(count: int, size: int, phrases: Sequence[str], seed: int) -> Described:
    """Pictures of coloured shapes, of stripes and of noise; label -1.

    Args:
        count: How many.
        size: Side in pixels.
        phrases: Their captions, in turn.
        seed: Of all of them.
    """
    pictures = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for number in range(count):
        rng = np.random.default_rng(derive(seed, "abstract", number))
        pictures[number] = torch.from_numpy(_abstract(size, rng)).permute(2, 0, 1)
    captions = [phrases[number % len(phrases)] for number in range(count)]
    return Described(pictures, captions, torch.full((count,), -1), torch.full((count,), ABSTRACT))


def _abstract(size: int, rng: np.random.Generator) -> np.ndarray:
    def colour() -> tuple[int, int, int]:
        red, green, blue = rng.integers(0, 256, 3).tolist()
        return red, green, blue

    image = np.full((size, size, 3), colour(), np.uint8)
    kind = rng.random()
    if kind < 0.1:  # nothing at all
        return image
    if kind < 0.2:
        grain = int(rng.integers(1, 9))
        noise = rng.integers(0, 256, (-(-size // grain), -(-size // grain), 3)).astype(np.uint8)
        return np.ascontiguousarray(noise.repeat(grain, 0).repeat(grain, 1)[:size, :size])
    if kind < 0.35:
        y, x = np.mgrid[:size, :size] / size
        angle, count = rng.uniform(0, np.pi), rng.uniform(2, 10)
        odd = np.sin(2 * np.pi * count * (x * np.cos(angle) + y * np.sin(angle))) > 0
        image[odd] = colour()
        return image
    for _ in range(rng.integers(1, 6)):
        corners = rng.integers(0, size, (int(rng.integers(3, 6)), 2)).astype(np.int32)
        if rng.random() < 0.4:
            cv2.circle(image, corners[0].tolist(), int(rng.integers(size // 16, size // 3)), colour(), -1, cv2.LINE_AA)
        elif rng.random() < 0.5:
            cv2.rectangle(image, corners[0].tolist(), corners[1].tolist(), colour(), -1)
        else:
            cv2.fillConvexPoly(image, cv2.convexHull(corners), colour(), cv2.LINE_AA)
    return image


def joined(first: Described, second: Described) -> Described:
    """Both, one after the other."""
    return Described(
        torch.cat([first.pictures, second.pictures]),
        first.captions + second.captions,
        torch.cat([first.labels, second.labels]),
        torch.cat([first.topics, second.topics]),
    )
