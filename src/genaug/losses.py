"""Losses on soft labels ``(B, K)``: one for classes that exclude each other, one for several classes an image."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class SoftCrossEntropy(nn.Module):
    """Cross-entropy of softmax probabilities against soft labels, averaged over the batch.

    Args:
        label_smoothing: Share of each label that is spread evenly over all classes, in [0, 1].

    >>> import torch
    >>> SoftCrossEntropy()(torch.zeros(1, 4), torch.tensor([[0.5, 0.5, 0.0, 0.0]]))  # log(4)
    tensor(1.3863)
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing: expected a number in [0, 1], came {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss, in single precision at least.

        Args:
            logits: ``(B, K)``.
            targets: ``(B, K)``, rows that sum to 1.
        """
        _check_shapes(logits, targets)
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        return F.cross_entropy(logits, targets.to(logits), label_smoothing=self.label_smoothing)


class SoftBCE(nn.Module):
    """Binary cross-entropy of each class's sigmoid against its soft label, averaged over classes and batch.

    >>> import torch
    >>> SoftBCE()(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))  # log(2)
    tensor(0.6931)
    """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss, in single precision at least.

        Args:
            logits: ``(B, K)``.
            targets: ``(B, K)``, each number in [0, 1].
        """
        _check_shapes(logits, targets)
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits))


def _check_shapes(logits: Tensor, targets: Tensor) -> None:
    if logits.ndim != 2 or logits.shape != targets.shape:
        raise ValueError(
            f"expected logits and targets (B, K) of one shape, came {tuple(logits.shape)} and "
            f"{tuple(targets.shape)}; turn class indices into rows with torch.nn.functional.one_hot(labels, K).float()"
        )
