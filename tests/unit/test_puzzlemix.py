from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from genaug.functional.graph_cut import minimise
from genaug.mixing.base import Context
from genaug.mixing.puzzlemix import (
    PuzzleMix,
    colours_at_seams,
    largest_patch,
    mask_energy,
    prior,
    transport_sources,
)
from genaug.saliency.base import Saliency

NO_SEAMS = np.zeros((2, 2, 1, 1, 2)), np.zeros((2, 2, 1, 2, 1))


class Given(Saliency):
    """Maps that the test has made."""

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps

    def __call__(self, images: Tensor, targets: Tensor, context: Context) -> Tensor:
        return self.maps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def objects(size: int, side: int, seed: int = 0) -> Tensor:
    """One bright object an image, and some noise."""
    numbers = generator(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    centre = torch.rand(2, size, 1, 1, generator=numbers)
    maps = torch.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 0.03)
    return maps + 0.1 * torch.rand(size, side, side, generator=numbers)


def constant_images(size: int, height: int, width: int) -> Tensor:
    return torch.arange(float(size)).view(size, 1, 1, 1).expand(size, 3, height, width)


# --- the mask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lam", "mask"),
    [
        # What is empty goes to the image that lam asks for, or to both where it asks for as much of each.
        (0.9, [[1, 1], [1, 0]]),
        (0.1, [[1, 0], [0, 0]]),
        (0.5, [[1, 0.5], [0.5, 0]]),
    ],
)
def test_a_mask_by_hand(lam, mask):
    # The own image's object is at the top left, the partner's at the bottom right.
    own, other = np.array([[[1.0, 0], [0, 0]]]), np.array([[[0.0, 0], [0, 1]]])
    labels = minimise(mask_energy(own, other, *NO_SEAMS, lam, n_labels=3, eta=0.2, beta=1.2, gamma=0.5))
    assert (1 - labels[0] / 2).tolist() == mask


def test_the_label_is_the_mean_of_the_mask():
    maps = torch.zeros(2, 8, 8)
    maps[0, :4, :4] = maps[1, 4:, 4:] = 1
    images = constant_images(2, 8, 8)
    mixer = PuzzleMix(Given(maps), pairing="roll", block_nums=(2,))
    seen = set()
    for seed in range(30):
        mixed, labels = mixer(images, torch.eye(2), generator(seed), Context())
        torch.testing.assert_close(labels @ torch.arange(2.0), mixed.mean(dim=(1, 2, 3)))
        # Each shows its object at its place, whatever lam: 0 at the top left of its own, 1 at the bottom right.
        assert mixed[0, 0, 0, 0] == 0
        assert mixed[0, 0, 7, 7] == 1
        # Transport takes the second's objects nowhere: moving costs .8, and the places they are at are shown.
        assert mixed[1, 0, 7, 7] == 1
        assert mixed[1, 0, 0, 0] == 0
        seen.add(round(labels[0, 0].item(), 3))
    assert {0.25, 0.5, 0.75} <= seen


def test_the_energy_is_the_papers_up_to_a_constant():
    """For masks of 0 and 1: saliency lost, label smoothness, data smoothness and prior, summed up edge by edge."""
    numbers = np.random.default_rng(0)
    n, lam, eta, beta, gamma = 4, 0.3, 0.2, 1.2, 0.5
    own, other = numbers.dirichlet(np.ones(16), 2).reshape(2, 1, 4, 4)
    down, right = numbers.random((2, 2, 1, 3, 4)), numbers.random((2, 2, 1, 4, 3))
    energy = mask_energy(own, other, down, right, lam, n_labels=2, eta=eta, beta=beta, gamma=gamma)
    differences = []
    for _ in range(50):
        z = numbers.integers(2, size=(n, n))  # 1 = the image's own
        expected = sum((other if z[y, x] else own)[0, y, x] for y, x in product(range(n), range(n)))
        expected += sum(-eta / n**2 * np.log(lam if z[y, x] else 1 - lam) for y, x in product(range(n), range(n)))
        for y, x in product(range(n - 1), range(n)):
            a, b = z[y, x], z[y + 1, x]
            expected += beta / 16 / n * ((a != b) + gamma * down[a, b, 0, y, x])
        for y, x in product(range(n), range(n - 1)):
            a, b = z[y, x], z[y, x + 1]
            expected += beta / 16 / n * ((a != b) + gamma * right[a, b, 0, y, x])
        differences.append(energy.of(1 - z[None])[0] - expected)
    assert np.ptp(differences) < 1e-6


def test_the_prior_is_binomial():
    assert prior(0.3, 2) == pytest.approx(-np.log([0.3, 0.7]))
    assert prior(0.3, 4) == pytest.approx(-np.log([0.027, 0.189, 0.441, 0.343]))
    assert np.isfinite(prior(1.0, 3)).all()


# --- colours at seams ----------------------------------------------------------------------------------------------


def naive_seams(upper: Tensor, lower: Tensor, blocks: int, patch: int) -> Tensor:
    """Patches of the whole images, and their differences at the borders between blocks one above the other."""
    upper, lower = (torch.nn.functional.avg_pool2d(one, patch) for one in (upper, lower))
    size, _, rows, _ = upper.shape
    per_block = rows // blocks
    result = torch.zeros(size, blocks - 1, blocks)
    for i, y, x, k in product(range(size), range(blocks - 1), range(blocks), range(per_block)):
        row, column = (y + 1) * per_block, x * per_block + k
        result[i, y, x] += (upper[i, :, row - 1, column] - lower[i, :, row, column]).abs().mean() / per_block
    return result


@pytest.mark.parametrize("blocks", [2, 4])
def test_colours_at_seams(blocks):
    images = torch.randn(3, 3, 16, 16, generator=generator())
    pairing, std = torch.tensor([2, 0, 1]), (0.2, 0.3, 0.4)
    down, right = colours_at_seams(images, pairing, blocks, 2, std)
    real = images * torch.tensor(std).view(3, 1, 1)
    for a, b in product(range(2), range(2)):
        one, other = (real if own else real[pairing] for own in (a, b))
        torch.testing.assert_close(down[a, b], naive_seams(one, other, blocks, 2))
        turned = naive_seams(one.transpose(2, 3), other.transpose(2, 3), blocks, 2).transpose(1, 2)
        torch.testing.assert_close(right[a, b], turned)


def test_patches_fit_into_blocks_of_every_grid():
    # In the published code 16 x 16 blocks of 224 pixels end in an error.
    images = torch.randn(2, 3, 224, 224, generator=generator())
    mixer_of = {n: PuzzleMix(Given(objects(2, 224)), block_nums=(n,)) for n in (2, 4, 8, 16)}
    for mixer in mixer_of.values():
        assert mixer(images, torch.eye(2), generator(), Context())[0].shape == images.shape
    assert [largest_patch(224 // n, 224 // n, 4) for n in mixer_of] == [4, 4, 4, 2]
    assert largest_patch(6, 9, 8) == 3


def test_images_of_one_channel_are_scaled_by_the_average():
    images = torch.randn(2, 1, 8, 8, generator=generator())
    pairing = torch.tensor([1, 0])
    three, one = (colours_at_seams(images, pairing, 2, 4, std) for std in ((0.1, 0.2, 0.3), (0.2,)))
    torch.testing.assert_close(three, one)


# --- transport -----------------------------------------------------------------------------------------------------


def naive_plan(saliency: np.ndarray, shown: np.ndarray, t_eps: float) -> np.ndarray:
    """The paper's algorithm with dense matrices: ``plan[i, j]`` is 1 where block i goes to place j."""
    n = len(saliency)
    sites = list(product(range(n), range(n)))
    cost = np.array(
        [
            [t_eps * ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / (n - 1) ** 2 - saliency[a] * shown[b] for b in sites]
            for a in sites
        ]
    )
    large = 1e3
    for _ in range(20 * n * n):
        plan = np.zeros_like(cost)
        plan[np.arange(n * n), cost.argmin(axis=1)] = 1
        winner = (plan * cost + large * (1 - plan)).argmin(axis=0)
        wins = np.zeros_like(cost)
        wins[winner, np.arange(n * n)] = 1
        wins *= plan
        if np.array_equal(wins, plan):
            break
        cost = cost + large * (plan - wins)
    return wins


@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_transport_is_the_dense_one_where_it_shows(blocks):
    numbers, moved = np.random.default_rng(blocks), 0
    for seed in range(12):
        saliency = objects(1, 4 * blocks, seed)[0].view(blocks, 4, blocks, 4).mean(dim=(1, 3)).double().numpy()
        saliency = saliency**3 / (saliency**3).sum()
        shown = numbers.random((blocks, blocks)) < numbers.choice([0.1, 0.5, 0.9])
        sources = transport_sources(saliency[None], shown[None], 0.8)[0]
        plan = naive_plan(saliency, shown, 0.8)
        assert (plan.sum(axis=0) == 1).all()
        assert np.array_equal(plan.argmax(axis=0).reshape(blocks, blocks)[shown], sources[shown])
        assert len(set(sources[shown].tolist())) == shown.sum()
        moved += (sources.ravel() != np.arange(blocks**2)).sum()
    assert moved > 0 or blocks == 2


def test_a_hidden_object_moves_to_the_nearest_place_that_shows_less():
    saliency = np.full((4, 4), 0.01)
    saliency[1, 1] = 0.4  # hidden
    saliency[1, 2] = 0.2  # shown, next to it
    shown = np.zeros((4, 4), bool)
    shown[:, 2:] = True
    sources = transport_sources(saliency[None], shown[None], 0.8)[0]
    # A step costs .8 / 9 = .089: .4 - .089 is more than .2. What was there moves on by one step, the first of three.
    expected = np.arange(16).reshape(4, 4)
    expected[1, 2] = 5
    expected[0, 2] = 6
    assert np.array_equal(sources[shown], expected[shown])


def test_moving_far_does_not_pay():
    saliency = np.full((4, 4), 0.01)
    saliency[0, 0] = 0.5
    shown = np.zeros((4, 4), bool)
    shown[3, 3] = True  # 18 ninths of .8 away
    assert transport_sources(saliency[None], shown[None], 0.8)[0, 3, 3] == 15
    assert transport_sources(saliency[None], shown[None], 0.1)[0, 3, 3] == 0


def test_an_object_that_the_mask_hides_is_shown_elsewhere():
    """Where both images have an object the partner's counts more; the own one moves next to it, pixels and all."""
    maps = torch.full((2, 8, 8), 1e-4)
    maps[0, 2:4, 2:4], maps[0, 6:, 6:], maps[1, 2:4, 2:4] = 0.6, 0.4, 1.0
    images = torch.zeros(2, 3, 8, 8)
    images[0, :, 2:4, 2:4], images[0, :, 6:, 6:], images[1, :, 2:4, 2:4] = 1.0, 2.0, 3.0
    for transport, seen in ((False, [0, 2, 3]), (True, [0, 1, 2, 3])):
        mixer = PuzzleMix(Given(maps), block_nums=(4,), transport=transport)
        shares = torch.nn.functional.avg_pool2d(maps, 2).double()
        shares = (shares / shares.sum(dim=(1, 2), keepdim=True)).numpy()
        pairing, seams = torch.tensor([1, 0]), (np.zeros((2, 2, 2, 3, 4)), np.zeros((2, 2, 2, 4, 3)))
        # With lam .9 all that is not the partner's object is the own image's.
        mask = mixer.mask(shares, pairing.numpy(), *seams, lam=0.9)
        expected = np.ones((4, 4))
        expected[1, 1] = 0
        assert np.array_equal(mask[0], expected)
        mixed, own = mixer.assemble(images, shares, pairing, mask)
        assert mixed[0].unique().tolist() == seen
        assert torch.equal(mixed[0, :, 2:4, 2:4], torch.full((3, 2, 2), 3.0))
        assert own[0].mean() == 15 / 16
    # Of the four places a step away the first.
    assert torch.equal(mixed[0, :, 0:2, 2:4], torch.ones(3, 2, 2))


# --- draws ---------------------------------------------------------------------------------------------------------


def test_p_is_the_share_of_batches_that_are_mixed():
    images, targets = constant_images(2, 16, 16), torch.eye(2)
    maps = torch.zeros(2, 16, 16)
    maps[0, :8, :8] = maps[1, 8:, 8:] = 1
    mixer, draws = PuzzleMix(Given(maps), p=0.3, pairing="roll"), generator()
    mixed = sum(not torch.equal(mixer(images, targets, draws, Context())[1], targets) for _ in range(400))
    assert abs(mixed - 120) <= 5 * (400 * 0.3 * 0.7) ** 0.5


def test_saliency_is_not_asked_for_in_vain():
    class Never(Saliency):
        def __call__(self, images, targets, context):
            raise AssertionError

    images = constant_images(2, 8, 8)
    assert PuzzleMix(Never(), p=0.0)(images, torch.eye(2), generator(), Context())[0] is images


def test_grids_are_drawn_evenly_from_those_that_divide_the_image():
    mixer, draws = PuzzleMix(Given(torch.ones(1))), generator()
    for shape, fitting in (((4, 3, 224, 448), {2, 4, 8, 16}), ((4, 3, 24, 24), {2, 4, 8}), ((4, 3, 30, 30), {2})):
        drawn = [mixer.draw(shape, draws)[2] for _ in range(800)]
        assert set(drawn) == fitting
        for blocks in fitting:
            share = 1 / len(fitting)
            assert abs(drawn.count(blocks) - 800 * share) <= 5 * (800 * share * (1 - share)) ** 0.5
    lam = torch.tensor([mixer.draw((2, 3, 8, 8), draws)[1] for _ in range(2000)])
    assert abs(lam.mean() - 0.5) < 5 * (1 / 12 / 2000) ** 0.5
    assert abs(lam.var() * 12 - 1) < 0.15


def test_the_generator_decides_everything():
    images, maps = torch.randn(5, 3, 32, 32, generator=generator()), objects(5, 32)
    first, again, other = (PuzzleMix(Given(maps))(images, torch.eye(5), generator(s), Context()) for s in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


# --- all of it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", [False, True])
@pytest.mark.parametrize("n_labels", [2, 3, 4])
def test_pixels_say_what_labels_say(n_labels, transport):
    images, targets = constant_images(7, 32, 48), torch.eye(7)
    maps = torch.nn.functional.interpolate(objects(7, 32)[:, None], (32, 48))[:, 0]
    mixer, draws = PuzzleMix(Given(maps), n_labels=n_labels, transport=transport), generator()
    for _ in range(10):
        mixed, labels = mixer(images, targets, draws, Context())
        assert ((labels > 0).sum(dim=1) <= 2).all()
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(7))
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), labels @ torch.arange(7.0))


def test_it_says_how_it_mixed():
    images, maps = constant_images(4, 16, 16), objects(4, 16)
    context = Context(notes={})
    mixed, labels = PuzzleMix(Given(maps), pairing="roll")(images, torch.eye(4), generator(), context)
    own = context.notes["own"]
    torch.testing.assert_close(own.mean(dim=(1, 2)), labels.diagonal())
    partners = images[context.notes["partners"]]
    torch.testing.assert_close(mixed, own[:, None] * images + (1 - own[:, None]) * partners)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_are_kept(dtype):
    images = torch.rand(3, 1, 16, 16, generator=generator()).to(dtype)
    mixed, labels = PuzzleMix(Given(objects(3, 16)))(images, torch.eye(3), generator(), Context())
    assert (mixed.dtype, labels.dtype) == (dtype, torch.float32)
    reference = PuzzleMix(Given(objects(3, 16)))(images.double(), torch.eye(3), generator(), Context())[0]
    torch.testing.assert_close(mixed.double(), reference, atol=0.01, rtol=0)


def test_maps_of_zeros_and_a_batch_of_one():
    images = torch.rand(1, 3, 16, 16, generator=generator())
    mixed, labels = PuzzleMix(Given(torch.zeros(1, 16, 16)))(images, torch.eye(3)[:1], generator(), Context())
    assert torch.equal(mixed, images)  # with itself, and nothing worth moving
    torch.testing.assert_close(labels, torch.eye(3)[:1])


def test_wrong_arguments_are_refused():
    given = Given(torch.ones(2, 33, 33))
    with pytest.raises(ValueError, match=r"sides that one of block_nums \[2, 4, 8, 16\] divides, came 33 x 33"):
        PuzzleMix(given)(torch.rand(2, 3, 33, 33), torch.eye(2), generator(), Context())
    with pytest.raises(ValueError, match=r"block_nums.*came \[1\]"):
        PuzzleMix(given, block_nums=[1])
    with pytest.raises(ValueError, match=r"n_labels=1"):
        PuzzleMix(given, n_labels=1)
    with pytest.raises(ValueError, match=r"alpha.*came 0"):
        PuzzleMix(given, alpha=0)
    with pytest.raises(ValueError, match=r"solver.*came 'best'"):
        PuzzleMix(given, solver="best")
