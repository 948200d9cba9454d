from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate, gaussian_filter
from torch import Tensor

from genaug.metrics.insertion_deletion import (
    COARSE,
    InsertionDeletion,
    blur,
    causal_curve,
    rank_pixels,
    ranks_of,
    substrate,
)


def of(values: Tensor) -> Tensor:
    """Probabilities of two classes, of which the first has these."""
    return torch.stack([values, 1 - values], dim=1)


def mean(images: Tensor) -> Tensor:
    return of(images.mean(dim=(1, 2, 3)))


def reading(height: int, width: int) -> Tensor:
    """Ranks of pixels that come in the order in which one reads."""
    return torch.arange(height * width).view(height, width)


def random_image(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


# --- the order of pixels -------------------------------------------------------------------------------------------


def test_equal_pixels_come_from_the_top_left():
    assert rank_pixels(torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, -0.0]])).tolist() == [[2, 3, 0], [4, 1, 5]]


def test_constant_regions_come_in_reading_order():
    saliency = torch.zeros(40, 50)
    saliency[10:20, 5:45] = 3.0
    saliency[30, 7] = 5.0
    saliency[0] = -1.0
    ranks = rank_pixels(saliency)
    assert ranks[30, 7] == 0
    assert ranks[10:20, 5:45].flatten().tolist() == list(range(1, 401))
    zeros = ranks[saliency == 0].tolist()  # taken row by row
    assert zeros == list(range(401, 401 + len(zeros)))
    assert ranks[0].tolist() == list(range(1950, 2000))


def test_ranks_turn_an_order_round():
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    ranks = ranks_of(order)
    assert [int(ranks[pixel]) for pixel in order] == list(range(60))
    saliency = torch.rand(6, 10, generator=torch.Generator().manual_seed(1))
    assert torch.equal(rank_pixels(saliency).flatten(), ranks_of(saliency.flatten().argsort(descending=True)))


# --- what insertion starts from ------------------------------------------------------------------------------------


def mirrored(size: int = 11, sigma: float = 5.0) -> np.ndarray:
    """A filtered delta in one dimension by hand: what leaves the array comes back from its mirrored edges."""
    offsets = np.arange(-4 * int(sigma), 4 * int(sigma) + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel = np.zeros(size)
    for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
        place = (size // 2 + offset) % (2 * size)  # d c b a | a b c d | d c b a
        kernel[min(place, 2 * size - 1 - place)] += weight
    return kernel


def naive(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Zero outside; pixel by pixel."""
    (height, width), reach = image.shape, len(kernel) // 2
    found = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for v in range(max(0, y - reach), min(height, y + reach + 1)):
                for u in range(max(0, x - reach), min(width, x + reach + 1)):
                    found[y, x] += image[v, u] * kernel[v - y + reach, u - x + reach]
    return found


def test_the_kernel_by_hand():
    delta = torch.zeros(1, 1, 21, 21, dtype=torch.double)
    delta[..., 10, 10] = 1
    kernel = blur(delta)[0, 0].numpy()
    assert kernel[5:16, 5:16] == pytest.approx(np.outer(mirrored(), mirrored()), abs=1e-12)
    assert kernel.sum() == pytest.approx(1)
    assert kernel[10, 10] / kernel[5, 5] == pytest.approx(1.14, abs=0.01)  # nearly a box
    kernel[5:16, 5:16] = 0
    assert not kernel.any()


@pytest.mark.parametrize(("height", "width"), [(13, 17), (6, 4), (11, 12)])
def test_blur_is_a_convolution_channel_by_channel(height, width):
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    kernel = gaussian_filter(delta, 5)
    images = random_image(2, 3, height, width)
    found = blur(images)
    for image, blurred in zip(images.flatten(0, 1).numpy(), found.flatten(0, 1).numpy(), strict=True):
        assert blurred == pytest.approx(correlate(image.astype(float), kernel, mode="constant"), abs=1e-6)
    assert found[1, 2].numpy() == pytest.approx(naive(images[1, 2].numpy(), kernel), abs=1e-6)


def test_substrates():
    images = random_image(1, 3, 12, 12)
    assert torch.equal(substrate(images, "insertion"), blur(images))
    assert torch.equal(substrate(images, "deletion"), torch.zeros(1, 3, 12, 12))


# --- curves by hand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "scores"),
    [
        (4, [1, 11 / 15, 7 / 15, 3 / 15, 0]),  # the last step has three pixels
        (5, [1, 10 / 15, 5 / 15, 0]),
        (None, [1, 10 / 15, 5 / 15, 0]),  # a row
        (7, [1, 8 / 15, 1 / 15, 0]),
        (1, [one / 15 for one in range(15, -1, -1)]),
        (100, [1, 0]),
    ],
)
def test_deletion_of_brightness(step, scores):
    curve = causal_curve(mean, torch.ones(2, 3, 5), reading(3, 5), 0, "deletion", step=step)
    assert curve.scores == pytest.approx(scores)
    assert curve.area == pytest.approx((sum(scores) - 0.5) / (len(scores) - 1))
    assert (curve.measured, curve.bound) == (len(scores), 0.0)


def test_the_class_is_the_one_asked_for():
    curve = causal_curve(mean, torch.ones(1, 4, 4), reading(4, 4), 1, "deletion")
    assert curve.scores == pytest.approx([0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize(("rank", "gone"), [(0, 1), (3, 1), (4, 2), (7, 2), (15, 4)])
def test_deletion_of_one_pixel(rank, gone):
    image = torch.full((3, 4, 4), 0.8)
    # The pixel's rank in an order that is no reading order.
    ranks = (reading(4, 4).flipud() + 2) % 16
    y, x = (ranks == rank).nonzero()[0].tolist()
    curve = causal_curve(lambda images: of(images[:, 1, y, x]), image, ranks, 0, "deletion")
    assert curve.scores == pytest.approx([0.8] * gone + [0.0] * (5 - gone))
    assert curve.area == pytest.approx(0.8 * (gone - 0.5) / 4)


@pytest.mark.parametrize(("rank", "there"), [(0, 1), (6, 2), (15, 4)])
def test_insertion_of_one_pixel(rank, there):
    ranks = (reading(4, 4) * 7) % 16
    y, x = (ranks == rank).nonzero()[0].tolist()
    image = torch.zeros(1, 4, 4)
    image[0, y, x] = 1.0
    centre = mirrored()[5] ** 2
    curve = causal_curve(lambda images: of(images[:, 0, y, x]), image, ranks, 0, "insertion")
    assert curve.scores == pytest.approx([centre] * there + [1.0] * (5 - there))
    assert curve.area == pytest.approx(1 - (1 - centre) * (there - 0.5) / 4)


def test_only_what_came_or_went_is_changed():
    seen: list[Tensor] = []

    def spy(images: Tensor) -> Tensor:
        seen.extend(images)
        return mean(images)

    image, ranks = random_image(3, 4, 6), rank_pixels(random_image(4, 6))
    for mode, before, after in (("insertion", blur(image[None])[0], image), ("deletion", image, torch.zeros(3, 4, 6))):
        seen.clear()
        causal_curve(spy, image, ranks, 0, mode)
        assert len(seen) == 5
        for number, picture in enumerate(seen):
            for y in range(4):
                for x in range(6):
                    expected = after if ranks[y, x] < 6 * number else before
                    assert torch.equal(picture[:, y, x], expected[:, y, x])


def test_the_area_weighs_the_ends_by_half():
    # Scores 1, 1, 0 of two steps: (1/2 + 1 + 0) / 2.
    predict = lambda images: of(images[:, 0, 1, 1])  # noqa: E731
    assert causal_curve(predict, torch.ones(1, 2, 2), reading(2, 2), 0, "deletion").area == 0.75


@pytest.mark.parametrize("mode", ["insertion", "deletion"])
def test_the_size_of_batches_changes_nothing(mode):
    image, ranks, found = random_image(3, 10, 9), rank_pixels(random_image(10, 9)), []
    for batch_size in (1, 4, 100):
        sizes: list[int] = []
        predict = lambda images, sizes=sizes: sizes.append(len(images)) or mean(images)  # noqa: E731
        found.append(causal_curve(predict, image, ranks, 0, mode, batch_size=batch_size).scores)
        assert sizes == {1: [1] * 11, 4: [4, 4, 3], 100: [11]}[batch_size]
    assert found[0] == pytest.approx(found[1], abs=1e-7)
    assert found[0] == pytest.approx(found[2], abs=1e-7)


# --- curves of few measured scores ---------------------------------------------------------------------------------

STEPS = 224


def follow(scores: np.ndarray, tolerance: float | None, batch_size: int = 8):
    """The curve of a network that gives these scores step by step, on an image of one pixel a step."""
    asked: list[int] = []

    def predict(images: Tensor) -> Tensor:
        assert len(images), "no image, and so no end"
        gone = (images == 0).sum(dim=(1, 2, 3))
        asked.extend(gone.tolist())
        return of(torch.from_numpy(scores)[gone])

    steps = len(scores) - 1
    found = causal_curve(
        predict, torch.ones(1, 1, steps), reading(1, steps), 0, "deletion", 1, tolerance, batch_size=batch_size
    )
    assert len(asked) == len(set(asked)) == found.measured
    assert found.scores[asked] == pytest.approx(scores[asked], nan_ok=True)
    return found


@pytest.mark.parametrize("tolerance", [0.5, 0.02, 0.01, 0.001])
def test_a_straight_line_is_exact(tolerance):
    # 28 intervals of 8 steps, each 1/28 high: bound 28 * 8 * (1/28) / (2 * 224) = 1/56.
    curve = follow(np.linspace(1, 0, STEPS + 1), tolerance)
    assert curve.area == pytest.approx(0.5)
    assert curve.scores == pytest.approx(np.linspace(1, 0, STEPS + 1))
    assert curve.bound <= tolerance
    if tolerance > 1 / 56:
        assert (curve.measured, curve.bound) == (COARSE + 1, pytest.approx(1 / 56))


def monotone(seed: int) -> np.ndarray:
    """Smooth, by jumps, or both; up or down."""
    rng = np.random.default_rng(seed)
    rises = rng.random(STEPS) ** rng.choice([1, 8, 60])
    scores = np.concatenate([[0.0], rises.cumsum()]) / rises.sum()
    return rng.random() * (scores if rng.random() < 0.5 else 1 - scores)


@pytest.mark.parametrize("tolerance", [0.03, 0.01, 0.001])
def test_monotone_curves_lie_within_the_bound(tolerance):
    for seed in range(60):
        scores = monotone(seed)
        curve = follow(scores, tolerance)
        assert abs(curve.area - np.trapezoid(scores) / STEPS) <= curve.bound + 1e-12
        assert curve.bound <= tolerance
        if tolerance >= 0.01:
            assert curve.measured < STEPS / 2


def test_the_bound_is_no_more_than_it_must_be():
    # All of the rise in the first step of an interval of 8: the line through its ends loses 7/2 of 224 steps.
    scores = np.concatenate([[0.0], np.ones(STEPS)])
    curve = follow(scores, tolerance=0.5)
    assert curve.bound == pytest.approx(8 / (2 * STEPS))
    assert np.trapezoid(scores) / STEPS - curve.area == pytest.approx(7 / (2 * STEPS))


def test_one_jump_is_found_by_halving():
    scores = np.where(np.arange(STEPS + 1) < 101, 1.0, 0.0)
    curve = follow(scores, tolerance=0.0)
    assert curve.measured == COARSE + 1 + 3  # an interval of 8 steps, halved three times
    assert curve.scores == pytest.approx(scores)
    assert (curve.area, curve.bound) == (pytest.approx(100.5 / STEPS), 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_without_tolerance_all_that_is_not_flat_is_measured(seed):
    scores = monotone(seed)
    curve = follow(scores, tolerance=0.0)
    assert curve.scores == pytest.approx(scores, abs=1e-12)
    assert curve.bound == 0.0


@pytest.mark.parametrize("steps", [1, 2, 9, 28])
def test_of_few_steps_all_are_measured(steps):
    scores = np.random.default_rng(steps).random(steps + 1)
    curve = follow(scores, tolerance=0.01)
    assert curve.scores == pytest.approx(scores)
    assert (curve.measured, curve.bound) == (steps + 1, 0.0)


@pytest.mark.parametrize("steps", [29, 30, 50, 57, 223])
def test_steps_that_do_not_share_out_evenly(steps):
    scores = np.sort(np.random.default_rng(steps).random(steps + 1))
    for tolerance in (0.02, 0.0):
        curve = follow(scores, tolerance)
        assert abs(curve.area - np.trapezoid(scores) / steps) <= curve.bound + 1e-12
        assert curve.bound <= tolerance


def test_what_is_measured_does_not_depend_on_the_size_of_batches():
    # On another device images go in other batches: the numbers are to be the same.
    for seed in range(20):
        found = [follow(monotone(seed), 0.003, batch_size=size) for size in (1, 3, 8, 64)]
        assert len({one.measured for one in found}) == 1
        assert len({one.area for one in found}) == 1


@pytest.mark.parametrize("tolerance", [None, 0.01])
def test_a_network_that_broke_down_has_no_area(tolerance):
    scores = np.linspace(1, 0, STEPS + 1)
    scores[100:110] = np.nan
    assert math.isnan(follow(scores, tolerance).area)


# --- the metric ----------------------------------------------------------------------------------------------------

FALLING = torch.tensor([[4.0, 3.0], [2.0, 1.0]])


def add(metric: InsertionDeletion, *brightness: float, maps: Tensor | None = None, predict=mean, **given) -> None:
    """Images of 2 by 2 pixels of one brightness: deleted, it falls to a half and to nothing: area = brightness / 2."""
    images = torch.tensor(brightness).view(-1, 1, 1, 1).repeat(1, 1, 2, 2)
    maps = FALLING.repeat(len(brightness), 1, 1) if maps is None else maps
    metric.update(predict, images, maps, classes=[0] * len(brightness), **given)


def test_deletion_by_hand():
    metric = InsertionDeletion("deletion")
    add(metric, 0.2, 0.8)
    add(metric, 0.5)
    assert metric.compute() == {
        "mean": pytest.approx(0.25),
        "n": 3,
        "bound": 0.0,
        "measured": 3.0,
        "index": [0, 1, 2],
        "per_image": pytest.approx([0.1, 0.4, 0.25]),
        "degenerate": {"not finite": 0, "all zero": 0, "constant": 0},
    }
    json.dumps(metric.compute(), allow_nan=False)


def test_insertion_by_hand():
    # Of four equal pixels a blurred one keeps the share of the kernel that reaches them: two by two places.
    share = (mirrored()[5] + mirrored()[6]) ** 2
    metric = InsertionDeletion("insertion")
    add(metric, 0.2, 0.8)
    assert metric.compute()["per_image"] == pytest.approx([0.2 * (1 + share) / 2, 0.8 * (1 + share) / 2], rel=1e-5)


def test_the_map_decides_the_order_and_the_class_the_score():
    metric = InsertionDeletion("deletion")
    image = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).repeat(3, 1, 1, 1)
    maps = torch.stack([FALLING, -FALLING, FALLING])
    metric.update(lambda images: of(images[:, 0, 0, 0]), image, maps, classes=torch.tensor([0, 0, 1]))
    # Gone at the first step: 1, 0, 0. At the second: 1, 1, 0. Of the other class: 0, 1, 1.
    assert metric.compute()["per_image"] == [0.25, 0.75, 0.75]


def test_degenerate_maps_are_counted_by_reason_and_never_asked_about():
    seen: list[Tensor] = []
    maps = FALLING.repeat(6, 1, 1)
    maps[0], maps[1], maps[3] = 0.0, -3.0, 0.0
    maps[4, 0, 1], maps[5, 1, 0] = torch.nan, -torch.inf
    metric = InsertionDeletion("deletion")
    add(metric, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, maps=maps, predict=lambda images: seen.append(images) or mean(images))
    found = metric.compute()
    assert torch.cat(seen).unique().tolist() == [0.0, 4.0]
    assert found["degenerate"] == {"not finite": 2, "all zero": 2, "constant": 1}
    assert (found["n"], found["index"], found["per_image"]) == (1, [2], [2.0])


def test_only_degenerate_maps():
    metric = InsertionDeletion("insertion")
    add(metric, 1.0, maps=torch.zeros(1, 2, 2), predict=None)
    found = metric.compute()
    assert [found[name] for name in ("mean", "n", "bound", "measured", "per_image")] == [None, 0, None, None, []]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen():
    found = InsertionDeletion("deletion").compute()
    assert [found[name] for name in ("mean", "n", "bound", "measured", "index")] == [None, 0, None, None, []]


def test_results_stand_in_the_order_of_the_index():
    metric = InsertionDeletion("deletion")
    add(metric, 0.2, 0.4, index=[9, 2])
    add(metric, 0.6, 0.8, index=torch.tensor([5, 0]))
    assert metric.compute()["index"] == [0, 2, 5, 9]
    assert metric.compute()["per_image"] == pytest.approx([0.4, 0.2, 0.3, 0.1])


@pytest.mark.parametrize("parts", [[1, 4], [3, 2], [1] * 5])
def test_batches_do_not_matter(parts):
    brightness, maps = torch.tensor([0.9, 0.1, 0.3, 0.5, 0.7]), FALLING.repeat(5, 1, 1)
    maps[0] = maps[3] = 0.0  # they say nothing, and still have their number
    whole, split = InsertionDeletion("deletion"), InsertionDeletion("deletion")
    add(whole, *brightness.tolist(), maps=maps)
    for rows in torch.arange(5).split(parts):
        add(split, *brightness[rows].tolist(), maps=maps[rows])
    assert split.compute() == whole.compute()
    assert whole.compute()["index"] == [1, 2, 4]


def test_bound_and_measured_of_few_scores():
    # One image of 40 steps falls on a straight line, the other not at all.
    images = torch.ones(2, 1, 40, 40)
    maps = -reading(40, 40).float().repeat(2, 1, 1)
    metric = InsertionDeletion("deletion", tolerance=0.05)
    metric.update(lambda part: of(part.mean(dim=(1, 2, 3))), images[:1], maps[:1], [0])
    metric.update(lambda part: of(torch.full((len(part),), 0.25)), images[1:], maps[1:], [0])
    found = metric.compute()
    # 29 places on 40 steps: 16 intervals of one step and 12 of two: 12 * 2 * (2 / 40) / (2 * 40) = 0.015.
    assert found["bound"] == pytest.approx(0.015)
    assert (found["measured"], found["per_image"]) == (29.0, pytest.approx([0.5, 0.25]))


def test_reset_forgets():
    metric = InsertionDeletion("deletion")
    add(metric, 0.2, 0.4, maps=torch.stack([FALLING, torch.zeros(2, 2)]))
    metric.reset()
    add(metric, 0.6)
    found = metric.compute()
    assert (found["n"], found["index"], sum(found["degenerate"].values())) == (1, [0], 0)
    assert found["mean"] == pytest.approx(0.3)


def test_a_network_that_broke_down_spoils_no_mean():
    def broken(images: Tensor) -> Tensor:
        assert len(images), "no image, and so no end"
        return torch.full((len(images), 2), torch.nan)

    metric = InsertionDeletion("deletion", tolerance=0.01)
    add(metric, 0.2)
    add(metric, 0.4, predict=broken)
    found = metric.compute()
    assert (found["n"], found["mean"], found["bound"]) == (1, pytest.approx(0.1), 0.0)
    assert found["index"] == [0, 1]
    assert math.isnan(found["per_image"][1])


def test_a_metric_made_in_inference_mode_can_be_used_outside():
    with torch.inference_mode():
        metric = InsertionDeletion("deletion")
    add(metric, 0.2, 0.4, maps=torch.stack([FALLING, torch.zeros(2, 2)]))
    assert (metric.compute()["n"], metric.compute()["degenerate"]["all zero"]) == (1, 1)


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="expected one of insertion, deletion, came 'delete'"):
        InsertionDeletion("delete")


@pytest.mark.parametrize("tolerance", [-0.01, float("nan")])
def test_a_tolerance_that_nothing_meets_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        InsertionDeletion("deletion", tolerance=tolerance)
