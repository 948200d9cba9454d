from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from genaug.metrics.saliency_maps import DEGENERATE, MapEnergy, degenerate, energy_inside

NAN, INF = float("nan"), float("inf")


def maps(*rows: list[float]) -> Tensor:
    """Maps of two by two pixels."""
    return torch.tensor(rows).view(-1, 2, 2)


def masks(*rows: str) -> Tensor:
    """Masks of two by two pixels; x is object."""
    return torch.tensor([[letter == "x" for letter in row] for row in rows]).view(-1, 2, 2)


# --- maps that say nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0.0, 1.0, 0.0, 0.0], None),
        ([5.0, 5.0, 5.0, 5.0 + 1e-6], None),
        ([-1.0, -2.0, -1.0, -1.0], None),
        ([0.0, 0.0, 0.0, 0.0], "all zero"),
        ([0.0, -0.0, 0.0, -0.0], "all zero"),
        ([3.0, 3.0, 3.0, 3.0], "constant"),
        ([-1e-30, -1e-30, -1e-30, -1e-30], "constant"),
        ([NAN, 1.0, 2.0, 3.0], "not finite"),
        ([0.0, 0.0, 0.0, NAN], "not finite"),
        ([NAN, NAN, NAN, NAN], "not finite"),
        ([INF, INF, INF, INF], "not finite"),
        ([0.0, 1.0, 2.0, -INF], "not finite"),
    ],
)
def test_what_says_nothing(values, reason):
    expected = -1 if reason is None else DEGENERATE.index(reason)
    assert degenerate(maps(values)).tolist() == [expected]


def test_each_map_of_a_batch_by_itself():
    batch = maps([1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 3.0], [NAN] * 4, [0.0] * 4, [1.0, 2.0, 3.0, 4.0])
    assert degenerate(batch).tolist() == [2, -1, 0, 1, -1]
    assert degenerate(batch[:0]).tolist() == []


# --- energy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "mask", "expected"),
    [
        ([3.0, 1.0, 0.0, 0.0], "x...", 0.75),
        ([3.0, 1.0, -8.0, 0.0], "x.x.", 0.75),  # what speaks against the class is nothing
        ([3.0, 1.0, 0.0, -5.0], ".x.x", 0.25),
        ([-1.0, 2.0, 2.0, 4.0], "xxx.", 0.5),
        ([1.0, 1.0, 1.0, 1.0], "x.x.", 0.5),
        ([0.0, 0.0, 0.0, 2.0], "xxx.", 0.0),
        ([0.5, 0.25, 0.0, 2.0], "xxxx", 1.0),
    ],
)
def test_energy_by_hand(values, mask, expected):
    assert energy_inside(maps(values), masks(mask)).tolist() == [expected]


@pytest.mark.parametrize(
    ("values", "mask"),
    [
        ([0.0, 0.0, 0.0, 0.0], "xx.."),
        ([-1.0, -2.0, 0.0, -3.0], "xx.."),
        ([1.0, 2.0, 3.0, 4.0], "...."),  # no object
        ([1.0, NAN, 3.0, 4.0], "x..."),
        ([0.0, 0.0, 0.0, 0.0], "...."),
    ],
)
def test_where_there_is_no_energy(values, mask):
    assert math.isnan(energy_inside(maps(values), masks(mask)).item())


def test_energy_of_each_image_of_a_batch():
    batch = maps([1.0, 3.0, 0.0, 0.0], [1.0, 3.0, 0.0, 0.0], [0.0] * 4)
    assert energy_inside(batch, masks("x...", ".x..", "x..."))[:2].tolist() == [0.25, 0.75]


def test_large_maps_lose_no_precision():
    # In single precision 2^24 + 1 is 2^24.
    saliency = torch.ones(1, 1, 2**12 + 1)
    saliency[..., 0] = 2.0**24
    mask = torch.ones(1, 1, 2**12 + 1, dtype=torch.bool)
    mask[..., 0] = False
    assert energy_inside(saliency, mask).item() == pytest.approx(2**12 / (2**24 + 2**12), rel=1e-6)


# --- the metric ----------------------------------------------------------------------------------------------------


def test_means_by_hand():
    metric = MapEnergy()
    metric.update(maps([3.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]), masks("x...", "xxx."))
    metric.update(maps([0.0, 0.0, 0.0, 1.0]), masks("xx.."))
    found = metric.compute()
    assert found == {"mean": 0.5, "coverage": 0.5, "n": 3, "index": [0, 1, 2], "per_image": [0.75, 0.75, 0.0]}
    json.dumps(found, allow_nan=False)


def test_images_without_energy_are_in_no_mean():
    metric = MapEnergy()
    metric.update(maps([3.0, 1.0, 0.0, 0.0], [0.0] * 4, [1.0] * 4), masks("x...", "xxx.", "...."))
    found = metric.compute()
    assert (found["mean"], found["coverage"], found["n"], found["index"]) == (0.75, 0.25, 1, [0, 1, 2])
    assert found["per_image"][0] == 0.75
    assert all(map(math.isnan, found["per_image"][1:]))


def test_a_map_that_says_nothing_about_place_has_the_coverage():
    generator = torch.Generator().manual_seed(0)
    inside = torch.rand(20, 32, 32, generator=generator) < 0.3
    metric = MapEnergy()
    metric.update(torch.rand(20, 32, 32, generator=generator), inside)
    found = metric.compute()
    assert found["coverage"] == pytest.approx(inside.float().mean().item(), abs=1e-6)
    assert found["mean"] == pytest.approx(found["coverage"], abs=0.01)


def test_results_stand_in_the_order_of_the_index():
    metric = MapEnergy()
    metric.update(maps([3.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]), masks("x...", "x..."), index=[8, 1])
    metric.update(maps([1.0, 3.0, 0.0, 0.0]), masks("x..."), index=torch.tensor([4]))
    assert metric.compute()["index"] == [1, 4, 8]
    assert metric.compute()["per_image"] == [0.5, 0.25, 0.75]


def test_batches_do_not_matter_and_reset_forgets():
    generator = torch.Generator().manual_seed(0)
    saliency, inside = torch.rand(7, 4, 4, generator=generator), torch.rand(7, 4, 4, generator=generator) < 0.5
    whole, split = MapEnergy(), MapEnergy()
    whole.update(saliency, inside)
    for rows in torch.arange(7).split([2, 4, 1]):
        split.update(saliency[rows], inside[rows])
    split.update(saliency[:0], inside[:0])  # none
    assert split.compute() == whole.compute()
    split.reset()
    split.update(saliency[:1], inside[:1])
    assert (split.compute()["n"], split.compute()["index"]) == (1, [0])
    assert split.compute()["per_image"] == whole.compute()["per_image"][:1]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen():
    assert MapEnergy().compute() == {"mean": None, "coverage": None, "n": 0, "index": [], "per_image": []}


def test_a_metric_made_in_inference_mode_can_be_used_outside():
    with torch.inference_mode():
        metric = MapEnergy()
    metric.update(maps([3.0, 1.0, 0.0, 0.0]), masks("x..."))
    assert metric.compute()["mean"] == 0.75
