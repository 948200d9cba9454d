"""Mean average precision for images that show several classes, in the three ways it is published."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_precision_recall_curve
from torchmetrics.utilities import dim_zero_cat

#: What a state says of a class that may or may not be present.
UNKNOWN = -1


def average_precision(precision: Tensor, recall: Tensor) -> float:
    """Area under the curve as it is, the sum of precision times the step in recall (scikit-learn's definition).

    Args:
        precision: ``(T,)``, at falling thresholds.
        recall: ``(T,)``, which never falls.
    """
    return float((torch.diff(recall, prepend=recall.new_zeros(1)) * precision).sum())


def voc2010(precision: Tensor, recall: Tensor) -> float:
    """Area under the curve's envelope, the best precision at this recall or a larger one (PASCAL VOC from 2010 on).

    Args:
        precision: ``(T,)``, see :func:`average_precision`.
        recall: ``(T,)``.

    >>> voc2010(torch.tensor([0.0, 0.5, 2 / 3]), torch.tensor([0.0, 0.5, 1.0]))  # 2/3 at all recalls
    0.6666666865348816
    """
    return average_precision(precision.flip(0).cummax(0).values.flip(0), recall)


def voc2007(precision: Tensor, recall: Tensor) -> float:
    """Mean of the envelope at the recalls 0, 0.1, …, 1 (PASCAL VOC up to 2009).

    Args:
        precision: ``(T,)``, see :func:`average_precision`.
        recall: ``(T,)``, reaching 1.

    >>> voc2007(torch.tensor([1.0, 0.5]), torch.tensor([0.5, 1.0]))  # 1 at 0 to 0.5, 0.5 at 0.6 to 1
    0.7727272727272727
    """
    # 3 of 10 images is a recall of 0.3, whatever rounding says.
    reached = [precision[recall * 10 >= tenth - 1e-5].max() for tenth in range(11)]
    return sum(map(float, reached)) / 11


#: The scores by name; the first is what checkpoints are chosen by.
WAYS = {"map": average_precision, "map_voc2007": voc2007, "map_voc2010": voc2010}


def precision_recall(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Precision and recall at every score, from the highest down; images of one score are counted together.

    Args:
        logits: ``(n,)`` of one class.
        targets: ``(n,)``, 0 or 1, at least one 1.

    Returns:
        ``(T,)`` each.
    """
    # torchmetrics takes numbers in [0, 1]. Ranks keep the order that a sigmoid loses where it saturates; a NaN, an
    # answer nobody gave, comes last.
    ranks = logits.nan_to_num(nan=-math.inf).unique(return_inverse=True)[1]
    precision, recall, _ = binary_precision_recall_curve(ranks / len(ranks), targets)
    return precision[:-1].flip(0), recall[:-1].flip(0)  # without the point (1, 0) that the curve is made to end in


class MeanAveragePrecision(Metric):
    """Average precision of each class, averaged over the classes that occur.

    ``map`` is the area under the curve of precision and recall, without interpolation; ``map_voc2007`` and
    ``map_voc2010`` are what PASCAL VOC's development kits compute, but for images of one score, which those put in some
    order. An image of which nobody knows whether it shows a class (VOC's "difficult" objects) does not count for it.

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
    higher_is_better = True
    logits: list[Tensor]
    targets: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor, groups: Tensor, valid: Tensor) -> None:
        """Add a batch.

        Args:
            logits: ``(B, K)``.
            targets: ``(B, K)``, multi-hot; NaN where nobody knows.
            groups: Not used.
            valid: ``(B,)`` booleans; false is left out (samples repeated to even out processes).
        """
        self.logits.append(logits[valid].float())
        self.targets.append(targets[valid].nan_to_num(nan=UNKNOWN).long())

    def compute(self) -> dict[str, Any]:
        """Compute what the results record, in plain numbers.

        Returns:
            ``score`` in [0, 1], which is ``map``, the number ``n`` of images, ``map``, ``map_voc2007`` and
            ``map_voc2010``, each NaN where no class occurs, and ``by_class``: under each of these names a list of what
            each class has, None where no image shows it.
        """
        logits, targets = dim_zero_cat(self.logits), dim_zero_cat(self.targets)
        by_class: dict[str, list[float | None]] = {name: [] for name in WAYS}
        for scores, labels in zip(logits.unbind(1), targets.unbind(1), strict=True):
            known = labels != UNKNOWN
            curve = precision_recall(scores[known], labels[known]) if (labels == 1).any() else None
            for name, way in WAYS.items():
                by_class[name].append(None if curve is None else way(*curve))
        means = {name: _mean([value for value in values if value is not None]) for name, values in by_class.items()}
        return {"score": means["map"], "metric": "map", "n": len(targets), **means, "by_class": by_class}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
