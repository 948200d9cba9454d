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
    from scipy import stats  # takes half a second, which --help need not wait for

    spread = float(np.std(values, ddof=1))
    return Summary(n, mean, spread, float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n))
