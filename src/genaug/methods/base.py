"""A method is four slots, each optional: what is made offline, how it enters training, a batch mixer, a transform.

The first two are here; mixer and transform are configuration groups of their own, so that every method can be
combined with any of them from the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from genaug.data.base import Dataset, Sample
from genaug.data.images import RealImages, Source
from genaug.synthesis.jobs import Stage
from genaug.synthesis.runner import Runner


class Synthesis(Protocol):
    """What a method makes before training starts."""

    def plan(self, samples: Sequence[Sample], dataset: Dataset, folder: Path) -> list[Stage]:
        """What :meth:`make` will do, known without loading, drawing or writing anything."""

    def make(self, samples: Sequence[Sample], dataset: Dataset, folder: Path, side: int, runner: Runner) -> Made:
        """Make what is missing of what ``samples`` need, under ``folder``, and give access to all of it.

        ``side`` is what training resizes images to: more pixels need not be kept. ``runner`` knows the devices.
        """


class Made(Protocol):
    """What an offline stage made."""

    def report(self) -> dict[str, Any]:
        """Counts and scores for the results."""

    def sheet(self, path: Path) -> None:
        """Write a picture that shows a person how it came about."""


class View(Protocol):
    """How real images and what was made of them become the training set."""

    def __call__(self, real: RealImages, made: Any) -> Source:
        """The source that is trained on."""


@dataclass
class Method:
    """What a method adds to plain training.

    Attributes:
        name: As on the command line.
        scale: Synthetic images of each real one that training sees; 0 for methods that add none.
        synthesis: The offline stage, if there is one.
        view: What training draws from; the real images when there is none.
    """

    name: str
    scale: int = 0
    synthesis: Synthesis | None = None
    view: View | None = None
