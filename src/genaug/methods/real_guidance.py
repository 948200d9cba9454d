"""Real-Guidance (He et al. 2023, arXiv:2210.07574, section 3.2): real images, a little noised and denoised again.

Edits are told the name of the class, and those whose class CLIP does not see are dropped
(:class:`genaug.filtering.clip_class.ClipClass`).

The paper noises with GLIDE, at 100 steps of which the first so many are left out: the fewer real images there are of a
class, the more noise, as :data:`STARTS` says. DA-Fusion, Diff-Mix and De-DA compare with a re-implementation on Stable
Diffusion at a fixed strength, De-DA at 0.1. Both are here. Prompts differ from data set to data set in the paper
("a centered satellite photo of {name}").

Not here: the paper makes 800 images of each class whatever the number of real ones, of which the published code then
takes those that the filter kept, or the 800 likeliest; and it tunes a classifier on frozen features of CLIP, on batches
of real and of synthetic images whose two losses are added. Here ``scale`` images are made of each real one, and a
network is trained on all together. Left open by the paper: other numbers of real images than 1, 2, 4, 8 and 16.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genaug.data.base import Dataset, Sample
from genaug.filtering.base import Filter
from genaug.generation.base import Generator
from genaug.synthesis.images import labels_of
from genaug.synthesis.jobs import Job, Stage
from genaug.synthesis.per_source import PerSource
from genaug.synthesis.runner import Runner

#: Noise level by the number of real images of a class: 50, 40, 35, 20 and 15 of GLIDE's 100 steps are run.
STARTS = {1: 0.50, 2: 0.40, 4: 0.35, 8: 0.20, 16: 0.15}


def start_for(shots: int) -> float:
    """The noise level for a class of ``shots`` images: that of the number in :data:`STARTS` nearest to it by ratio.

    >>> [start_for(shots) for shots in (1, 2, 3, 5, 6, 11, 12, 500)]
    [0.5, 0.4, 0.35, 0.35, 0.2, 0.2, 0.15, 0.15]
    """
    return STARTS[min(STARTS, key=lambda known: abs(math.log(shots / known)))]


class GuidedEdits(PerSource):
    """n edits of each real image, told the name of its class.

    Args:
        generator: Edits.
        scale: See :class:`PerSource`.
        seed: See :class:`PerSource`.
        prompt: See :class:`PerSource`.
        strength: Noise level in (0, 1] that all edits start at. None takes :func:`start_for` the number of training
            images of the class; of an image of several classes, of the rarest.
        filters: See :class:`PerSource`.

    Raises:
        ValueError: see :class:`PerSource`.
    """

    call = "image_to_image"
    squeezed = True

    def __init__(
        self,
        generator: Generator,
        scale: int = 10,
        seed: int = 0,
        prompt: str = "a photo of {a_name}",
        strength: float | None = 0.1,
        filters: Sequence[Filter] = (),
    ) -> None:
        super().__init__(
            generator, scale, seed, prompt, max(STARTS.values()) if strength is None else strength, filters
        )
        self.by_shots = strength is None
        self._shots: Counter[int] = Counter()

    def plan(self, samples: Sequence[Sample], dataset: Dataset, folder: Path) -> list[Stage]:
        """See :meth:`PerSource.plan`."""
        self._shots = images_of_classes(samples)
        return super().plan(samples, dataset, folder)

    def prepare(self, samples: Sequence[Sample], dataset: Dataset, folder: Path, runner: Runner) -> list[Sample]:
        """Count the images of each class; every sample can have edits."""
        self._shots = images_of_classes(samples)
        return list(samples)

    @property
    def strengths(self) -> tuple[float, ...]:
        """See :attr:`PerSource.strengths`."""
        return tuple(STARTS.values()) if self.by_shots else super().strengths

    def strength_of(self, sample: Sample, copy: int) -> float:
        """See :meth:`PerSource.strength_of`."""
        if not self.by_shots:
            return self.strength
        return start_for(min(self._shots[label] for label in labels_of(sample.label)))

    def more(self) -> dict[str, Any]:
        """How many classes start at which noise level, where that differs."""
        if not self.by_shots:
            return {}
        return {"starts": dict(Counter(str(start_for(count)) for count in self._shots.values()))}

    def draw(self, images: Sequence[np.ndarray], jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """See :meth:`PerSource.draw`."""
        strength = float(jobs[0].facts["strength"])
        return self.generator.image_to_image(images, [job.prompt for job in jobs], seeds, strength)


def images_of_classes(samples: Sequence[Sample]) -> Counter[int]:
    """How many images show each class.

    >>> images_of_classes([Sample("a", Path("a"), 0), Sample("b", Path("b"), (0, 2))])
    Counter({0: 2, 2: 1})
    """
    return Counter(label for sample in samples for label in labels_of(sample.label))
