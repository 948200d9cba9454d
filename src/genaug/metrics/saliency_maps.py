"""What can be said of a map of importance by itself: whether it says anything, and whether it points at the object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genaug.metrics.rows import RowMetric

#: Why a map says nothing: some value is no number; all are zero (a Grad-CAM of negative parts only); all are the same.
DEGENERATE = ("not finite", "all zero", "constant")


def degenerate(saliency: Tensor) -> Tensor:
    """Find the maps that put no pixel before another: curves over their order would score something all the same.

    Args:
        saliency: ``(B, H, W)``.

    Returns:
        ``(B,)`` integers: -1 for a map that says something, else an index into :data:`DEGENERATE`.

    >>> degenerate(torch.tensor([[[0.0, 1.0]], [[0.0, float("nan")]], [[0.0, 0.0]], [[2.0, 2.0]]])).tolist()
    [-1, 0, 1, 2]
    """
    flat = saliency.flatten(1)
    same = (flat == flat[:, :1]).all(dim=1)
    kind = torch.where(same, torch.where(flat[:, 0] == 0, 1, 2), -1)
    return torch.where(flat.isfinite().all(dim=1), kind, 0)


def counted(kinds: Sequence[int]) -> Tensor:
    """How many maps say nothing, by reason: ``(len(DEGENERATE),)`` integers.

    >>> counted([-1, 0, 2, 2]).tolist()
    [1, 0, 2]
    """
    return torch.tensor([list(kinds).count(kind) for kind in range(len(DEGENERATE))])


def energy_inside(saliency: Tensor, masks: Tensor) -> Tensor:
    """Share of a map's positive part that lies on the object.

    The energy-based pointing game of Score-CAM (Wang et al. 2020, section 4.3).

    Args:
        saliency: ``(B, H, W)``; negative values count as zero.
        masks: ``(B, H, W)`` bool, true on the object.

    Returns:
        ``(B,)`` in [0, 1]; NaN where the map has no positive part or the mask is empty.

    >>> maps = torch.tensor([[[3.0, 1.0], [0.0, -5.0]]])
    >>> energy_inside(maps, torch.tensor([[[True, False], [False, True]]])).tolist()
    [0.75]
    """
    positive = saliency.double().clamp(min=0).flatten(1)
    inside = masks.flatten(1)
    share = (positive * inside).sum(dim=1) / positive.sum(dim=1)
    return torch.where(inside.any(dim=1), share, torch.nan).float()


class MapEnergy(RowMetric):
    """Mean of :func:`energy_inside` over images, and how much of the image the objects cover.

    A map that says nothing about place has, in the mean, the share of the image that the object covers.

    >>> metric = MapEnergy()
    >>> metric.update(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[True, False]]]))
    >>> metric.compute()["mean"], metric.compute()["coverage"]
    (0.75, 0.5)
    """

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.add_rows("energy", (), torch.float)
        self.add_rows("coverage", (), torch.float)

    def update(self, saliency: Tensor, masks: Tensor, index: Sequence[int] | None = None) -> None:
        """Add a batch.

        Args:
            saliency: ``(B, H, W)``.
            masks: ``(B, H, W)`` bool.
            index: A number for each image, its place in the results; counted on where there is none.
        """
        self.append(
            self.numbers(index, len(masks)),
            energy=energy_inside(saliency, masks),
            coverage=masks.flatten(1).float().mean(dim=1),
        )

    def compute(self) -> dict[str, Any]:
        """``mean`` energy and mean ``coverage`` over ``n`` images, and ``index`` with the energy of each image.

        Means over nothing are None; an image whose energy is NaN is in no mean and not in ``n``.
        """
        energy, coverage = self.rows("energy").double(), self.rows("coverage").double()
        there = energy.isfinite()
        n = int(there.sum())
        return {
            "mean": energy[there].mean().item() if n else None,
            "coverage": coverage[there].mean().item() if n else None,
            "n": n,
            "index": self.rows("index").tolist(),
            "per_image": energy.tolist(),
        }
