"""Insertion and deletion: a network's confidence while pixels come or go in the order of a map.

As RISE (Petsiuk et al. 2018) computes them in its ``evaluation.py``, but for pixels of equal importance, whose order
there depends on the machine: here the one further up, then further left, comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from genaug.metrics.rows import RowMetric
from genaug.metrics.saliency_maps import DEGENERATE, counted, degenerate

#: Normalised images ``(N, C, H, W)`` to probabilities ``(N, K)``.
PredictNormalized = Callable[[Tensor], Tensor]

Mode = Literal["insertion", "deletion"]
MODES = ("insertion", "deletion")

#: Scores that an adaptive curve begins with, besides the first: RISE's own coarse curve has so many.
COARSE = 28


def blur(images: Tensor, size: int = 11, sigma: float = 5.0) -> Tensor:
    """Blur with RISE's kernel: what insertion starts from.

    The kernel is a filtered delta whose edges are mirrored, so it is nearly flat (centre to corner 1.14) and not a
    Gaussian cut off at 11 pixels. Outside the image is zero.

    Args:
        images: ``(N, C, H, W)``, as the network is fed: zero is the mean colour, or black without normalisation.
        size: Of the kernel, odd.
        sigma: Of the Gaussian.

    >>> blur(torch.ones(1, 1, 15, 15))[0, 0, 7, 7].round(decimals=5).item()
    1.0
    """
    delta = np.zeros((size, size))
    delta[size // 2, size // 2] = 1
    kernel = torch.from_numpy(gaussian_filter(delta, sigma)).to(images)
    channels = images.shape[1]
    return F.conv2d(images, kernel.expand(channels, 1, size, size), padding=size // 2, groups=channels)


def substrate(images: Tensor, mode: Mode) -> Tensor:
    """What pixels are before they are inserted (a :func:`blur`), or become when deleted (zero: the mean colour)."""
    return blur(images) if mode == "insertion" else torch.zeros_like(images)


def rank_pixels(saliency: Tensor) -> Tensor:
    """The place of each pixel in the order of falling importance, ``(H, W)`` integers from 0.

    >>> rank_pixels(torch.tensor([[1.0, 3.0], [3.0, 2.0]])).tolist()
    [[3, 0], [1, 2]]
    """
    return ranks_of(saliency.flatten().sort(descending=True, stable=True).indices).view(saliency.shape)


def ranks_of(order: Tensor) -> Tensor:
    """The place of each pixel in an order ``(H * W,)`` of pixel numbers, as one that another program gave.

    >>> ranks_of(torch.tensor([2, 0, 1])).tolist()
    [1, 2, 0]
    """
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


@dataclass(frozen=True, slots=True)
class CausalCurve:
    """Confidence after each step.

    Attributes:
        scores: ``(steps + 1,)`` in [0, 1], from no pixel changed to all; between scores that were measured, on the
            straight line.
        area: Under it, by trapezoids, over [0, 1].
        measured: How many scores the network gave.
        bound: Half the sum of width times height of the intervals that were not measured at every step. The area of
            all steps differs by less if the scores never turn inside an interval; 0 where all are measured.
    """

    scores: np.ndarray
    area: float
    measured: int
    bound: float


def causal_curve(
    predict: PredictNormalized,
    image: Tensor,
    ranks: Tensor,
    label: int,
    mode: Mode,
    step: int | None = None,
    tolerance: float | None = None,
    batch_size: int = 4,
) -> CausalCurve:
    """Follow the confidence in a class while pixels are inserted or deleted, the most important ones first.

    Args:
        predict: The network, with its softmax.
        image: ``(C, H, W)``, normalised, on the network's device.
        ranks: ``(H, W)`` from :func:`rank_pixels` or :func:`ranks_of`.
        label: The class.
        mode: ``insertion`` (high areas are good) or ``deletion`` (low ones are).
        step: Pixels a step; None takes the image's width, so that a square image has a step a row.
        tolerance: None measures every step. A number measures :data:`COARSE` + 1 of them and halves the interval that
            adds most to :attr:`CausalCurve.bound` until that is no more than the tolerance.
        batch_size: Most images a call.
    """
    step = step or image.shape[-1]
    steps = -(-ranks.numel() // step)
    start, end = (image, substrate(image[None], mode)[0])[:: 1 if mode == "deletion" else -1]

    def measure(at: Sequence[int]) -> np.ndarray:
        changed = torch.as_tensor(at, device=ranks.device).view(-1, 1, 1, 1) * step
        scores = [predict(torch.where(ranks < part, end, start))[:, label] for part in changed.split(batch_size)]
        return torch.cat(scores).double().cpu().numpy()

    if tolerance is None:
        scores, measured, bound = measure(range(steps + 1)), steps + 1, 0.0
    else:
        at, heights, bound = _adaptive(measure, steps, tolerance, batch_size)
        scores, measured = np.interp(np.arange(steps + 1), at, heights), len(at)
    return CausalCurve(scores, float(np.trapezoid(scores) / steps), measured, bound)


def _adaptive(
    measure: Callable[[Sequence[int]], np.ndarray], steps: int, tolerance: float, batch_size: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Steps that were measured, their scores, and the bound of the area's error."""
    at = np.unique(np.linspace(0, steps, min(steps, COARSE) + 1).round().astype(int))
    heights = measure(at.tolist())
    while True:
        widths = np.diff(at)
        errors = np.where(widths > 1, widths * np.abs(np.diff(heights)) / (2 * steps), 0.0)
        bound = float(errors.sum())
        if not bound > tolerance:  # NaN, from a network that broke down, is not
            return at, heights, bound
        # As many as one call takes, but not those that the tolerance does not need.
        worst = np.argsort(-errors, kind="stable")[:batch_size]
        remaining = bound - np.concatenate([[0.0], errors[worst].cumsum()[:-1]])
        halves = np.sort(worst[(errors[worst] > 0) & (remaining > tolerance)])
        middles = (at[halves] + at[halves + 1]) // 2
        at = np.insert(at, halves + 1, middles)
        heights = np.insert(heights, halves + 1, measure(middles.tolist()))


class InsertionDeletion(RowMetric):
    """Mean area under the :func:`causal_curve` of images.

    Args:
        mode: ``insertion`` or ``deletion``.
        tolerance: See :func:`causal_curve`.
        batch_size: Most images a call of the network.

    Raises:
        ValueError: another mode.

    Example:
        >>> def bright(images):  # says class 0 to the degree that the image is bright
        ...     brightness = images.mean(dim=(1, 2, 3))
        ...     return torch.stack([brightness, 1 - brightness], dim=1)
        >>> metric = InsertionDeletion("deletion")
        >>> image, saliency = torch.ones(1, 1, 2, 2), torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
        >>> metric.update(bright, image, saliency, classes=[0])  # 1, 0.5, 0
        >>> metric.compute()["mean"]
        0.5
    """

    degenerate: Tensor

    def __init__(self, mode: Mode, tolerance: float | None = None, batch_size: int = 4) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, came {mode!r}")
        if tolerance is not None and not tolerance >= 0:
            raise ValueError(f"tolerance: expected None or a number from 0 on, came {tolerance}")
        self.mode, self.tolerance, self.batch_size = mode, tolerance, batch_size
        self.add_rows("areas", (), torch.double)
        self.add_rows("bounds", (), torch.double)
        self.add_rows("measured", (), torch.long)
        self.add_state("degenerate", torch.zeros(len(DEGENERATE), dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self,
        predict: PredictNormalized,
        images: Tensor,
        saliency: Tensor,
        classes: Sequence[int],
        index: Sequence[int] | None = None,
    ) -> None:
        """Judge maps by a network; a map that says nothing is counted and left out.

        Args:
            predict: ``(N, C, H, W)`` to probabilities ``(N, K)``.
            images: ``(B, C, H, W)``, normalised, on the network's device.
            saliency: ``(B, H, W)``.
            classes: The class each map speaks for.
            index: A number for each image, its place in the results; counted on where there is none.
        """
        kinds = degenerate(saliency).tolist()
        places = self.numbers(index, len(kinds), self.degenerate)
        self.degenerate = self.degenerate + counted(kinds).to(self.degenerate)
        for number, kind in enumerate(kinds):
            if kind >= 0:
                continue
            ranks = rank_pixels(saliency[number].to(images.device))
            curve = causal_curve(
                predict,
                images[number],
                ranks,
                int(classes[number]),
                self.mode,
                tolerance=self.tolerance,
                batch_size=self.batch_size,
            )
            self.append(
                places[number : number + 1],
                areas=torch.tensor([curve.area], dtype=torch.double),
                bounds=torch.tensor([curve.bound], dtype=torch.double),
                measured=torch.tensor([curve.measured]),
            )

    def compute(self) -> dict[str, Any]:
        """``mean`` area over ``n`` images (None over nothing), largest ``bound``, mean number of scores ``measured``.

        And ``index`` with the areas ``per_image``, and ``degenerate``, how many maps said nothing by reason. Where the
        network answered with what is no number, the area is NaN, in no mean and not in ``n``.
        """
        areas = self.rows("areas")
        there = areas.isfinite()
        n = int(there.sum())
        return {
            "mean": areas[there].mean().item() if n else None,
            "n": n,
            "bound": self.rows("bounds")[there].max().item() if n else None,
            "measured": self.rows("measured")[there].double().mean().item() if n else None,
            "index": self.rows("index").tolist(),
            "per_image": areas.tolist(),
            "degenerate": dict(zip(DEGENERATE, self.degenerate.tolist(), strict=True)),
        }
