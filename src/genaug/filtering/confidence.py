"""ALIA's confidence filter: images that a trained network finds too easy, or sure to be of another class.

Dunlap et al. 2023, arXiv:2305.16289; thresholds as in confident learning (Northcutt et al. 2021,
arXiv:1911.00068, equation 2), which the published code takes from cleanlab.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from genaug.data.base import Dataset
from genaug.filtering.base import Candidate, Circumstances, Filter, Judgement, kept_scores

if TYPE_CHECKING:
    from genaug.explaining.finished import FinishedRun

log = logging.getLogger(__name__)

TOO_EASY, MISLABELLED = "too easy: hardly changed", "sure to be of another class"


class Confidence(Filter):
    """Drops images whose class a network, trained on the real images alone, is too sure of.

    The network is too sure of a class where it gives it more than, on average, it gives to the training images of that
    class. An image is dropped when this holds for the class it is taken for: if that is its own, it is too much like
    what was there already; if not, it was edited beyond recognition. The score is the probability of that class.

    The published code measures as here, the threshold being that of the class the network predicts.

    Args:
        run: Folder of a finished run on the same data, as ``runs/toybirds/vanilla/<hash>``. None keeps every image.
        batch_size: Images that go through the network together.

    Raises:
        ValueError: ``run`` is no finished run.
    """

    name = "confidence"

    def __init__(self, run: str | Path | None = None, batch_size: int = 64) -> None:
        self.run, self.batch_size = None if run is None else self._folder(Path(run)), batch_size

    @staticmethod
    def _folder(run: Path) -> Path:
        from genaug.explaining.finished import find_finished

        try:
            [folder] = find_finished([str(run)])
        except ValueError as error:
            raise ValueError(
                f"confidence.run={run}: there is not one finished run here. Train one on the real images first, as by "
                f"method=vanilla, and give its folder. ({error})"
            ) from error
        return folder

    @cached_property
    def _network(self) -> str:
        """Hash of the run's network and of how it sees images."""
        from genaug.explaining.finished import CONFIG, WEIGHTS

        if self.run is None:
            return "none"
        digest = hashlib.blake2b(digest_size=8)
        for file in (self.run / CONFIG, self.run / WEIGHTS):
            digest.update(file.read_bytes())
        return digest.hexdigest()

    @property
    def settings(self) -> Mapping[str, Any]:
        """See :attr:`Filter.settings`."""
        return {"network": self._network}

    def judge(self, candidates: Sequence[Candidate], about: Circumstances) -> list[Judgement]:
        """See :meth:`Filter.judge`.

        Raises:
            ValueError: the run has other classes, or the images have several labels.
        """
        if self.run is None:
            log.warning("The confidence filter keeps every image: confidence.run names no finished run to judge by.")
            return [Judgement(True) for _ in candidates]
        if about.dataset.multilabel:
            raise ValueError(f"The confidence filter takes images of one class, and {about.dataset.name} has several.")
        real = [Candidate(sample.id, sample.path, sample.label) for sample in about.samples]
        classes, load = len(about.dataset.classes), cache(partial(self._load, self.run, about.dataset))

        def compute(missing: Sequence[Candidate]) -> list[list[float]]:
            found = load().probabilities([one.path for one in missing], about.device, self.batch_size)
            highest, predicted = found.max(dim=1)
            own = found[torch.arange(len(missing)), torch.tensor([one.label for one in missing])]
            return torch.stack([highest, predicted, own], dim=1).tolist()

        name = f"{self.name}-{self._network}"
        own = [row[2] for row in kept_scores(name, real, about.folder, compute)]
        limits = confident_thresholds(own, [sample.label for sample in about.samples], classes)
        found = kept_scores(name, candidates, about.folder, compute)
        return [
            Judgement(True, highest)
            if highest <= limits[int(predicted)]
            else Judgement(False, highest, TOO_EASY if predicted == one.label else MISLABELLED)
            for one, (highest, predicted, _) in zip(candidates, found, strict=True)
        ]

    @staticmethod
    def _load(run: Path, dataset: Dataset) -> FinishedRun:
        """The network, once it is clear that its classes are the dataset's.

        Raises:
            ValueError: they are not.
        """
        from genaug.explaining.finished import FinishedRun

        found = FinishedRun.load(run)
        if list(found.dataset.classes) != list(dataset.classes):
            raise ValueError(
                f"confidence.run={run} was trained on other classes ({len(found.dataset.classes)} of "
                f"{found.dataset.name}) than {dataset.name} has ({len(dataset.classes)}): give a run on the same data."
            )
        return found


def confident_thresholds(own: Sequence[float], labels: Sequence[Any], classes: int) -> np.ndarray:
    """For each class the mean probability that its own images have of it; infinite for a class without images.

    >>> confident_thresholds([0.5, 1.0, 0.25], [0, 0, 1], 3).tolist()
    [0.75, 0.25, inf]
    """
    sums, counts = np.bincount(labels, own, classes), np.bincount(labels, minlength=classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
