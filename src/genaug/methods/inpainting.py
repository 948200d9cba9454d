"""Inpainting augmentation, as in the case study of AGA (section 3): everything but the subject is repainted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genaug.data.base import Dataset, Sample
from genaug.functional.masks import shrunk_mask
from genaug.generation.base import Generator
from genaug.segmentation.base import Segmenter
from genaug.segmentation.masks import Masks, make_masks, usable_subjects, without_subject
from genaug.synthesis.jobs import Job, Stage
from genaug.synthesis.per_source import PerSource
from genaug.synthesis.runner import Runner


class Inpainting(PerSource):
    """n new surroundings of each subject, painted around it in its own image.

    Args:
        generator: Inpaints.
        segmenter: Finds the subjects.
        scale: See :class:`PerSource`.
        seed: See :class:`PerSource`.
        prompt: See :class:`PerSource`.
        strength: See :class:`PerSource`; 1 keeps nothing of the old background.
        min_subject: Smallest share of the image a mask may cover.
        max_subject: Largest share: nothing is left to repaint above it.
        workers: Threads for masks.

    Raises:
        ValueError: see :class:`PerSource`; the shares are no range in [0, 1].
    """

    call = "inpaint"

    def __init__(
        self,
        generator: Generator,
        segmenter: Segmenter,
        scale: int = 1,
        seed: int = 0,
        prompt: str = "a photo of {a_name}",
        strength: float = 1.0,
        min_subject: float = 0.005,
        max_subject: float = 0.95,
        workers: int = 2,
    ) -> None:
        super().__init__(generator, scale, seed, prompt, strength)
        if not 0 <= min_subject < max_subject <= 1:
            raise ValueError(f"needed: 0 <= min_subject < max_subject <= 1, got {min_subject} and {max_subject}.")
        self.segmenter, self.workers = segmenter, workers
        self.min_subject, self.max_subject = float(min_subject), float(max_subject)
        self._masks: Masks | None = None
        self._without: dict[str, Any] = {}

    @property
    def masks(self) -> Masks:
        """The masks of the run; there once :meth:`prepare` has been called."""
        assert self._masks is not None
        return self._masks

    def plan(self, samples: Sequence[Sample], dataset: Dataset, folder: Path) -> list[Stage]:
        """See :meth:`PerSource.plan`; which images have no usable subject is known once they are segmented."""
        return [Stage("masks", len(samples)), *super().plan(samples, dataset, folder)]

    def prepare(self, samples: Sequence[Sample], dataset: Dataset, folder: Path, runner: Runner) -> list[Sample]:
        """Masks; a sample without a usable subject has no synthetic image.

        Raises:
            ValueError: no sample has one.
        """
        self._masks = make_masks(samples, self.segmenter, dataset, folder / "masks", self.workers, runner.device)
        usable = usable_subjects(samples, self.masks, self.min_subject, self.max_subject)
        self._without = without_subject(samples, usable, dataset.classes)
        return usable

    def inputs(self, sample: Sample) -> tuple[str, ...]:
        """The mask's key covers the image it was made from; the segmenter's settings are in its fingerprint."""
        return (self.masks.key(sample.id), self.segmenter.fingerprint)

    def more(self) -> dict[str, Any]:
        """Masks, and how many images have none that can be used."""
        return {**self._without, "masks": self.masks.report()}

    def draw(self, images: Sequence[np.ndarray], jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """See :meth:`PerSource.draw`."""
        pairs = zip(jobs, images, strict=True)
        around = [~shrunk_mask(self.masks[job.sources[0]], image.shape[:2]) for job, image in pairs]
        return self.generator.inpaint(images, around, [job.prompt for job in jobs], seeds, self.strength)
