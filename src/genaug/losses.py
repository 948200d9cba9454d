"""Losses on soft labels ``(B, K)``: one for classes that exclude each other, one for several classes an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Among which classes label smoothing divides its share.
SPREADS = ("all", "others")

#: In the place of a sum that is 0, and divides nothing.
TINY = 1e-12


class SoftCrossEntropy(nn.Module):
    """Cross-entropy of softmax probabilities against soft labels, averaged over the batch.

    A label must be known: of classes that exclude each other, NaN for one leaves the others open, and the loss is NaN.

    Args:
        label_smoothing: Share of each label that is spread evenly over all classes, in [0, 1].
        spread: Among how many classes the share is divided: ``all`` K, as torch does, or the K - 1 ``others``. As in
            Diff-Mix's code, each of the K classes is given that part then, and a label sums to a little more than 1.
        weight: ``(K,)``, how much each class counts; ``None`` counts all alike. For labels of one class the loss is
            that of ``torch.nn.CrossEntropyLoss(weight=...)``: the mean is one of the images, weighted by their class.
            An image of several classes weighs as much as they do on average.

    Raises:
        ValueError: an argument is out of range or unknown.

    >>> SoftCrossEntropy()(torch.zeros(1, 4), torch.tensor([[0.5, 0.5, 0.0, 0.0]]))  # log(4)
    tensor(1.3863)
    """

    weight: Tensor | None

    def __init__(
        self, label_smoothing: float = 0.0, spread: str = "all", weight: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing: expected a number in [0, 1], came {label_smoothing}")
        if spread not in SPREADS:
            raise ValueError(f"spread={spread!r} is not known: choose one of {', '.join(SPREADS)}")
        if weight is not None and (min(weight) < 0 or max(weight) == 0):
            raise ValueError(f"weight: expected numbers of 0 or more, some of them above, came {list(weight)}")
        self.label_smoothing, self.spread = label_smoothing, spread
        # On the network's device, and in no checkpoint: the data tell it.
        self.register_buffer("weight", None if weight is None else torch.tensor(list(weight)), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss, in single precision at least.

        Args:
            logits: ``(B, K)``.
            targets: ``(B, K)``, rows that sum to 1 (or to less or more, where a method says so).
        """
        _check_shapes(logits, targets)
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        targets = targets.to(logits)
        among = targets.shape[1] - (self.spread == "others")
        labels = (1 - self.label_smoothing) * targets + self.label_smoothing / among
        if self.weight is None:
            return F.cross_entropy(logits, labels)
        weight = self.weight.to(logits)
        shares = targets / targets.sum(dim=1, keepdim=True).clamp(min=TINY)
        return F.cross_entropy(logits, labels * weight, reduction="sum") / (shares * weight).sum().clamp(min=TINY)


class SoftBCE(nn.Module):
    """Binary cross-entropy of each class's sigmoid against its soft label, averaged over all labels that are known.

    A label that is NaN is unknown and left out; where all are, the loss is 0 and so are its gradients. A label above 1,
    which SnapMix can give to a class that both images show, counts as 1: the loss would have no lower bound otherwise.

    >>> SoftBCE()(torch.zeros(1, 2), torch.tensor([[1.0, float("nan")]]))  # log(2)
    tensor(0.6931)
    """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss, in single precision at least.

        Args:
            logits: ``(B, K)``.
            targets: ``(B, K)``, each number in [0, 1] or NaN.
        """
        _check_shapes(logits, targets)
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        known = ~targets.isnan()
        labels = torch.where(known, targets, 0).clamp(max=1).to(logits)
        summed = F.binary_cross_entropy_with_logits(logits, labels, weight=known.to(logits), reduction="sum")
        return summed / known.sum().clamp(min=1)


def inverse_frequency(counts: Sequence[int]) -> list[float]:
    """Weights of classes, the rarest's 1 and the others' less the more images they have: 1 / n over its maximum (ALIA).

    Args:
        counts: Training images of each class. A class of none gets 0: there is nothing to learn it from, and label
            smoothing is not to make it the one that counts most.

    >>> inverse_frequency([10, 5, 20, 0])
    [0.5, 1.0, 0.25, 0.0]
    """
    fewest = min(count for count in counts if count)
    return [fewest / count if count else 0.0 for count in counts]


def _check_shapes(logits: Tensor, targets: Tensor) -> None:
    if logits.ndim != 2 or logits.shape != targets.shape:
        raise ValueError(
            f"expected logits and targets (B, K) of one shape, came {tuple(logits.shape)} and "
            f"{tuple(targets.shape)}; turn class indices into rows with torch.nn.functional.one_hot(labels, K).float()"
        )
