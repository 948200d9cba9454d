"""Mean average precision for images that show several classes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multilabel_average_precision
from torchmetrics.utilities import dim_zero_cat


class MeanAveragePrecision(Metric):
    """All-point average precision of each class, averaged over the classes that occur.

    Args:
        num_classes: K.

    Example:
        >>> metric = MeanAveragePrecision(2)
        >>> logits, targets = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> metric.update(logits, targets, torch.tensor([-1, -1]), torch.tensor([True, True]))
        >>> metric.compute()["score"]
        1.0
    """

    full_state_update = False
    logits: list[Tensor]
    targets: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor, groups: Tensor, valid: Tensor) -> None:
        """Add a batch: logits and multi-hot targets ``(B, K)``; groups are not used; ``valid`` (B,) masks repeats."""
        self.logits.append(logits[valid].float())
        self.targets.append(targets[valid].long())

    def compute(self) -> dict[str, Any]:
        """``score`` in [0, 1], ``n`` images, and the average precision by class (``None``: no positive image)."""
        logits, targets = dim_zero_cat(self.logits), dim_zero_cat(self.targets)
        # torchmetrics takes numbers in [0, 1]. Ranks keep the order that a sigmoid loses where it saturates; a NaN, an
        # answer nobody gave, comes last.
        ranks = [column.unique(return_inverse=True)[1] for column in logits.nan_to_num(-math.inf).unbind(1)]
        scores = torch.stack(ranks, 1) / len(logits)
        by_class = multilabel_average_precision(scores, targets, self.num_classes, average="none")
        present = targets.sum(0) > 0
        values = [float(value) if there else None for value, there in zip(by_class, present, strict=True)]
        return {"score": float(by_class[present].mean()), "metric": "map", "n": len(targets), "by_class": values}
