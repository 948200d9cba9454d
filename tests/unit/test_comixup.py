from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from genaug.mixing.base import Context
from genaug.mixing.comixup import (
    CoMixup,
    Objective,
    assign,
    coupling,
    drive_apart,
    mix,
    most_salient_windows,
    penalties,
)
from genaug.saliency.base import Saliency

PAPER = Objective(beta=0.32, gamma=1.0, tau=0.83, niter=4, set_resolve=True, spread_penalty=False, solver="vectorised")


class Given(Saliency):
    """Maps that the test has made."""

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps

    def __call__(self, images: Tensor, targets: Tensor, context: Context) -> Tensor:
        return self.maps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def objects(size: int, side: int, seed: int = 0) -> Tensor:
    """One bright object an image, and little noise."""
    numbers = generator(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    centre = torch.rand(2, size, 1, 1, generator=numbers)
    maps = torch.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 0.03)
    return maps + 0.02 * torch.rand(size, side, side, generator=numbers)


def constant_images(size: int, height: int, width: int) -> Tensor:
    return torch.arange(float(size)).view(size, 1, 1, 1).expand(size, 3, height, width)


# --- cases by hand -------------------------------------------------------------------------------------------------


def test_two_images_with_objects_on_different_sides():
    """Each result shows the left of the first image and the right of the second: nothing is lost, nothing too often."""
    maps = torch.zeros(2, 8, 8)
    maps[0, :, :4] = maps[1, :, 4:] = 1
    images = constant_images(2, 8, 8)
    for seed in range(5):
        mixed, labels = CoMixup(Given(maps), block_num=2)(images, torch.eye(2), generator(seed), Context())
        assert torch.equal(mixed[:, :, :, :4], torch.zeros(2, 3, 8, 4))
        assert torch.equal(mixed[:, :, :, 4:], torch.ones(2, 3, 8, 4))
        assert labels.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_four_images_with_an_object_in_a_quarter_each():
    maps, quarters = torch.zeros(4, 8, 8), [(0, 0), (0, 4), (4, 0), (4, 4)]
    for i, (y, x) in enumerate(quarters):
        maps[i, y : y + 4, x : x + 4] = 1
    images = constant_images(4, 8, 8)
    mixer = CoMixup(Given(maps), block_num=2, gamma=0.0)
    mixed, labels = mixer(images, torch.eye(4), generator(), Context())
    for i, (y, x) in enumerate(quarters):
        assert (mixed[:, :, y : y + 4, x : x + 4] == i).all()
    assert torch.equal(labels, torch.full((4, 4), 0.25))
    # Once there, results stay so: of no image do the others show more than 3 blocks, and 83 % of 4 are free.
    cost, quarter = -np.eye(4).reshape(1, 4, 2, 2), np.arange(4).reshape(2, 2)
    start = np.broadcast_to(quarter, (1, 4, 2, 2))
    settings = replace(PAPER, set_resolve=False)
    assert all(np.array_equal(one, start) for one in assign(cost, np.eye(4)[None], start, settings))


def test_objects_at_one_place_go_to_one_result_each():
    maps = torch.full((3, 8, 8), 1e-4)
    maps[:, 2:6, 2:6] = 1
    images = constant_images(3, 8, 8)
    for seed in range(5):
        mixer = CoMixup(Given(maps), block_num=4, eta=0.0)
        mixed, labels = mixer(images, torch.eye(3), generator(seed), Context())
        middle = mixed[:, 0, 2:6, 2:6].reshape(3, -1)
        assert all(len(one.unique()) == 1 for one in middle)  # in one piece
        assert sorted(middle[:, 0].tolist()) == [0, 1, 2]
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(3))


def test_images_that_are_shown_too_much_cost_something():
    alike = np.eye(3)[None]
    shown = np.array([[14.0, 13.0, 0.0]])
    assert penalties(shown, alike, 0.83 * 16, spread=False).tolist() == [[14, 0, 0]]  # 13.28 blocks are free
    # Two results and two images without an object of their own: the second result must not be the first one again.
    cost = np.zeros((1, 2, 2, 2))
    cost[0, 0] = -0.01
    first, second = assign(cost, np.eye(2)[None], np.zeros((1, 2, 2, 2), int), PAPER)
    assert np.array_equal(first, second)
    assert sorted(first[0, :, 0, 0].tolist()) == [0, 1]
    assert all(len(np.unique(one)) == 1 for one in first[0])


def test_the_most_salient_window():
    maps = torch.zeros(2, 20, 24)
    maps[0, 5, 7] = 1.0  # all windows with it are equal: the first of them
    maps[1, 10:18, 3:11] = 1.0
    maps[1, 0, 20] = 50.0
    assert most_salient_windows(maps, 8).tolist() == [[0, 0], [10, 3]]
    random = torch.rand(3, 13, 11, generator=generator())
    for window in range(1, 12):
        naive = torch.nn.functional.avg_pool2d(random[:, None].double(), window, 1)[:, 0]
        found = most_salient_windows(random, window)
        assert [naive[i, y, x] for i, (y, x) in enumerate(found)] == [one.max() for one in naive]
    assert most_salient_windows(torch.rand(1, 4, 4), 8).tolist() == [[0, 0]]


def test_coupling_by_hand():
    windows = np.array([[[0.0, 0], [3, 1], [0, 4]]])
    distance = np.array([[0, 4, 4], [4, 0, 6], [4, 6, 0]])
    np.testing.assert_allclose(coupling(windows, 0.1)[0], 0.9 * np.eye(3) + 0.1 * 3 * distance / 28)
    np.testing.assert_allclose(coupling(np.zeros((1, 1, 2)), 0.1), [[[0.9]]])


def test_results_of_one_image_are_not_driven_apart():
    counts = np.array([[[16.0, 0], [16, 0]]])
    assert not drive_apart(counts).any()


# --- against loops -------------------------------------------------------------------------------------------------


def cheapest(unary: np.ndarray, apart: np.ndarray, weight: float) -> np.ndarray:
    """The best labelling of a grid of 2 x 2 by trying all: unary ``(L, 2, 2)``."""
    best, found = np.inf, None
    for a, b, c, d in product(range(len(unary)), repeat=4):
        cost = unary[a, 0, 0] + unary[b, 0, 1] + unary[c, 1, 0] + unary[d, 1, 1]
        cost += weight * (apart[a, b] + apart[c, d] + apart[a, c] + apart[b, d])
        if cost < best:
            best, found = cost, (a, b, c, d)
    return np.reshape(found, (2, 2))


def naive_assign(cost: np.ndarray, alike: np.ndarray, start: np.ndarray, settings: Objective) -> np.ndarray:
    """The algorithm with one-hot masks ``(n, 2, 2, n)``, one result at a time."""
    n, sites = len(cost), 4
    masks = np.eye(n)[start]
    added = np.zeros((n, n))
    for sweep in range(settings.niter):
        for j in range(n):
            penalty = masks.sum(axis=(0, 1, 2)) - masks[j].sum(axis=(0, 1))
            over = alike @ penalty > settings.tau * sites
            modular = alike @ (over * penalty) if settings.spread_penalty else over * (alike @ penalty)
            costs = cost + settings.gamma / sites * (2 * modular + added[j])[:, None, None]
            count = masks[j].sum(axis=(0, 1))
            assigned = np.flatnonzero(count)
            if sweep == 0 or len(assigned) < 2:
                mixtures = []
            elif len(assigned) == 2:
                mixtures = [tuple(assigned)]
            else:
                a, b, c = sorted(np.argsort(-count, kind="stable")[:3])
                mixtures = [(a, b), (a, c), (b, c)]
            values = list(np.eye(n)) + [(np.eye(n)[a] + np.eye(n)[b]) / 2 for a, b in mixtures]
            unary = np.stack([*costs, *((costs[a] + costs[b]) / 2 - 5e-4 for a, b in mixtures)])
            apart = 1 - np.eye(len(values))
            for number, pair in enumerate(mixtures):
                for image in pair:
                    apart[n + number, image] = apart[image, n + number] = 0.25
            masks[j] = np.array(values)[cheapest(unary, apart, settings.beta / sites)]
        if sweep == settings.niter - 2 and settings.set_resolve:
            has = masks.sum(axis=(1, 2)) > 0
            for a, b in product(range(n), range(n)):
                if a < b and has[a].sum() > 1 and (has[a] == has[b]).all():
                    added[a, np.flatnonzero(has[a])[0]] = added[b, np.flatnonzero(has[a])[1]] = 1
    return masks


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("resolve", [False, True])
def test_assignment_is_the_naive_one(spread, resolve):
    settings = replace(PAPER, niter=3, set_resolve=resolve, spread_penalty=spread)
    numbers, mixed = np.random.default_rng(0), 0
    costs, alikes, starts = [], [], []
    for _ in range(6):
        costs.append(-numbers.dirichlet(np.full(4, 0.5), 3).reshape(3, 2, 2))
        alikes.append(coupling(numbers.integers(20, size=(1, 3, 2)).astype(float), 0.05)[0])
        starts.append(numbers.integers(3, size=(3, 2, 2)))
    first, second = assign(np.stack(costs), np.stack(alikes), np.stack(starts), settings)  # all parts at once
    for i in range(6):
        masks = naive_assign(costs[i], alikes[i], starts[i], settings)
        np.testing.assert_allclose((np.eye(3)[first[i]] + np.eye(3)[second[i]]) / 2, masks)
        mixed += (masks == 0.5).any()
    assert mixed > 0


def test_mixing_is_the_product_of_masks_and_images():
    numbers = generator()
    images = torch.rand(4, 3, 12, 8, generator=numbers)
    targets = torch.rand(4, 5, generator=numbers)
    first, second = (torch.randint(4, (4, 4, 4), generator=numbers) for _ in range(2))
    mixed, labels = mix(images, targets, first, second, Context())
    masks = (torch.nn.functional.one_hot(first, 4) + torch.nn.functional.one_hot(second, 4)) / 2
    whole = masks.permute(0, 3, 1, 2).repeat_interleave(3, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(mixed, (whole[:, :, None] * images[None]).sum(dim=1))
    torch.testing.assert_close(labels, masks.mean(dim=(1, 2)) @ targets)


# --- parts and draws -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_parts_are_mixed_among_themselves(size):
    images = constant_images(size, 16, 16)
    mixer = CoMixup(Given(objects(size, 16)), part_size=3)
    labels = mixer(images, torch.eye(size), generator(), Context())[1]
    part = torch.arange(size) // 3
    assert not labels[part[:, None] != part].any()
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(size))


def test_full_parts_together_are_as_each_alone():
    maps = objects(6, 16)
    shares = torch.nn.functional.avg_pool2d(maps, 4).double()
    shares = (shares / shares.sum(dim=(1, 2), keepdim=True)).numpy()
    windows = most_salient_windows(maps, 8).double().numpy()
    mixer = CoMixup(Given(maps), part_size=3)
    ((priors, starts),) = mixer.draw(6, generator())[1]
    together = np.stack(mixer.choose(shares, windows, [(priors, starts)]))
    for i in range(2):
        inside = slice(3 * i, 3 * i + 3)
        alone = mixer.choose(shares[inside], windows[inside], [(priors[i : i + 1], starts[i : i + 1])])
        assert np.array_equal(np.stack(alone) + 3 * i, together[:, inside])


def test_p_is_the_share_of_batches_that_are_mixed():
    images, targets = constant_images(2, 4, 4), torch.eye(2)
    maps = torch.zeros(2, 4, 4)
    maps[0, :, :2] = maps[1, :, 2:] = 1
    mixer, draws = CoMixup(Given(maps), block_num=2, p=0.3), generator()
    mixed = sum(not torch.equal(mixer(images, targets, draws, Context())[1], targets) for _ in range(400))
    assert abs(mixed - 120) <= 5 * (400 * 0.3 * 0.7) ** 0.5


def test_draws_have_the_distributions_of_the_paper():
    mixer = CoMixup(Given(torch.ones(1)), part_size=4)
    draws = mixer.draw(4 * 2000 + 3, generator())[1]
    assert [prior.shape for prior, _ in draws] == [(2000, 4), (1, 3)]
    assert [start.shape for _, start in draws] == [(2000, 4, 4, 4), (1, 3, 4, 4)]
    priors, starts = draws[0]
    np.testing.assert_allclose(priors.sum(axis=1), 1)
    # Dirichlet(2, 2, 2, 2): each share has the variance a (A - a) / (A^2 (A + 1)) = 2 * 6 / (64 * 9).
    assert abs(priors.var() - 1 / 48) < 0.001
    assert np.abs(np.bincount(starts.ravel()) / starts.size - 0.25).max() < 0.005


def test_the_generator_decides_everything():
    images, maps = torch.randn(5, 3, 32, 32, generator=generator()), objects(5, 32)
    first, again, other = (CoMixup(Given(maps))(images, torch.eye(5), generator(s), Context()) for s in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


# --- all of it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_num", [2, 4, 16])
def test_pixels_say_what_labels_say(block_num):
    images, targets = constant_images(6, 32, 32), torch.eye(6)
    mixer, draws = CoMixup(Given(objects(6, 32)), block_num=block_num), generator()
    several = 0
    for _ in range(3):
        mixed, labels = mixer(images, targets, draws, Context())
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(6))
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), labels @ torch.arange(6.0))
        several += ((labels > 0).sum(dim=1) > 1).sum().item()
    assert several > 9  # of 18: peaked maps are mixed


def test_it_says_how_it_mixed():
    images, context = constant_images(4, 16, 16), Context(notes={})
    _, labels = CoMixup(Given(objects(4, 16)))(images, torch.eye(4), generator(), context)
    torch.testing.assert_close(context.notes["own"].mean(dim=(1, 2)), labels.diagonal())
    assert torch.equal(labels.gather(1, context.notes["partners"])[:, 0], labels.max(dim=1).values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_are_kept(dtype):
    images = torch.rand(3, 1, 16, 16, generator=generator()).to(dtype)
    mixed, labels = CoMixup(Given(objects(3, 16)))(images, torch.eye(3), generator(), Context())
    assert (mixed.dtype, labels.dtype) == (dtype, torch.float32)
    reference = CoMixup(Given(objects(3, 16)))(images.double(), torch.eye(3), generator(), Context())[0]
    torch.testing.assert_close(mixed.double(), reference, atol=0.01, rtol=0)


def test_maps_of_zeros_and_a_batch_of_one():
    images = torch.rand(3, 3, 16, 16, generator=generator())
    mixed, labels = CoMixup(Given(torch.zeros(3, 16, 16)))(images, torch.eye(3), generator(), Context())
    assert torch.isfinite(mixed).all()
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(3))
    one = CoMixup(Given(objects(1, 16)))(images[:1], torch.eye(3)[:1], generator(), Context())
    assert torch.equal(one[0], images[:1])
    assert torch.equal(one[1], torch.eye(3)[:1])


def test_wrong_arguments_are_refused():
    given = Given(torch.ones(2, 30, 30))
    with pytest.raises(ValueError, match=r"divisible by block_num 4, came 30 x 30"):
        CoMixup(given)(torch.rand(2, 3, 30, 30), torch.eye(2), generator(), Context())
    with pytest.raises(ValueError, match=r"niter=0"):
        CoMixup(given, niter=0)
    with pytest.raises(ValueError, match=r"omega=2"):
        CoMixup(given, omega=2)
    with pytest.raises(ValueError, match=r"p is the probability.*came 3"):
        CoMixup(given, p=3)
