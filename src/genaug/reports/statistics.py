"""What several seeds say together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """A score over seeds.

    Attributes:
        n: How many seeds.
        mean: Their mean.
        spread: Standard deviation between seeds (n - 1 in the denominator); NaN for one seed.
        half_width: Half of the 95 % confidence interval of the mean (Student's t); NaN for one seed.
    """

    n: int
    mean: float
    spread: float
    half_width: float

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95 % confidence interval."""
        return self.mean - self.half_width, self.mean + self.half_width


def summarize(values: Sequence[float]) -> Summary:
    """Mean, spread and 95 % interval of at least one value.

    Raises:
        ValueError: no values.

    Example:
        >>> summary = summarize([1.0, 2.0, 3.0])
        >>> summary.mean, summary.spread, round(summary.half_width, 3)  # t(0.975, 2) / sqrt(3) = 2.484
        (2.0, 1.0, 2.484)
    """
    if not values:
        raise ValueError("There is nothing to summarise: give at least one value.")
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Summary(1, mean, math.nan, math.nan)
    from scipy.stats import t  # takes half a second, which --help need not wait for

    spread = float(np.std(values, ddof=1))
    return Summary(n, mean, spread, float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n))


@dataclass(frozen=True)
class McNemar:
    """Two networks on the same images, by the images that one of them alone gets right.

    Attributes:
        only_first: Images that the first alone gets right.
        only_second: Images that the second alone gets right.
        p: Of the exact two-sided test that both are equally often alone right.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's exact test.

    Args:
        first: Which images the first network gets right, ``(N,)`` bool.
        second: The same of the second network, in the same order.

    Raises:
        ValueError: they are not of the same images.

    Example:
        >>> mcnemar(np.array([True, False, False, False]), np.array([True, True, True, True]))  # 2 * (1 / 2) ** 3
        McNemar(only_first=0, only_second=3, p=0.25)
    """
    if first.shape != second.shape:
        raise ValueError(f"Expected answers to the same images; got {first.shape} and {second.shape}.")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    apart = only_first + only_second
    from scipy.stats import binomtest

    return McNemar(only_first, only_second, float(binomtest(only_first, apart).pvalue) if apart else 1.0)


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % interval.

    Attributes:
        mean: The difference.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def paired_bootstrap(differences: np.ndarray, rng: np.random.Generator, resamples: int = 10_000) -> Difference:
    """The mean difference between two networks, with what it may be on other test images (percentiles).

    Images are drawn together with the answers of all seeds: an image that is easy in one seed is easy in the others,
    and to draw each seed's images for itself would make the interval too narrow. Each seed has the same weight in each
    draw. What other seeds would give is not in the interval.

    Args:
        differences: By seed and image, ``(S, N)``: 1 where the second network alone is right, -1 where the first is.
        rng: Draws the images.
        resamples: How often.

    Raises:
        ValueError: there are no images.

    Example:
        >>> paired_bootstrap(np.ones((2, 5), int), np.random.default_rng(0))
        Difference(mean=1.0, low=1.0, high=1.0)
    """
    seeds, images = differences.shape
    if not differences.size:
        raise ValueError(f"Expected at least one seed and one image; got {differences.shape}.")
    # An image counts by its sum over seeds alone, so that drawing images is drawing how often each sum occurs.
    sums, counts = np.unique(differences.sum(axis=0), return_counts=True)
    means = rng.multinomial(images, counts / images, size=resamples) @ sums / (images * seeds)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(differences.mean()), float(low), float(high))
