"""Learning rate schedules: the multiplier of the base learning rate at optimizer step ``step`` of ``total``.

Each public function returns a :data:`Schedule`. Lengths are fractions of the whole training, so a schedule keeps its
shape when the number of steps changes. Step 0 is the first update and ``total - 1`` the last; step ``total``, which
a scheduler asks for after the last update, is answered too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

#: ``schedule(step, total)`` with ``0 <= step <= total``.
Schedule = Callable[[int, int], float]


def constant() -> Schedule:
    """Keep the base learning rate.

    >>> constant()(5, 10)
    1.0
    """
    return _constant


def multistep(milestones: Sequence[float], gamma: float = 0.1) -> Schedule:
    """Multiply by ``gamma`` at each milestone.

    Args:
        milestones: Fractions of the training, in (0, 1).
        gamma: Factor of each drop.

    Raises:
        ValueError: A milestone is no fraction.

    >>> [multistep([0.5, 0.75], gamma=0.5)(step, 100) for step in (0, 49, 50, 75)]
    [1.0, 1.0, 0.5, 0.25]
    """
    for milestone in milestones:
        _check_fraction("milestones", milestone)
    return partial(_multistep, milestones=tuple(milestones), gamma=gamma)


def step(every: float, gamma: float = 0.1) -> Schedule:
    """Multiply by ``gamma`` at equal intervals.

    Args:
        every: Interval as a fraction of the training, in (0, 1).
        gamma: Factor of each drop.

    Raises:
        ValueError: ``every`` is no fraction.

    >>> [step(every=0.25, gamma=0.5)(t, 100) for t in (0, 24, 25, 75)]
    [1.0, 1.0, 0.5, 0.125]
    """
    _check_fraction("every", every)
    return partial(_step, every=every, gamma=gamma)


def cosine(warmup: float = 0.0, stairs: int | None = None) -> Schedule:
    """Fall to 0 along half a cosine over the whole training, held down at first by a linear rise.

    The rise multiplies the cosine, as in ``pytorch_warmup``: it does not put it off.

    Args:
        warmup: Share of the training in which a factor rises to 1, in [0, 1).
        stairs: Number of equal parts of the training, such as its epochs, in which the cosine keeps the value that it
            has at their beginning; ``None`` lets it fall with each step.

    Raises:
        ValueError: ``warmup`` is out of range, or there is no stair.

    >>> [round(cosine(warmup=0.1)(step, 100), 3) for step in (0, 9, 10, 50, 100)]
    [0.1, 0.98, 0.976, 0.5, 0.0]
    >>> [round(cosine(stairs=4)(step, 100), 3) for step in (0, 24, 25, 50, 99)]
    [1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup: expected a fraction of the training in [0, 1), came {warmup}")
    if stairs is not None and stairs < 1:
        raise ValueError(f"stairs: expected a number of equal parts, 1 or more, came {stairs}")
    return partial(_cosine, warmup=warmup, stairs=stairs)


def one_cycle(pct_start: float = 0.3, div: float = 25.0, final_div: float = 1e4) -> Schedule:
    """Rise from ``1 / div`` to 1 and fall to ``1 / (div * final_div)``, both along half a cosine.

    The learning rates of ``torch.optim.lr_scheduler.OneCycleLR`` (two phases), whose ``max_lr`` is the base learning
    rate here; the momentum is left alone.

    Args:
        pct_start: Share of the training that rises, in (0, 1).
        div: The base learning rate over the first one.
        final_div: The first learning rate over the last one.

    Raises:
        ValueError: ``pct_start`` is no fraction, or a divisor is not positive.

    >>> [round(one_cycle(pct_start=0.25, div=10.0)(step, 100), 3) for step in (0, 12, 24, 99)]
    [0.1, 0.55, 1.0, 0.0]
    """
    _check_fraction("pct_start", pct_start)
    for name, value in (("div", div), ("final_div", final_div)):
        if value <= 0:
            raise ValueError(f"{name}: expected a positive number, came {value}")
    return partial(_one_cycle, pct_start=pct_start, div=div, final_div=final_div)


def _constant(step: int, total: int) -> float:
    return 1.0


def _multistep(step: int, total: int, milestones: tuple[float, ...], gamma: float) -> float:
    return float(gamma ** sum(step >= round(milestone * total) for milestone in milestones))


def _step(step: int, total: int, every: float, gamma: float) -> float:
    # The small number keeps a drop at its step when every * total is a whole number but for rounding.
    return float(gamma ** math.floor(step / (every * total) + 1e-9))


def _cosine(step: int, total: int, warmup: float, stairs: int | None) -> float:
    # The small number keeps a rise of a whole number of steps whole.
    rising = max(1, math.floor(warmup * total + 1e-9))
    way = step / total if stairs is None else step * stairs // total / stairs
    return min(1.0, (step + 1) / rising) * _between(1.0, 0.0, way)


def _one_cycle(step: int, total: int, pct_start: float, div: float, final_div: float) -> float:
    last = total - 1
    peak = max(0.0, pct_start * total - 1)
    step = min(step, last)
    if step < peak:
        return _between(1 / div, 1.0, step / peak)
    return _between(1.0, 1 / (div * final_div), (step - peak) / max(1.0, last - peak))


def _between(start: float, end: float, way: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * way)) / 2


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}: expected fractions of the training in (0, 1), came {value}; divide by its length")
