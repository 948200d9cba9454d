"""Draws from a list of samples that depend on a seed and the samples' ids only.

Not on the order of the list, the machine or the version of a random number library; and an image that joins a class
leaves the draws of all other classes as they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from genaug.data.base import Sample
from genaug.seeding import derive


def few_shot(samples: Sequence[Sample], shots: int, seed: int) -> list[Sample]:
    """Draw ``shots`` images of each class, sorted by id; fewer shots are among those of more.

    Images with several labels have no class of their own: of those, ``shots`` times the number of classes are drawn
    from all of them alike.

    >>> from pathlib import Path
    >>> animals = [Sample(f"{kind}/{i}", Path(), label) for label, kind in enumerate(["cat", "dog"]) for i in range(9)]
    >>> [sample.label for sample in few_shot(animals, shots=2, seed=0)]
    [0, 0, 1, 1]

    Raises:
        ValueError: ``shots`` is below 1, or a class has fewer images.
    """
    if shots < 1:
        raise ValueError(f"subset.shots={shots} is not possible: take 1 or more images per class.")
    drawn = []
    for stratum in _strata(samples):
        wanted = shots * _num_classes(stratum)
        if len(stratum) < wanted:
            raise ValueError(
                f"subset.shots={shots} needs {wanted} images with label {stratum[0].label} (such as "
                f"{stratum[0].id!r}), but there are {len(stratum)}: lower subset.shots or add images."
            )
        drawn += _shuffled(stratum, seed, "few_shot")[:wanted]
    return _by_id(drawn)


def long_tail(samples: Sequence[Sample], imbalance: float, seed: int) -> list[Sample]:
    """Draw a training set with few frequent classes and many rare ones, sorted by id.

    The classes in descending order of their images, those of equal number in the order of their labels, keep
    ``n * imbalance ** (k / (K - 1))`` images, rounded down, at least one and at most what they have: n is the number
    of the largest and k = 0 ... K - 1 the rank of a class. So Diff-Mix makes its imbalanced CUB, but for n, its mean of
    all classes, and K - 2 in the place of K - 1. A smaller ``imbalance`` draws from what a larger one does.

    Args:
        samples: Images of one class each.
        imbalance: Images of the rarest class over those of the most frequent one, in (0, 1].
        seed: Names the draw.

    >>> from pathlib import Path
    >>> animals = [Sample(f"{kind}/{i}", Path(), kind) for kind in range(3) for i in range(100)]
    >>> drawn = [sample.label for sample in long_tail(animals, imbalance=0.01, seed=0)]
    >>> [drawn.count(kind) for kind in range(3)]
    [100, 10, 1]

    Raises:
        ValueError: ``imbalance`` is out of range, or images have several labels.
    """
    if not 0 < imbalance <= 1:
        raise ValueError(f"subset.imbalance={imbalance} is not possible: take a number above 0, at most 1.")
    if any(isinstance(sample.label, tuple) for sample in samples):
        raise ValueError(
            f"subset.imbalance={imbalance} needs images of one class each, and these have several labels: set "
            "subset.imbalance=null."
        )
    classes = sorted(_strata(samples), key=len, reverse=True)  # a stable sort: equal ones stay in the order of labels
    drawn = []
    for rank, stratum in enumerate(classes):
        wanted = len(classes[0]) * imbalance ** (rank / max(1, len(classes) - 1))
        # The small number keeps whole what is whole but for rounding.
        drawn += _shuffled(stratum, seed, "long_tail")[: max(1, math.floor(wanted + 1e-9))]
    return _by_id(drawn)


def training_subset(
    samples: Sequence[Sample], shots: int | None, imbalance: float | None, seed: int
) -> Sequence[Sample]:
    """What ``subset`` in the configuration asks for; with both, the most frequent class has ``shots`` images.

    Args:
        samples: The training split.
        shots: See :func:`few_shot`; ``None`` takes all.
        imbalance: See :func:`long_tail`; ``None`` leaves the classes as they are.
        seed: Names the draw.

    Raises:
        ValueError: see there.
    """
    if shots is not None:
        samples = few_shot(samples, shots, seed)
    return samples if imbalance is None else long_tail(samples, imbalance, seed)


def hold_out(samples: Sequence[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split into what stays for training and what is held out, each sorted by id.

    Of each class about ``fraction`` is held out: at least one image, and never all of them, so that a class of one
    image stays whole. Images with several labels are drawn from all of them alike.

    Raises:
        ValueError: ``fraction`` is not between 0 and 1, or no class has the two images it takes to hold one out.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"A share to hold out lies between 0 and 1 (0.1 = a tenth); got {fraction}.")
    train: list[Sample] = []
    held: list[Sample] = []
    for stratum in _strata(samples):
        count = min(max(math.floor(fraction * len(stratum) + 0.5), 1), len(stratum) - 1)
        shuffled = _shuffled(stratum, seed, "hold_out")
        held += shuffled[:count]
        train += shuffled[count:]
    if not held:
        raise ValueError(f"Nothing can be held out of {len(samples)} images: it takes two of a class.")
    return _by_id(train), _by_id(held)


def _strata(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples by class, sorted by id; those with several labels are one stratum."""
    by_label: dict[int, list[Sample]] = defaultdict(list)
    for sample in _by_id(samples):
        by_label[-1 if isinstance(sample.label, tuple) else sample.label].append(sample)
    return [by_label[label] for label in sorted(by_label)]


def _num_classes(stratum: Sequence[Sample]) -> int:
    """How many classes a stratum holds: one, unless its images have several labels."""
    labels = (sample.label if isinstance(sample.label, tuple) else (sample.label,) for sample in stratum)
    return len(set().union(*labels))


def _shuffled(samples: Iterable[Sample], seed: int, use: str) -> list[Sample]:
    return sorted(samples, key=lambda sample: (derive(seed, use, sample.id), sample.id))


def _by_id(samples: Iterable[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda sample: sample.id)
