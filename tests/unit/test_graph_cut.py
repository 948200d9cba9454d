from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from genaug.functional import graph_cut
from genaug.functional.graph_cut import GridEnergy, by_beliefs, by_sites, minimise, without_impossible_labels

POTTS, SQUARES = "potts", "squares"


def compatibility(kind: str, labels: int) -> np.ndarray:
    label = np.arange(labels)
    if kind == POTTS:
        return (label[:, None] != label).astype(float)
    return ((label[:, None] - label) / (labels - 1)) ** 2


def structured(
    size: int, labels: int, height: int, width: int, kind: str, strength: float, seed: int = 0
) -> GridEnergy:
    """Each label is cheap around a place of its own, with noise: unary costs as of salient objects."""
    numbers = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    centre = numbers.random((2, size, labels, 1, 1))
    unary = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 0.05) + 0.2 * numbers.random((size, labels, 1, 1))
    unary += numbers.choice([0.05, 0.5], (size, 1, 1, 1)) * numbers.random((size, labels, height, width))
    unary = 1 / (height * width) + unary.sum(axis=1, keepdims=True) - unary
    unary /= unary.sum(axis=(2, 3), keepdims=True)
    weight = strength / (height * width)
    down, right = numbers.random((size, height - 1, width)), numbers.random((size, height, width - 1))
    return GridEnergy(unary, weight * down, weight * right, compatibility(kind, labels))


def lowest(energy: GridEnergy) -> np.ndarray:
    """The minimum by trying all labellings, which are summed up site by site and edge by edge."""
    labels, height, width = energy.unary.shape[1:]
    every = np.indices((labels,) * (height * width)).reshape(height, width, -1)
    cost = 0.0
    for y, x in product(range(height), range(width)):
        cost = cost + energy.unary[:, every[y, x], y, x]
        if y + 1 < height:
            cost += energy.down[:, y, x, None] * energy.pairs[:, every[y, x], every[y + 1, x]]
        if x + 1 < width:
            cost += energy.right[:, y, x, None] * energy.pairs[:, every[y, x], every[y, x + 1]]
    return cost.min(axis=1)


def gaps(energy: GridEnergy, labels: np.ndarray, best: np.ndarray) -> np.ndarray:
    return (energy.of(labels) - best) / np.abs(best)


def test_the_energy_by_hand():
    unary = np.array([[[1.0, 2], [3, 4]], [[10, 20], [30, 40]]])
    energy = GridEnergy(unary[None], np.array([[[0.1, 0.2]]]), np.array([[[0.4], [0.8]]]), np.array([[0, 1], [1, 5.0]]))
    # Sites 1, 20, 3, 4; the labels differ at the edges down-right .2 and right-top .4.
    assert energy.of(np.array([[[0, 1], [0, 0]]])).tolist() == pytest.approx([28 + 0.2 + 0.4])
    # All ones: each edge counts five times.
    assert energy.of(np.array([[[1, 1], [1, 1]]])).tolist() == pytest.approx([100 + 5 * 1.5])


def test_a_lonely_site_follows_its_neighbours_when_they_are_strong():
    unary = np.zeros((1, 2, 3, 3))
    unary[0, 1] = 1
    unary[0, :, 1, 1] = 0.9, 0.0
    for weight, centre in ((0.2, 1), (0.25, 0)):  # four edges: .8 < .9 < 1
        edges = np.full((1, 2, 3), weight), np.full((1, 3, 2), weight)
        expected = np.zeros((3, 3), int)
        expected[1, 1] = centre
        assert np.array_equal(minimise(GridEnergy(unary, *edges, compatibility(POTTS, 2)))[0], expected)


@pytest.mark.parametrize("kind", [POTTS, SQUARES])
@pytest.mark.parametrize("strength", [0.1, 1.0, 5.0])
@pytest.mark.parametrize(
    ("height", "width", "labels"), [(2, 2, 2), (2, 2, 3), (2, 3, 3), (4, 2, 2), (3, 3, 2), (3, 3, 3), (4, 4, 2)]
)
def test_small_grids_are_solved_exactly(height, width, labels, kind, strength):
    energy = structured(20, labels, height, width, kind, strength)
    np.testing.assert_allclose(energy.of(minimise(energy)), lowest(energy), atol=1e-12)


def test_each_problem_may_have_a_compatibility_of_its_own():
    numbers = np.random.default_rng(0)
    pairs = numbers.random((20, 3, 3))
    energy = structured(20, 3, 2, 3, POTTS, 2.0)
    energy = GridEnergy(energy.unary, energy.down, energy.right, pairs + pairs.transpose(0, 2, 1))
    np.testing.assert_allclose(energy.of(minimise(energy)), lowest(energy), atol=1e-12)


@pytest.mark.parametrize("kind", [POTTS, SQUARES])
@pytest.mark.parametrize(("height", "width", "labels"), [(2, 2, 3), (3, 3, 3), (4, 4, 2), (4, 4, 3)])
def test_without_enumeration_small_grids_come_close(monkeypatch, height, width, labels, kind):
    energy = structured(300, labels, height, width, kind, 0.5)
    best = energy.of(minimise(energy))
    monkeypatch.setattr(graph_cut, "MOST_STATES", 0)
    found = gaps(energy, minimise(energy), best)
    assert found.min() > -1e-12
    assert (found < 0.01).mean() > 0.99
    assert found.max() < 0.02
    assert found.mean() < 0.0002


def test_belief_propagation_is_exact_on_a_chain():
    numbers = np.random.default_rng(0)
    chain = GridEnergy(
        numbers.random((30, 3, 1, 9)), np.zeros((30, 0, 9)), numbers.random((30, 1, 8)), compatibility(POTTS, 3)
    )
    np.testing.assert_allclose(chain.of(by_beliefs(chain, 40)), chain.of(minimise(chain)), rtol=1e-6)


def test_sites_never_make_it_worse():
    energy = structured(50, 3, 8, 8, SQUARES, 2.0)
    start = np.random.default_rng(0).integers(3, size=(50, 8, 8))
    once, often = (by_sites(energy, start, sweeps) for sweeps in (1, 20))
    assert (energy.of(once) <= energy.of(start) + 1e-12).all()
    assert (energy.of(often) <= energy.of(once) + 1e-12).all()
    # And no single site can be improved afterwards.
    for y, x, label in product(range(8), range(8), range(3)):
        other = often.copy()
        other[:, y, x] = label
        assert (energy.of(other) >= energy.of(often) - 1e-12).all()


def test_impossible_labels_are_left_out_and_change_nothing():
    energy = structured(1, 3, 2, 2, POTTS, 0.5)
    dear = np.full((1, 2, 2, 2), 5.0)
    more = GridEnergy(np.concatenate([dear, energy.unary], axis=1), energy.down, energy.right, compatibility(POTTS, 5))
    kept, smaller = without_impossible_labels(more)
    assert kept is not None
    assert set(kept[0].tolist()) <= {2, 3, 4}
    assert smaller.unary.shape[1] == kept.shape[1]
    assert np.array_equal(minimise(more), minimise(energy) + 2)


def test_rows_and_columns_may_be_exchanged():
    energy = structured(10, 2, 7, 3, POTTS, 1.0)
    turned = minimise(energy.transposed())
    np.testing.assert_allclose(energy.of(turned.transpose(0, 2, 1)), energy.of(minimise(energy)))


def test_a_problem_does_not_depend_on_the_others_of_its_batch():
    for side, solve in ((4, minimise), (8, lambda energy: by_sites(energy, by_beliefs(energy, 20)))):
        energy = structured(6, 3, side, side, SQUARES, 1.0)
        together = solve(energy)
        for i in range(6):
            part = slice(i, i + 1)
            alone = GridEnergy(energy.unary[part], energy.down[part], energy.right[part], energy.compatibility)
            assert np.array_equal(solve(alone)[0], together[i])


def test_costs_that_are_no_numbers_end_in_some_labelling():
    energy = structured(2, 3, 4, 4, POTTS, 1.0)
    energy.unary[0] = np.nan
    assert minimise(energy).shape == (2, 4, 4)


@pytest.mark.parametrize("side", [4, 8, 16])
@pytest.mark.parametrize("kind", [POTTS, SQUARES])
def test_no_worse_than_the_package_for_it(side, kind):
    pytest.importorskip("gco", reason="gco-wrapper is not installed")
    energy = structured(50, 3, side, side, kind, 0.5)
    ours, theirs = (energy.of(minimise(energy, solver)) for solver in ("vectorised", "gco"))
    gap = (ours - theirs) / np.abs(theirs)
    assert gap.mean() < 0.0005
    assert gap.max() < 0.01


def test_wrong_arguments_are_refused(monkeypatch):
    energy = structured(1, 2, 2, 2, POTTS, 1.0)
    with pytest.raises(ValueError, match=r"solver: expected one of auto, vectorised, gco, came 'ilp'"):
        minimise(energy, "ilp")
    with pytest.raises(ValueError, match=r"need edges .*came"):
        GridEnergy(energy.unary, energy.right, energy.right, energy.compatibility)
    monkeypatch.setattr(graph_cut, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="gco-wrapper"):
        minimise(energy, "gco")
    assert np.array_equal(minimise(energy, "auto"), minimise(energy))
