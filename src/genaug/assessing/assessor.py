"""Measures of made images: whether they still show their class, and how much else they show.

De-DA's Table 1 says "high", "medium" or "low" of each method's fidelity and diversity; these are numbers for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from genaug.assessing.examples import Example
from genaug.console import track
from genaug.data.base import Dataset, Sample
from genaug.data.images import target_of
from genaug.data.reading import read_image
from genaug.metrics.made_images import background_change, mask_iou, psnr, spread_within
from genaug.segmentation.base import Segmenter
from genaug.segmentation.masks import Masks, make_masks
from genaug.synthesis.images import labels_of

#: Measures by their names in records: heading in the table, and digits. The first two are of fidelity.
MEASURES = {
    "label": ("label ↑", 3),
    "iou": ("IoU ↑", 3),
    "psnr": ("PSNR ↓", 1),
    "spread": ("spread ↑", 3),
    "background": ("backgr. ↑", 3),
}

#: ``(H, W, 3)`` uint8 images to predicted classes.
Judge = Callable[[Sequence[np.ndarray]], Sequence[int]]


class Features(Protocol):
    """What images are compared by: CLIP, or :class:`genaug.models.features.TimmFeatures`."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """JSON values that say what computes them."""

    def load(self, device: str) -> None:
        """Get ready."""

    def unload(self) -> None:
        """Give the memory back."""

    def images(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """``(N, D)`` float32, rows of length 1, of ``(H, W, 3)`` uint8 images."""


class Assessor:
    """What is measured, and how.

    Args:
        features: What the spread within a class is measured by.
        segmenter: Finds the subject, in sources and made images alike, so that what it gets wrong in both is no
            difference; annotations of the sources are not used but to say how good it is.
        images: How many sources are looked at, the classes in turn; one made image of each.
        judge_run: Folder of a finished run whose network says which class an image shows; None measures no label.
        seed: Of the choice.
        workers: Threads for masks.

    Raises:
        ValueError: a number is below 1.
    """

    def __init__(
        self,
        features: Features,
        segmenter: Segmenter,
        images: int = 400,
        judge_run: str | Path | None = None,
        seed: int = 0,
        workers: int = 2,
    ) -> None:
        if images < 1 or workers < 1:
            raise ValueError(f"assess.images={images} and assess.workers={workers} must be at least 1.")
        self.features, self.segmenter, self.images = features, segmenter, images
        self.judge_run, self.seed, self.workers = judge_run, seed, workers

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, as JSON values."""
        return {
            "features": dict(self.features.settings),
            "segmenter": self.segmenter.fingerprint,
            "images": self.images,
            "judge_run": None if self.judge_run is None else str(self.judge_run),
            "seed": self.seed,
        }

    def measure(
        self, examples: Sequence[Example], dataset: Dataset, folder: Path, device: str, judge: Judge | None
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Measure made images.

        Args:
            examples: Which.
            dataset: Theirs.
            folder: Of all stores; masks are kept in it.
            device: Where networks compute.
            judge: Names the class of an image; None where nobody is asked.

        Returns:
            For each of :data:`MEASURES` ``mean`` (None where nothing could be measured) and ``n``; and the values of
            each image. Images that are the same as their source have no PSNR; they are counted as ``unchanged``.
        """
        masks = self._masks(examples, dataset, folder, device)
        shared, labels = self.measure_images([example.made for example in examples], dataset, device, judge)
        pairs = track(zip(examples, labels, strict=True), len(examples), "measuring")
        rows = [_row(example, masks) | {"label": label} for example, label in pairs]
        unchanged = sum(row["psnr"] == math.inf for row in rows)
        for row in rows:
            row["psnr"] = None if row["psnr"] == math.inf else row["psnr"]  # JSON knows no infinity
        found = {name: _mean([row[name] for row in rows]) for name in ("iou", "psnr", "background")}
        return {**found, **shared, "unchanged": unchanged, "segmenter_iou": masks.report()["iou"]}, rows

    def measure_images(
        self, samples: Sequence[Sample], dataset: Dataset, device: str, judge: Judge | None
    ) -> tuple[dict[str, Any], list[float | None]]:
        """What needs no source, as of real images, too: spread and label; and the label's weight of each image.

        The weight is that which an image's own label gives to the class that the judge sees: 1 or 0, and what is
        between them where the label is soft.
        """
        images = [read_image(sample.path, channels=3) for sample in samples]
        labels = [labels_of(sample.label) for sample in samples]
        spread: tuple[float | None, int] = (None, 0)
        if images:
            self.features.load(device)
            try:
                spread = spread_within(self.features.images(images), labels)
            finally:
                self.features.unload()
        weights: list[float | None] = [None] * len(images)
        if judge is not None and images:
            targets = (target_of(sample, len(dataset.classes)) for sample in samples)
            seen = [float(row[one]) for row, one in zip(targets, judge(images), strict=True)]
            weights = [weight if math.isfinite(weight) else None for weight in seen]
        return {"spread": {"mean": spread[0], "n": spread[1]}, "label": _mean(weights)}, weights

    def _masks(self, examples: Sequence[Example], dataset: Dataset, folder: Path, device: str) -> Masks:
        """Of sources and made images: no box helps the segmenter, for the made images have none."""
        sources = {example.source.id: replace(example.source, box=None) for example in examples}
        samples = [*sources.values(), *(example.made for example in examples)]
        return make_masks(samples, self.segmenter, dataset, folder / "masks", self.workers, device)


def _row(example: Example, masks: Masks) -> dict[str, Any]:
    """What is measured of one image beside its source."""
    source, made = (read_image(one.path, channels=3) for one in (example.source, example.made))
    before, after = masks[example.source.id], masks[example.made.id]
    return {
        "source": example.source.id,
        "made": example.made.id,
        "psnr": psnr(source, made),
        "iou": mask_iou(before, after),
        "background": background_change(source, made, before, after),
    }


def _mean(values: Sequence[float | None]) -> dict[str, Any]:
    there = [value for value in values if value is not None]
    return {"mean": float(np.mean(there)) if there else None, "n": len(there)}
