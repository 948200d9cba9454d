"""Accuracy overall and by group (Sagawa et al., 2020), with the number of images behind each figure."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def count_correct(
    logits: Tensor, targets: Tensor, groups: Tensor, valid: Tensor, num_groups: int
) -> tuple[Tensor, Tensor]:
    """Count the images whose largest logit is at their label, and all images, by group.

    A row of logits with a NaN counts as wrong: its argmax would be an answer nobody gave.

    Args:
        logits: ``(B, K)``.
        targets: ``(B, K)``; the label is the largest entry.
        groups: ``(B,)`` integers in ``[-1, num_groups)``; -1 is an image of no group.
        valid: ``(B,)`` booleans; false is left out (samples repeated to even out processes).
        num_groups: G.

    Returns:
        Correct and total, each ``(G + 1,)`` integers; the last entry is for images of no group.

    >>> logits, targets = torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.eye(2)
    >>> count_correct(logits, targets, torch.tensor([0, 0]), torch.tensor([True, True]), num_groups=1)
    (tensor([1, 0]), tensor([2, 0]))
    """
    hits = (logits.argmax(dim=1) == targets.argmax(dim=1)) & ~logits.isnan().any(dim=1)
    slots = torch.where(groups < 0, num_groups, groups)
    zeros = torch.zeros(num_groups + 1, dtype=torch.long, device=logits.device)
    return zeros.index_add(0, slots, (hits & valid).long()), zeros.index_add(0, slots, valid.long())


class GroupAccuracy(Metric):
    """Top-1 accuracy over all images and in each group, summed over batches and processes.

    Args:
        num_groups: G; 0 when the dataset has no groups.

    >>> metric = GroupAccuracy(num_groups=2)
    >>> metric.update(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.tensor([True, True]))
    >>> metric.compute()["score"]
    1.0
    """

    full_state_update = False
    higher_is_better = True
    correct: Tensor
    total: Tensor

    def __init__(self, num_groups: int) -> None:
        super().__init__()
        if num_groups < 0:
            raise ValueError(f"num_groups: expected 0 or more, came {num_groups}")
        self.num_groups = num_groups
        for name in ("correct", "total"):
            self.add_state(name, torch.zeros(num_groups + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor, groups: Tensor, valid: Tensor) -> None:
        """Count a batch; arguments as in :func:`count_correct`."""
        correct, total = count_correct(logits, targets, groups, valid, self.num_groups)
        self.correct += correct
        self.total += total

    def compute(self) -> dict[str, Any]:
        """Compute what the results record, in plain numbers.

        Returns:
            ``score``, the accuracy in [0, 1] over all images (NaN before the first), and their number ``n``. With
            groups also ``group_score`` and ``group_n``, a list each (a score is None where there is no image), and of
            the group with the lowest score its index ``worst_group`` and ``worst_group_score``.
        """
        correct, total = self.correct.tolist(), self.total.tolist()
        n = sum(total)
        values = {"score": sum(correct) / n if n else math.nan, "n": n}
        if self.num_groups == 0:
            return values
        scores = [right / all_ if all_ else None for right, all_ in zip(correct[:-1], total[:-1], strict=True)]
        lowest, worst = min(((s, group) for group, s in enumerate(scores) if s is not None), default=(None, None))
        return values | {
            "group_score": scores,
            "group_n": total[:-1],
            "worst_group": worst,
            "worst_group_score": lowest,
        }
