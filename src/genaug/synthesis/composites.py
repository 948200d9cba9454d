"""Renderers that put images together out of images that are there: no model, several threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from genaug.synthesis.jobs import Job
from genaug.threads import thread_pool


class CompositeRenderer(ABC):
    """What such renderers share; see :class:`genaug.synthesis.runner.Renderer`.

    Args:
        workers: Threads.
    """

    #: Jobs that are given to the threads together.
    batch_size = 32

    def __init__(self, workers: int) -> None:
        self.workers = workers

    @abstractmethod
    def compose(self, job: Job, seed: int) -> np.ndarray:
        """The image of a job, ``(H, W, 3)`` uint8."""

    def load(self, device: str) -> None:  # noqa: B027 - nobody else has to load either
        """Nothing to load."""

    def unload(self) -> None:  # noqa: B027 - see load
        """Nothing to give back."""

    def render(self, jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """See :class:`genaug.synthesis.runner.Renderer`."""
        with thread_pool(self.workers) as pool:
            return list(pool.map(self.compose, jobs, seeds))

    def verdict(self, job: Job, image: np.ndarray) -> str:
        """Nothing more can be wrong with a composite: what it is made of has passed."""
        return "ok"
