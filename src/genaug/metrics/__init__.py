"""What a trained network is measured by: pure functions, and torchmetrics classes that add them up."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchmetrics import Metric

    from genaug.data.base import Dataset


def metric_for(dataset: Dataset) -> Metric:
    """Choose the metric of a dataset: mean average precision when multi-label, else accuracy and macro F1."""
    if dataset.multilabel:
        from genaug.metrics.mean_average_precision import MeanAveragePrecision

        return MeanAveragePrecision(len(dataset.classes))
    from genaug.metrics.classification import ClassificationScores

    return ClassificationScores(len(dataset.classes), len(dataset.groups), dataset.group_shares, dataset.score)
