"""Labelling grids: discrete energies of neighbours (Potts and its kin) minimised without compiled extensions.

The grids here have 4 to 256 sites. At that size the calls cost more than the arithmetic, on a graphics card most of
all, so this is NumPy on the host, in double precision: the same labels whatever device the images are on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Solver = Literal["auto", "vectorised", "gco"]
SOLVERS = ("auto", "vectorised", "gco")
Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

#: Labellings of a row with one site more up to which the minimum is computed exactly.
MOST_STATES = 8_000


@dataclass(frozen=True)
class GridEnergy:
    """A batch of energies ``sum_p unary[x_p] + sum_pq weight_pq * compatibility[x_p, x_q]`` over 4-neighbours.

    Attributes:
        unary: ``(B, L, h, w)``, cost of each label at each site.
        down: ``(B, h - 1, w)``, weight of the edge between a site and the one below it.
        right: ``(B, h, w - 1)``, weight of the edge between a site and the one to its right.
        compatibility: ``(L, L)`` or ``(B, L, L)``, symmetric; cost of two labels side by side.
    """

    unary: Floats
    down: Floats
    right: Floats
    compatibility: Floats

    def __post_init__(self) -> None:
        batch, labels, height, width = self.unary.shape
        expected = (batch, height - 1, width), (batch, height, width - 1)
        if (self.down.shape, self.right.shape) != expected or self.compatibility.shape[-2:] != (labels, labels):
            raise ValueError(
                f"unary costs {self.unary.shape} (B, L, h, w) need edges {expected[0]} and {expected[1]} and a "
                f"compatibility of {labels} x {labels} labels, but came {self.down.shape}, {self.right.shape} and "
                f"{self.compatibility.shape}"
            )

    @cached_property
    def pairs(self) -> Floats:
        """The compatibility of each problem: ``(B, L, L)``."""
        if self.compatibility.ndim == 3:
            return self.compatibility
        return np.broadcast_to(self.compatibility, (len(self.unary), *self.compatibility.shape))

    def transposed(self) -> GridEnergy:
        """Rows for columns."""
        turn = self.right.transpose(0, 2, 1), self.down.transpose(0, 2, 1)
        return GridEnergy(self.unary.transpose(0, 1, 3, 2), *turn, self.compatibility)

    def of(self, labels: Labels) -> Floats:
        """The energy of each labelling: ``(B, h, w)`` integers in, ``(B,)`` out."""
        height, width = labels.shape[1:]
        problem = np.arange(len(labels))[:, None, None]
        own = self.unary[problem, labels, np.arange(height)[:, None], np.arange(width)].sum((1, 2))
        down = self.pairs[problem, labels[:, :-1], labels[:, 1:]]
        right = self.pairs[problem, labels[:, :, :-1], labels[:, :, 1:]]
        return own + (self.down * down).sum((1, 2)) + (self.right * right).sum((1, 2))


def minimise(problem: GridEnergy, solver: Solver = "vectorised", iterations: int = 20) -> Labels:
    """Find a labelling of low energy for each grid of a batch.

    Where a row has few labellings the result is a minimum (:func:`by_rows`); elsewhere it is the better one of what
    belief propagation comes to, improved site by site, and the best constant labelling. Deterministic.

    Args:
        problem: The energies.
        solver: ``vectorised``; ``gco``, alpha-beta swaps in C++ from the package gco-wrapper; ``auto``, gco where it is
            installed.
        iterations: Of belief propagation.

    Returns:
        ``(B, h, w)`` integers in ``[0, L)``.

    Raises:
        ValueError: The solver is unknown.
        ImportError: gco is asked for and not installed.

    >>> unary = np.array([[[0.0, 0.6, 0.0]], [[1.0, 0.4, 1.0]]])  # the site in the middle would rather have label 1
    >>> energy = GridEnergy(unary[None], np.zeros((1, 0, 3)), np.full((1, 1, 2), 0.3), 1 - np.eye(2))
    >>> minimise(energy).tolist()
    [[[0, 0, 0]]]
    """
    check_solver(solver)
    kept, smaller = without_impossible_labels(problem)
    swaps = solver == "gco" or (solver == "auto" and find_spec("gco") is not None)
    if smaller.unary.shape[1] == 1:
        labels = np.zeros(smaller.unary[:, 0].shape, np.int64)
    else:
        labels = by_swaps(smaller) if swaps else _minimise(smaller, iterations)
    return labels if kept is None else kept[np.arange(len(kept))[:, None, None], labels]


def check_solver(solver: str) -> None:
    """Refuse a solver that there is not.

    Raises:
        ValueError: It is none of :data:`SOLVERS`.
        ImportError: It is gco, which is not installed.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver: expected one of {', '.join(SOLVERS)}, came {solver!r}")
    if solver == "gco" and not find_spec("gco"):
        raise ImportError(
            "solver=gco needs the package gco-wrapper (pip install gco-wrapper); solver=vectorised needs none"
        )


def _minimise(problem: GridEnergy, iterations: int) -> Labels:
    batch, labels, height, width = problem.unary.shape
    if width > height:
        return _minimise(problem.transposed(), iterations).transpose(0, 2, 1)
    if labels ** (width + 1) <= MOST_STATES:
        return by_rows(problem)
    found = by_sites(problem, by_beliefs(problem, iterations))
    edges = problem.down.sum((1, 2)) + problem.right.sum((1, 2))
    constant = problem.unary.sum((2, 3)) + np.einsum("bll->bl", problem.pairs) * edges[:, None]
    better = constant.min(axis=1) < problem.of(found)
    return np.where(better[:, None, None], constant.argmin(axis=1)[:, None, None], found)


def without_impossible_labels(problem: GridEnergy) -> tuple[Labels | None, GridEnergy]:
    """Leave out the labels that no minimum has, because another one costs less at every site whatever is around it.

    Returns:
        The labels kept of each problem, ``(B, K)``, or None where all are; and the energies with these alone.
    """
    unary = problem.unary
    around = np.zeros((len(unary), *unary.shape[2:]))  # sum of the edges of each site
    down, right = np.abs(problem.down), np.abs(problem.right)
    around[:, :-1] += down
    around[:, 1:] += down
    around[:, :, :-1] += right
    around[:, :, 1:] += right
    highest = unary.min(axis=1) + around * (problem.compatibility.max() - problem.compatibility.min())
    possible = (unary <= highest[:, None]).reshape(*unary.shape[:2], -1).any(axis=2)
    count = max(1, int(possible.sum(axis=1).max()))  # costs that are no numbers leave none
    if count == unary.shape[1]:
        return None, problem
    kept = (~possible).argsort(axis=1, kind="stable")[:, :count]
    index = np.arange(len(kept))[:, None]
    pairs = problem.pairs[index[:, None], kept[:, :, None], kept[:, None]]
    return kept, GridEnergy(unary[index, kept], problem.down, problem.right, pairs)


def by_rows(problem: GridEnergy) -> Labels:
    """Minimise exactly, one row after the other: dynamic programming over all labellings of a row.

    A labelling of a row is an index with one axis a site, so that what is between two rows is done axis by axis.
    """
    batch, labels, height, width = problem.unary.shape
    pairs = np.ascontiguousarray(problem.pairs.transpose(1, 2, 0))  # (L, L, B), as everything here the batch last
    below = problem.down.transpose(1, 2, 0)[:, :, None, None] * pairs  # (h - 1, w, L, L, B)
    rows = _costs_of_rows(problem, pairs)
    best = [rows[0]]
    for row, edges in zip(rows[1:], below, strict=True):
        cost = best[-1].reshape(labels, -1, batch)
        for edge in edges:
            # The first site goes to the end: after all of them they are in order again.
            cost = (cost[:, None] + edge[:, :, None]).min(axis=0).swapaxes(0, 1).reshape(labels, -1, batch)
        best.append(cost.reshape(row.shape) + row)
    return _backwards(best, below)


def _costs_of_rows(problem: GridEnergy, pairs: Floats) -> list[Floats]:
    """What each labelling of each row costs by itself: ``h`` arrays ``(L, ..., L, B)``."""
    batch, labels, height, width = problem.unary.shape
    unary, right = problem.unary.transpose(2, 3, 1, 0), problem.right.transpose(1, 2, 0)
    cost = unary[:, 0]
    for x in range(1, width):
        shape = height, *(1,) * (x - 1), labels, labels, batch
        cost = cost[..., None, :] + (unary[:, x, None] + right[:, x - 1, None, None] * pairs).reshape(shape)
    return list(cost)


def _backwards(best: list[Floats], below: Floats) -> Labels:
    """From the last row up, the best labelling of each row given the one below it."""
    shape, batch = best[0].shape[:-1], best[0].shape[-1]
    index = np.arange(batch)
    chosen = np.unravel_index(best[-1].reshape(-1, batch).argmin(axis=0), shape)
    rows = [chosen]
    for cost, edges in zip(best[-2::-1], below[::-1], strict=True):
        between = edges[0][:, chosen[0], index]
        for edge, label in zip(edges[1:], chosen[1:], strict=True):
            between = (between[:, None] + edge[:, label, index]).reshape(-1, batch)
        chosen = np.unravel_index((cost.reshape(-1, batch) + between).argmin(axis=0), shape)
        rows.append(chosen)
    return np.array(rows[::-1]).transpose(2, 0, 1)


def by_beliefs(problem: GridEnergy, iterations: int, damping: float = 0.3) -> Labels:
    """Min-sum belief propagation: every site tells its four neighbours at once what each of their labels would cost it.

    Exact on trees, good on grids whose costs vary more than their edges weigh.
    """
    # Single precision: what is left to decide is for by_sites.
    unary = problem.unary.transpose(1, 0, 2, 3).astype(np.float32)
    weights = np.zeros((4, *unary.shape[1:]), np.float32)  # of the edges to the sites below, above, right and left
    weights[0, :, :-1] = weights[1, :, 1:] = problem.down
    weights[2, :, :, :-1] = weights[3, :, :, 1:] = problem.right
    pairs = problem.pairs.transpose(1, 2, 0).astype(np.float32)
    edges = weights[:, None, None] * pairs[:, :, :, None, None]
    heard = np.zeros((4, *unary.shape), np.float32)  # from the sites above, below, left and right
    for _ in range(iterations):
        told = (unary + heard.sum(axis=0) - heard[_OPPOSITE])[:, :, None] + edges
        told = told.min(axis=1)
        told -= told.min(axis=1, keepdims=True)
        told *= 1 - damping
        heard *= damping
        heard[0, :, :, 1:] += told[0, :, :, :-1]
        heard[1, :, :, :-1] += told[1, :, :, 1:]
        heard[2, ..., 1:] += told[2, ..., :-1]
        heard[3, ..., :-1] += told[3, ..., 1:]
    return (unary + heard.sum(axis=0)).argmin(axis=0)


#: Whom a site does not tell what it heard from them.
_OPPOSITE = [1, 0, 3, 2]


def by_sites(problem: GridEnergy, labels: Labels, sweeps: int = 2) -> Labels:
    """Give every second site the best label there is given its neighbours, and then the others, until nothing changes.

    Iterated conditional modes: the energy never rises.

    Args:
        problem: The energies.
        labels: ``(B, h, w)`` integers to start from.
        sweeps: At most.
    """
    batch, _, height, width = problem.unary.shape
    unary = np.ascontiguousarray(problem.unary.transpose(0, 2, 3, 1))
    down, right = problem.down[..., None], problem.right[..., None]
    index, pairs = np.arange(batch)[:, None, None], problem.pairs
    white = np.indices((height, width)).sum(axis=0) % 2 == 0
    for _ in range(sweeps):
        before = labels
        for colour in (white, ~white):
            beside, cost = pairs[index, labels], unary.copy()
            cost[:, :-1] += down * beside[:, 1:]
            cost[:, 1:] += down * beside[:, :-1]
            cost[:, :, :-1] += right * beside[:, :, 1:]
            cost[:, :, 1:] += right * beside[:, :, :-1]
            labels = np.where(colour, cost.argmin(axis=-1), labels)
        if np.array_equal(labels, before):
            break
    return labels


def by_swaps(problem: GridEnergy) -> Labels:
    """Minimise by alpha-beta swaps in the package gco-wrapper, which counts in integers.

    It knows no edges below 0, which are taken for 0 here.
    """
    import gco

    def integers(costs: Floats, scale: float) -> NDArray[np.int32]:
        return np.ascontiguousarray(np.rint(costs * scale)).astype(np.int32)

    found = []
    for unary, down, right, pairs in zip(problem.unary, problem.down, problem.right, problem.pairs, strict=True):
        scale = 1e6 / max(np.ptp(unary), down.max(initial=0), right.max(initial=0), 1e-300)  # it takes up to 10^7
        costs = integers((unary - unary.min()).transpose(1, 2, 0), scale)
        edges = (integers(one.clip(min=0), scale / 100) for one in (down, right))
        labels = gco.cut_grid_graph(costs, integers(pairs, 100), *edges, algorithm="swap")
        found.append(labels.reshape(unary.shape[1:]))
    return np.stack(found).astype(np.int64)
