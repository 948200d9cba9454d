from __future__ import annotations

import numpy as np
import pytest
import torch

from genaug.mixing.base import Context
from genaug.mixing.snapmix import SnapMix, label_weights, paste_resized
from genaug.saliency.base import Saliency


class Given(Saliency):
    def __init__(self, maps: torch.Tensor) -> None:
        self.maps, self.asked = maps, 0

    def __call__(self, images, targets, context):
        self.asked += 1
        return self.maps


class Fixed(SnapMix):
    """With boxes that are given."""

    def boxes(self, into: list[list[int]], cut: list[list[int]]) -> Fixed:
        self.given = torch.tensor(into), torch.tensor(cut)
        return self

    def draw(self, batch_size, height, width, generator):
        return torch.arange(batch_size).roll(1), *self.given


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive_resize(crop: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, corners on corners, pixel by pixel."""
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v = y * (crop.shape[0] - 1) / max(height - 1, 1)
            u = x * (crop.shape[1] - 1) / max(width - 1, 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, crop.shape[0] - 1), min(left + 1, crop.shape[1] - 1)
            upper = crop[top, left] * (1 - u + left) + crop[top, right] * (u - left)
            lower = crop[bottom, left] * (1 - u + left) + crop[bottom, right] * (u - left)
            out[y, x] = upper * (1 - v + top) + lower * (v - top)
    return out


BOXES = [
    ([2, 1, 6, 8], [0, 3, 8, 6]),
    ([0, 0, 9, 11], [4, 4, 5, 5]),  # one pixel over all of the image
    ([3, 3, 4, 4], [0, 0, 9, 11]),  # all of an image in one pixel
    ([0, 5, 2, 11], [7, 0, 9, 6]),  # of one size: moved as it is
    ([1, 1, 1, 1], [0, 0, 0, 0]),  # nothing
]


def test_boxes_are_resized_and_pasted():
    images = torch.randn(5, 2, 9, 11, generator=generator())
    pairing = torch.tensor([3, 1, 4, 0, 2])
    into, cut = (torch.tensor([pair[i] for pair in BOXES]) for i in (0, 1))
    mixed = paste_resized(images, pairing, into, cut)
    for own, ((y1, x1, y2, x2), (top, left, bottom, right)) in enumerate(BOXES):
        expected = images[own].double().numpy().copy()
        for channel, source in zip(expected, images[pairing[own]].double().numpy(), strict=True):
            if y2 > y1:
                channel[y1:y2, x1:x2] = naive_resize(source[top:bottom, left:right], y2 - y1, x2 - x1)
        np.testing.assert_allclose(mixed[own], expected, atol=1e-5)


@pytest.mark.parametrize("boxes", BOXES[:4])
def test_one_pair_of_boxes_is_the_same_for_all(boxes):
    images = torch.randn(3, 2, 9, 11, generator=generator())
    pairing = torch.tensor([2, 0, 1])
    into, cut = (torch.tensor([box]) for box in boxes)
    mixed = paste_resized(images, pairing, into, cut)
    each = paste_resized(images, pairing, into.expand(3, -1), cut.expand(3, -1))
    torch.testing.assert_close(mixed, each)
    y1, x1, y2, x2 = boxes[0]
    outside = torch.ones(9, 11, dtype=torch.bool)
    outside[y1:y2, x1:x2] = False
    assert torch.equal(mixed[..., outside], images[..., outside])
    assert torch.equal(each[..., outside], images[..., outside])


#: Where the classes of two images are: image 0 in the left half, 3/4 of it above; image 1 evenly.
MAPS = (
    torch.tensor([[[3.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]).repeat_interleave(4, 1).repeat_interleave(4, 2)
)


def test_weights_of_labels_by_hand():
    into, cut = [0, 0, 4, 8], [0, 0, 8, 2]  # over the upper half; the left quarter is cut out
    for boxes in ([[into], [cut]], [[into] * 2, [cut] * 2]):
        own, others = label_weights(MAPS, torch.tensor([1, 0]), *map(torch.tensor, boxes))
        assert own.tolist() == pytest.approx([0.25, 0.5])  # a quarter of image 0 is below
        assert others.tolist() == pytest.approx([0.25, 0.5])  # of image 1 an even quarter, of image 0 half


def test_rows_are_what_the_boxes_showed():
    mixer = Fixed(Given(MAPS)).boxes([[0, 0, 4, 8]], [[0, 0, 8, 4]])
    images = torch.zeros(2, 1, 8, 8)
    labels = mixer(images, torch.eye(2), generator(), Context())[1]
    assert labels.tolist() == [[0.25, 0.5], [1.0, 0.5]]  # sums 0.75 and 1.5


def test_pairs_of_one_class_get_the_sum():
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    mixer = Fixed(Given(MAPS)).boxes([[0, 0, 4, 8]], [[0, 0, 8, 4]])
    assert mixer(torch.zeros(2, 1, 8, 8), targets, generator(), Context())[1].tolist() == [[0.75, 0], [1.5, 0]]
    mixer.double_same_class = True
    assert mixer(torch.zeros(2, 1, 8, 8), targets, generator(), Context())[1].tolist() == [[1.5, 0], [3, 0]]
    assert mixer(torch.zeros(2, 1, 8, 8), torch.eye(2), generator(), Context())[1].tolist() == [[0.25, 0.5], [1, 0.5]]


@pytest.mark.parametrize("value", [0, 1e-44])  # the second has no sum to divide by, either
def test_maps_of_zeros_count_by_area(value):
    maps = MAPS.clone()
    maps[0] = value
    into, cut = torch.tensor([[0, 0, 2, 8]]), torch.tensor([[0, 0, 8, 4]])
    own, others = label_weights(maps, torch.tensor([1, 0]), into, cut)
    assert own.tolist() == [0.75, 0.75]
    assert others.tolist() == [0.25, 0.25]


@pytest.mark.parametrize("per_sample", [False, True])
def test_draws_are_two_independent_boxes(per_sample):
    mixer, draws = SnapMix(Given(MAPS), alpha=1.0, per_sample=per_sample), generator()
    pairs = [mixer.draw(4, 32, 48, draws)[1:] for _ in range(2000)]
    into, cut = (torch.cat([pair[i] for pair in pairs]).double() for i in (0, 1))
    assert len(into) == (8000 if per_sample else 2000)
    areas = [(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / (32 * 48) for box in (into, cut)]
    some = areas[0] > 0
    assert torch.equal(some, areas[1] > 0)  # both or none
    assert abs(torch.corrcoef(torch.stack([areas[0][some], areas[1][some]]))[0, 1]) < 0.1
    for box in (into, cut):
        assert (box >= 0).all()
        assert (box <= torch.tensor([32, 48, 32, 48])).all()


def test_sums_stay_between_zero_and_two():
    maps, images = torch.rand(6, 16, 16, generator=generator()), torch.randn(6, 3, 16, 16, generator=generator())
    draws, sums = generator(), []
    for per_sample in (False, True):
        mixer = SnapMix(Given(maps), alpha=1.0, per_sample=per_sample)
        sums += [mixer(images, torch.eye(6), draws, Context())[1].sum(dim=1) for _ in range(50)]
    sums = torch.cat(sums)
    assert sums.min() >= 0
    assert sums.max() <= 2
    assert ((sums - 1).abs() > 0.05).float().mean() > 0.5  # rows do not sum to 1


def test_p_is_the_share_that_is_mixed_and_nothing_is_computed_for_the_rest():
    saliency, draws = Given(MAPS), generator()
    mixer, images = (
        SnapMix(saliency, p=0.3, pairing="roll"),
        torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8),
    )
    mixed = sum(not torch.equal(mixer(images, torch.eye(2), draws, Context())[0], images) for _ in range(1000))
    assert saliency.asked == mixed
    assert abs(mixed - 300) <= 5 * (1000 * 0.3 * 0.7) ** 0.5
