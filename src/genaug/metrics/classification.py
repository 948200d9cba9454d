"""Scores where each image shows one class: accuracy, by group too (Sagawa et al., 2020), and macro F1 (WILDS)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

SCORES = ("accuracy", "weighted_accuracy", "macro_f1")


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


def count_answers(logits: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By class: images of it answered rightly, images answered with it, and images of it.

    A row of logits with a NaN is no answer.

    Args:
        logits: ``(B, K)``.
        targets: ``(B, K)``; the label is the largest entry.
        valid: ``(B,)`` booleans; false is left out.

    Returns:
        Three times ``(K,)`` integers.

    >>> logits, targets = torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.eye(2)
    >>> count_answers(logits, targets, torch.tensor([True, True]))
    (tensor([1, 0]), tensor([2, 0]), tensor([1, 1]))
    """
    answers, labels = logits.argmax(dim=1), targets.argmax(dim=1)
    answered = valid & ~logits.isnan().any(dim=1)
    zeros = torch.zeros(targets.shape[1], dtype=torch.long, device=logits.device)
    hits = zeros.index_add(0, labels, (answered & (answers == labels)).long())
    return hits, zeros.index_add(0, answers, answered.long()), zeros.index_add(0, labels, valid.long())


def macro_f1(hits: Tensor, answers: Tensor, labels: Tensor) -> float:
    """F1 averaged over the classes that occur among the labels, as WILDS scores iWildCam; NaN where none does.

    Args:
        hits: ``(K,)``, see :func:`count_answers`.
        answers: ``(K,)``.
        labels: ``(K,)``.

    >>> macro_f1(torch.tensor([1, 1, 0]), torch.tensor([2, 1, 1]), torch.tensor([1, 3, 0]))  # (2/3 + 2/4) / 2
    0.5833333333333333
    """
    there = labels > 0
    return float((2 * hits / (answers + labels).clamp(min=1).double())[there].mean())


class ClassificationScores(Metric):
    """Top-1 accuracy over all images and in each group, and macro F1, summed over batches and processes.

    Args:
        num_classes: K.
        num_groups: G; 0 when the dataset has no groups.
        group_shares: Weight of each group in ``weighted_accuracy``; None computes none.
        score: Which number is the score: one of :data:`SCORES`.

    Raises:
        ValueError: a number is below 0, the score is unknown, or weights are needed and there are none.

    >>> metric = ClassificationScores(num_classes=2, num_groups=2)
    >>> metric.update(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.tensor([True, True]))
    >>> metric.compute()["score"]
    1.0
    """

    full_state_update = False
    higher_is_better = True
    correct: Tensor
    total: Tensor
    hits: Tensor
    answers: Tensor
    labels: Tensor

    def __init__(
        self,
        num_classes: int,
        num_groups: int = 0,
        group_shares: Sequence[float] | None = None,
        score: str = "accuracy",
    ) -> None:
        super().__init__()
        if num_groups < 0 or num_classes < 0:
            raise ValueError(f"expected 0 or more classes and groups, came {num_classes} and {num_groups}")
        if score not in SCORES:
            raise ValueError(f"score={score!r} is not known: choose one of {', '.join(SCORES)}")
        if (group_shares is None and score == "weighted_accuracy") or len(group_shares or ()) not in (0, num_groups):
            raise ValueError(f"weighted_accuracy needs a share of each of the {num_groups} groups, came {group_shares}")
        self.num_groups, self.group_shares, self.score = num_groups, group_shares, score
        for name in ("correct", "total"):
            self.add_state(name, torch.zeros(num_groups + 1, dtype=torch.long), dist_reduce_fx="sum")
        for name in ("hits", "answers", "labels"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor, groups: Tensor, valid: Tensor) -> None:
        """Count a batch; arguments as in :func:`count_correct`."""
        correct, total = count_correct(logits, targets, groups, valid, self.num_groups)
        self.correct += correct
        self.total += total
        for state, count in zip(
            (self.hits, self.answers, self.labels), count_answers(logits, targets, valid), strict=True
        ):
            state += count

    def compute(self) -> dict[str, Any]:
        """Compute what the results record, in plain numbers.

        Returns:
            ``score`` in [0, 1] (NaN before the first image), what it is as ``metric``, the number ``n`` of images,
            ``accuracy`` and ``macro_f1``. With groups also ``group_score`` and ``group_n``, a list each (a score is
            None where there is no image), and of the group with the lowest score its index ``worst_group`` and
            ``worst_group_score``; with shares ``weighted_accuracy``, over the groups that have images.
        """
        correct, total = self.correct.tolist(), self.total.tolist()
        n = sum(total)
        values: dict[str, Any] = {
            "accuracy": sum(correct) / n if n else math.nan,
            "macro_f1": macro_f1(self.hits, self.answers, self.labels),
        }
        if self.num_groups:
            values |= self._by_group(correct[:-1], total[:-1])
        return {"score": values[self.score], "metric": self.score, "n": n} | values

    def _by_group(self, correct: list[int], total: list[int]) -> dict[str, Any]:
        scores = [right / all_ if all_ else None for right, all_ in zip(correct, total, strict=True)]
        lowest, worst = min(((s, group) for group, s in enumerate(scores) if s is not None), default=(None, None))
        values: dict[str, Any] = {"group_score": scores, "group_n": total}
        values |= {"worst_group": worst, "worst_group_score": lowest}
        if self.group_shares is not None:
            there = [(share, s) for share, s in zip(self.group_shares, scores, strict=True) if s is not None]
            whole = sum(share for share, _ in there)
            values["weighted_accuracy"] = sum(share * s for share, s in there) / whole if whole else math.nan
        return values
