from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genaug.mixing.base import Context
from genaug.mixing.guided import GuidedMix, greedy_cycle, guided, pixel_weights, squared_distances
from genaug.saliency.base import Saliency


class Given(Saliency):
    """Maps that are planted; counts how often it is asked."""

    def __init__(self, maps: torch.Tensor) -> None:
        self.maps, self.asked = maps, 0

    def __call__(self, images, targets, context):
        self.asked += 1
        return self.maps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spots(places: list[tuple[int, int]], height: int = 24, width: int = 32) -> torch.Tensor:
    maps = torch.zeros(len(places), height, width)
    for one, (y, x) in zip(maps, places, strict=True):
        one[y - 2 : y + 2, x - 2 : x + 2] = 5
    return maps


def test_weights_of_pixels_by_hand():
    maps = torch.tensor([[[1.0, 0.0, 0.0, 3.0]], [[1.0, 4.0, 0.0, 1.0]]])
    own = pixel_weights(maps, torch.tensor([1, 0]))
    assert own.tolist() == [[[0.5, 0.0, 0.5, 0.75]], [[0.5, 1.0, 0.5, 0.25]]]


def test_mixture_and_labels_by_hand():
    images = torch.tensor([0.0, 8.0]).view(2, 1, 1, 1).expand(2, 3, 1, 4)
    own = torch.tensor([[[0.5, 0.0, 0.5, 0.75]], [[0.5, 1.0, 0.5, 0.25]]])
    mixed, labels = guided(images, torch.eye(2), torch.tensor([1, 0]), own)
    assert mixed[0, 1].tolist() == [[4, 8, 4, 2]]
    assert mixed[1, 2].tolist() == [[4, 8, 4, 2]]
    assert labels.tolist() == [[0.4375, 0.5625], [0.4375, 0.5625]]


def test_both_salient_spots_survive():
    maps = spots([(6, 6), (16, 24)])
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 24, 32)
    mixed, labels = GuidedMix(Given(maps))(images, torch.eye(2), generator(), Context())
    for image in mixed:  # both mixtures show image 0 at its own spot and image 1 at its
        assert image[:, 4:8, 4:8].max() == 0
        assert image[:, 14:18, 22:26].min() == 1
        assert image[0, 23, 0] == 0.5  # salient in neither
    assert labels.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_a_map_that_is_salient_nowhere_gives_way():
    maps = torch.stack([torch.zeros(24, 32), spots([(12, 16)])[0]])
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 24, 32)
    mixed, labels = GuidedMix(Given(maps))(images, torch.eye(2), generator(), Context())
    covered = (10 * 10) / (24 * 32)  # a spot of 4 pixels, blurred over 7: 10 x 10 pixels
    expected = (1 - covered) / 2
    torch.testing.assert_close(labels, torch.tensor([[expected, 1 - expected], [expected, 1 - expected]]))
    assert mixed[0, 0, 12, 16] == mixed[1, 0, 12, 16] == 1
    empty = GuidedMix(Given(torch.zeros(2, 24, 32)))(images, torch.eye(2), generator(), Context())
    assert empty[1].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert (empty[0] == 0.5).all()


def test_it_is_the_published_formula():
    maps = torch.rand(3, 11, 9, generator=generator())
    images = torch.randn(3, 3, 11, 9, generator=generator(1))
    mixer = GuidedMix(Given(maps), pairing="roll")
    mixed, labels = mixer(images, torch.eye(3), generator(), Context())
    weights = np.exp(-((np.arange(7) - 3) ** 2) / 18)
    weights /= weights.sum()
    blurred = []
    for one in maps.double().numpy():
        padded = np.pad(one, 3, mode="reflect")
        smooth = [[weights @ padded[y : y + 7, x : x + 7] @ weights for x in range(9)] for y in range(11)]
        blurred.append(np.array(smooth) / np.sum(smooth))
    for own, partner in ((0, 2), (1, 0), (2, 1)):
        mask = blurred[own] / (blurred[own] + blurred[partner])
        expected = mask * images[own].double().numpy() + (1 - mask) * images[partner].double().numpy()
        np.testing.assert_allclose(mixed[own], expected, atol=1e-5)
        assert labels[own, own].item() == pytest.approx(mask.mean(), abs=1e-6)
        assert labels[own, partner].item() == pytest.approx(1 - mask.mean(), abs=1e-6)


# --- greedy pairs --------------------------------------------------------------------------------------------------


def naive_cycle(distances: np.ndarray) -> list[int]:
    """The tour by lists: the farthest two first, then always the farthest that is left."""
    size = len(distances)
    pairs = sorted(itertools.permutations(range(size), 2), key=lambda pair: (-distances[pair], pair))
    tour = list(pairs[0]) if pairs else [0]
    while len(tour) < size:
        left = [one for one in range(size) if one not in tour]
        tour.append(max(left, key=lambda one: (distances[tour[-1], one], -one)))
    partners = [0] * size
    for here, there in zip(tour, tour[1:] + tour[:1], strict=True):
        partners[here] = there
    return partners


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 16])
def test_greedy_pairs_are_the_tour(size):
    points = torch.rand(size, 3, generator=generator(size))
    distances = torch.cdist(points, points)
    pairing = greedy_cycle(distances).tolist()
    assert pairing == naive_cycle(distances.numpy())
    here, seen = 0, set()
    for _ in range(size):
        seen.add(here)
        here = pairing[here]
    assert (here, len(seen)) == (0, size)  # one cycle through everybody


def test_greedy_pairs_of_four_spots_by_hand():
    # On a line, the outer two are farthest apart: 0 - 3; from 3 the farthest left is 1, then 2, and back to 0. But maps
    # of spots that do not touch are all equally far apart; ties go to the first. Wide spots that overlap tell.
    x = torch.arange(40.0)
    maps = torch.exp(-((x - torch.tensor([5.0, 9.0, 26.0, 32.0])[:, None]) ** 2) / 200)[:, None].expand(-1, 8, -1)
    assert greedy_cycle(squared_distances(maps)).tolist() == [3, 2, 0, 1]
    mixer, targets = GuidedMix(Given(maps)), torch.eye(4)
    labels = mixer(torch.zeros(4, 3, 8, 40), targets, generator(), Context())[1]
    assert [row.nonzero().flatten().tolist() for row in labels] == [[0, 3], [1, 2], [0, 2], [1, 3]]


def test_equal_maps_still_make_one_cycle():
    assert sorted(greedy_cycle(torch.zeros(5, 5)).tolist()) == [0, 1, 2, 3, 4]
    assert all(own != partner for own, partner in enumerate(greedy_cycle(torch.zeros(5, 5)).tolist()))


def test_distances_are_exact_where_maps_are_nearly_equal():
    maps = torch.full((6, 64, 64), 1 / 64**2) + 1e-7 * torch.rand(6, 64, 64, generator=generator())
    flat = maps.double().flatten(1)
    expected = torch.cdist(flat, flat).square()
    torch.testing.assert_close(squared_distances(maps).double(), expected, rtol=1e-4, atol=1e-16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(squared_distances(maps), squared_distances(maps))
        torch.testing.assert_close(squared_distances(maps).double(), expected, rtol=1e-4, atol=1e-16)


def test_random_pairs_are_the_permutation():
    maps = torch.rand(6, 8, 8, generator=generator())
    labels = GuidedMix(Given(maps), pairing="permutation")(
        torch.zeros(6, 1, 8, 8), torch.eye(6), generator(3), Context()
    )[1]
    partners = torch.randperm(6, generator=generator(3)).tolist()
    for own, partner in enumerate(partners):
        assert set(labels[own].nonzero().flatten().tolist()) == {own, partner}


# --- the rest ------------------------------------------------------------------------------------------------------


def test_p_is_the_share_of_batches_and_nothing_is_computed_for_the_rest():
    saliency, draws = Given(spots([(6, 6), (16, 24)])), generator()
    mixer, images = GuidedMix(saliency, p=0.3), torch.zeros(2, 1, 24, 32)
    mixed = sum(mixer(images, torch.eye(2), draws, Context())[1][0, 0].item() < 1 for _ in range(1000))
    assert saliency.asked == mixed
    assert abs(mixed - 300) <= 5 * (1000 * 0.3 * 0.7) ** 0.5


def test_multi_hot_labels():
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    maps = torch.ones(2, 4, 4)
    labels = GuidedMix(Given(maps))(torch.zeros(2, 1, 4, 4), targets, generator(), Context())[1]
    assert labels.tolist() == [[0.5, 1, 0.5], [0.5, 1, 0.5]]


def test_a_preview_is_told():
    maps, context = spots([(6, 6), (16, 24), (6, 24)]), Context(notes={})
    GuidedMix(Given(maps))(torch.zeros(3, 1, 24, 32), torch.eye(3), generator(), context)
    assert sorted(context.notes["partners"].tolist()) == [0, 1, 2]
    assert context.notes["own"].shape == (3, 24, 32)


def test_half_precision_keeps_labels_exact():
    maps = F.interpolate(torch.rand(4, 1, 4, 4, generator=generator()), (33, 21), mode="bilinear")[:, 0]
    images = torch.randn(4, 3, 33, 21, generator=generator())
    mixer = GuidedMix(Given(maps))
    full, half = (mixer(one, torch.eye(4), generator(), Context()) for one in (images, images.half()))
    assert torch.equal(full[1], half[1])
    torch.testing.assert_close(half[0].float(), full[0], rtol=1e-2, atol=1e-2)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="probability of mixing.*came 1.5"):
        GuidedMix(Given(torch.zeros(1)), p=1.5)
    with pytest.raises(ValueError, match="pairing: expected one of greedy, .*came 'greedy_c'"):
        GuidedMix(Given(torch.zeros(1)), pairing="greedy_c")
