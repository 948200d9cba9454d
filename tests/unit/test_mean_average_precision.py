from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from genaug.metrics.mean_average_precision import MeanAveragePrecision


def score(logits, targets, valid=None, batches: int = 1):
    logits, targets = torch.as_tensor(logits).float(), torch.as_tensor(targets).float()
    valid = torch.ones(len(logits), dtype=torch.bool) if valid is None else torch.tensor(valid)
    metric = MeanAveragePrecision(logits.shape[1])
    for part in torch.arange(len(logits)).chunk(batches):
        metric.update(logits[part], targets[part], torch.full((len(part),), -1), valid[part])
    return metric.compute()


def brute_force(scores: np.ndarray, labels: np.ndarray) -> float:
    """Sum over thresholds of (recall - last recall) * precision, images of one score taken together."""
    total = last = 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        recall, precision = labels[chosen].sum() / labels.sum(), labels[chosen].mean()
        total, last = total + (recall - last) * precision, recall
    return float(total)


def test_by_hand():
    # Ranked 5, 4, 3, 2, 1. Class 0: hits at ranks 1, 3, 4: (1 + 2/3 + 3/4) / 3. Class 1, upside down: rank 2: 1/2.
    logits = [[5, 1], [4, 2], [3, 3], [2, 4], [1, 5]]
    targets = [[1, 0], [0, 0], [1, 0], [1, 1], [0, 0]]
    found = score(logits, targets)
    expected = [(1 + 2 / 3 + 3 / 4) / 3, 1 / 2]
    assert found["by_class"] == pytest.approx(expected)
    assert found["score"] == pytest.approx(sum(expected) / 2)
    assert found["n"] == 5


def one_class(logits: list[float], targets: list[int], **settings):
    """The average precision of one class beside another that is always right."""
    beside = [[score, label] for score, label in zip(logits, targets, strict=True)]
    found = score(beside, [[label, label] for label in targets], **settings)
    assert found["by_class"][1] == 1.0
    assert found["score"] == pytest.approx((found["by_class"][0] + 1) / 2)
    return found["by_class"][0]


def test_ties_are_taken_together():
    # Three images of one score, one of them positive: precision 1/3 at recall 1.
    assert one_class([1.0, 1.0, 1.0], [1, 0, 0]) == pytest.approx(1 / 3)


def test_answers_that_are_no_number_come_last():
    nan = float("nan")
    assert one_class([nan, nan, nan, nan], [1, 0, 0, 0]) == pytest.approx(1 / 4)
    assert one_class([nan, -99.0, -98.0], [1, 0, 0]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(0, 3, (60, 4)), 1)  # rounded, so that there are ties
    targets = rng.random((60, 4)) < (0.1, 0.3, 0.6, 0.9)
    expected = [brute_force(logits[:, k], targets[:, k]) for k in range(4)]
    found = score(logits, targets.astype(float), batches=7)
    assert found["by_class"] == pytest.approx(expected, abs=1e-5)
    assert found["score"] == pytest.approx(np.mean(expected), abs=1e-5)


@pytest.mark.parametrize("shift", [-40.0, 0.0, 16.0, 40.0])
def test_only_the_ranking_counts(shift):
    # Hits at ranks 2 and 3: (1/2 + 2/3) / 2. A sigmoid in single precision is 1 from 17 on.
    assert one_class([shift + 0.3, shift + 0.2, shift + 0.1, shift], [0, 1, 1, 0]) == pytest.approx(7 / 12)


def test_classes_without_a_positive_image_do_not_count():
    found = score([[2.0, 0.0], [1.0, 1.0]], [[1, 0], [0, 0]])
    assert found["by_class"] == [1.0, None]
    assert found["score"] == 1.0
    json.dumps(found, allow_nan=False)


def test_repeated_images_do_not_count():
    valid = [True, True, True, False]
    assert one_class([3.0, 2.0, 1.0, 9.0], [0, 1, 0, 1], valid=valid) == 0.5
    assert score([[3.0, 1.0]] * 4, [[1, 0]] * 4, valid=valid)["n"] == 3


def test_processes_and_resets():
    one, other = MeanAveragePrecision(2), MeanAveragePrecision(2)
    none, yes = torch.tensor([-1]), torch.tensor([True])
    one.update(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), none, yes)
    other.update(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), none, yes)
    one.merge_state(other)
    assert (one.compute()["score"], one.compute()["n"]) == (0.5, 2)
    one.reset()
    one.update(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), none, yes)
    assert (one.compute()["score"], one.compute()["n"]) == (1.0, 1)
