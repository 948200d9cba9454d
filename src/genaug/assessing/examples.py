"""Which images of a method are looked at: one of each of a fixed set of sources, the same set for all methods."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from genaug.data.base import Sample
from genaug.data.images import RealImages
from genaug.methods.base import Made, View
from genaug.seeding import derive
from genaug.synthesis.extra import one_of_each
from genaug.synthesis.image_store import encode_png
from genaug.synthesis.images import SyntheticImages, labels_of
from genaug.synthesis.store import write_atomically

#: Draws from a view that may give the real image before it is left out.
DRAWS = 16


@dataclass(frozen=True, slots=True)
class Example:
    """A made image beside its source.

    Attributes:
        source: The real image, or the one whose place in training it takes.
        made: The made one; its label may be soft.
    """

    source: Sample
    made: Sample


def choose_sources(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """At most ``count`` of the samples, the classes in turn; it depends on their ids and on no order.

    >>> birds = [Sample(f"{kind}{number}", Path(), label) for label, kind in enumerate("ab") for number in range(3)]
    >>> [sample.label for sample in choose_sources(birds, 5, 0)]
    [0, 1, 0, 1, 0]
    """
    by_class: dict[int, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda one: derive(seed, "source", one.id)):
        by_class[labels_of(sample.label)[0] if labels_of(sample.label) else -1].append(sample)
    rounds = zip_longest(*(by_class[label] for label in sorted(by_class)))
    return [sample for turn in rounds for sample in turn if sample is not None][:count]


def examples_of(
    made: Made, view: View | None, real: RealImages, sources: Sequence[Sample], folder: Path, seed: int
) -> list[Example]:
    """One made image of each source that has any.

    Args:
        made: What the offline stage made: images, or parts that ``view`` puts together.
        view: The training view; what it draws, where it is not the real image, is written to ``folder``.
        real: The training images.
        sources: Some of them.
        folder: For images that are made while training only.
        seed: Names the draws.
    """
    if isinstance(made, SyntheticImages):
        source_of = {sample.id: source for sample, source in zip(made.samples, made.sources, strict=True)}
        chosen = {source_of[one.id]: one for one in one_of_each(made.samples, made.sources, seed)}
        return [Example(sample, chosen[sample.id]) for sample in sources if sample.id in chosen]
    return [] if view is None else _drawn(view(real, made), real, sources, folder, seed)


def _drawn(source: Any, real: RealImages, sources: Sequence[Sample], folder: Path, seed: int) -> list[Example]:
    numbers = {sample.id: number for number, sample in enumerate(real.samples)}
    found = []
    for sample in sources:
        number = numbers[sample.id]
        original = real.draw(number, np.random.default_rng(0))[0]
        for attempt in range(DRAWS):
            image, target = source.draw(number, np.random.default_rng(derive(seed, "draw", sample.id, attempt)))
            if not np.array_equal(image, original):
                path = folder / f"{number:06d}.png"
                write_atomically(path, encode_png(image))
                soft = tuple((int(label), float(target[label])) for label in np.flatnonzero(target > 0))
                shown = replace(sample, id=f"{folder.name}/{path.name}", path=path, soft_label=soft)
                found.append(Example(sample, _bare(shown)))
                break
    return found


def _bare(sample: Sample) -> Sample:
    """Without what is known of the source alone."""
    return replace(sample, mask=None, mask_values=None, box=None, caption=None)
