"""A training view that adds a chosen number of synthetic images: one of each source, so many of a class (ALIA)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from genaug.data.base import Sample
from genaug.data.images import RealImages
from genaug.seeding import derive
from genaug.synthesis.images import Concatenated, SyntheticImages


class OnePerSource:
    """Training view: the real images, and one synthetic image, drawn at random, of each source that has any.

    Args:
        extra: How many are added: null all, a number so many of each class, or a number for each class by name, as
            ALIA adds as many as a set of real images would have. Of a class that has fewer, images come again.
        seed: Names the draws; not the training's, so that all seeds of a study see the same images.

    Raises:
        ValueError: a number is below 0.
    """

    def __init__(self, extra: int | Mapping[str, int] | None = None, seed: int = 0) -> None:
        numbers = [] if extra is None else [extra] if isinstance(extra, int) else list(extra.values())
        if any(number < 0 for number in numbers):
            raise ValueError(f"method.view.extra={extra} must be null, or 0 or more images of each class.")
        self.extra, self.seed = extra, seed

    def __call__(self, real: RealImages, made: SyntheticImages) -> Concatenated:
        """The source that draws both.

        Raises:
            ValueError: ``extra`` names a class that there is not, or asks for numbers by class of images that show
                several.
        """
        chosen = one_of_each(made.samples, made.sources, self.seed)
        if self.extra is None:
            return Concatenated(real, chosen)
        wanted = dict.fromkeys(made.classes, self.extra) if isinstance(self.extra, int) else dict(self.extra)
        if unknown := sorted(set(wanted) - set(made.classes)):
            raise ValueError(f"method.view.extra names classes that the data set does not have: {', '.join(unknown)}.")
        labels = {made.classes.index(name): number for name, number in wanted.items()}
        return Concatenated(real, budgeted(chosen, labels, self.seed))


def one_of_each(samples: Sequence[Sample], sources: Sequence[str], seed: int) -> list[Sample]:
    """One of the samples of each source, in the order of the sources; which depends on the samples' ids alone."""
    by_source: dict[str, list[Sample]] = defaultdict(list)
    for sample, source in zip(samples, sources, strict=True):
        by_source[source].append(sample)
    return [min(group, key=lambda sample: derive(seed, "one", sample.id)) for group in by_source.values()]


def budgeted(samples: Sequence[Sample], wanted: Mapping[int, int], seed: int) -> list[Sample]:
    """So many samples of each class; a larger number takes the samples of a smaller one, too.

    Args:
        samples: To choose from; each of one class.
        wanted: How many, by label; none of a class that is not named.
        seed: Names the draw.

    Raises:
        ValueError: a sample has several labels.
    """
    by_label: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        if isinstance(sample.label, tuple):
            raise ValueError("method.view.extra counts images by class, and these show several: set it to null.")
        by_label[sample.label].append(sample)
    chosen = []
    for label, number in wanted.items():
        ranked = sorted(by_label[label], key=lambda sample: derive(seed, "extra", sample.id))
        chosen += [ranked[index % len(ranked)] for index in range(number if ranked else 0)]
    return chosen
