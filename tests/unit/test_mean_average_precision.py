from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multilabel_average_precision

from genaug.metrics.mean_average_precision import MeanAveragePrecision


def score(logits, targets, valid=None, batches: int = 1):
    logits, targets = torch.as_tensor(logits).float(), torch.as_tensor(targets).float()
    valid = torch.ones(len(logits), dtype=torch.bool) if valid is None else torch.tensor(valid)
    metric = MeanAveragePrecision(logits.shape[1])
    for part in torch.arange(len(logits)).chunk(batches):
        metric.update(logits[part], targets[part], torch.full((len(part),), -1), valid[part])
    return metric.compute()


def voc_kit(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """11-point and all-point average precision as VOC's kits compute them, image by image; 0 is difficult."""
    order = np.argsort(-scores, kind="stable")
    hits, misses = np.cumsum(labels[order] > 0), np.cumsum(labels[order] < 0)
    recall, precision = hits / (labels > 0).sum(), hits / np.maximum(hits + misses, 1e-9)
    eleven = sum(precision[np.round(recall, 9) >= round(tenth / 10, 9)].max(initial=0) for tenth in range(11)) / 11
    recall, precision = np.concatenate([[0], recall, [1]]), np.concatenate([[0], precision, [0]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(eleven), float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


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
    assert found["by_class"]["map"] == pytest.approx(expected)
    assert found["score"] == found["map"] == pytest.approx(sum(expected) / 2)
    assert (found["metric"], found["n"]) == ("map", 5)
    # Class 0: precision 1 at recall 1/3, 2/3 at 2/3, 3/4 at 1, so 3/4 is the best from recall 2/3 on.
    assert found["by_class"]["map_voc2010"] == pytest.approx([(1 + 3 / 4 + 3 / 4) / 3, 1 / 2])
    # The recalls 0 to 0.3 have 1, those from 0.4 on 3/4.
    assert found["by_class"]["map_voc2007"] == pytest.approx([(4 + 7 * 3 / 4) / 11, 1 / 2])
    assert found["map_voc2007"] == pytest.approx(((4 + 7 * 3 / 4) / 11 + 1 / 2) / 2)


def test_recalls_of_tenths_are_reached():
    # Ten positives: the third is found with precision 1, the rest far behind. 0.3 is reached, whatever 3/10 rounds to.
    logits = [[float(score)] for score in range(30, 0, -1)]
    targets = [[1]] * 3 + [[0]] * 20 + [[1]] * 7
    assert score(logits, targets)["map_voc2007"] == pytest.approx((4 + 7 * 10 / 30) / 11)


def test_an_image_is_left_out_of_the_class_that_is_unknown_in_it():
    nan = float("nan")
    # Class 0 without the second image: hits at ranks 1 and 3. Class 1 counts all.
    found = score([[4, 1], [3, 2], [2, 3], [1, 4]], [[1, 0], [nan, 0], [0, 0], [1, 1]])
    assert found["by_class"]["map"] == pytest.approx([(1 + 2 / 3) / 2, 1])
    assert found["by_class"]["map_voc2010"] == pytest.approx([(1 + 2 / 3) / 2, 1])
    assert found["by_class"]["map_voc2007"] == pytest.approx([(6 + 5 * 2 / 3) / 11, 1])
    # Unknown is not present: a class of which nothing else is known does not count.
    found = score([[1, 1], [2, 2]], [[nan, 1], [nan, 0]])
    assert found["by_class"]["map"] == [None, 0.5]
    assert found["n"] == 2


def test_without_a_positive_image_there_is_no_score():
    found = score([[1.0, 2.0]], [[0, float("nan")]])
    assert all(math.isnan(found[name]) for name in ("score", "map", "map_voc2007", "map_voc2010"))


def one_class(logits: list[float], targets: list[int], **settings):
    """The average precision of one class beside another that is always right."""
    beside = [[score, label] for score, label in zip(logits, targets, strict=True)]
    found = score(beside, [[label, label] for label in targets], **settings)
    assert found["by_class"]["map"][1] == 1.0
    assert found["score"] == pytest.approx((found["by_class"]["map"][0] + 1) / 2)
    return found["by_class"]["map"][0]


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
    assert found["by_class"]["map"] == pytest.approx(expected, abs=1e-5)
    assert found["score"] == pytest.approx(np.mean(expected), abs=1e-5)
    probabilities = torch.as_tensor(logits).sigmoid()
    there = multilabel_average_precision(probabilities, torch.as_tensor(targets).long(), 4, average="none")
    assert found["by_class"]["map"] == pytest.approx(there.tolist(), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_against_the_development_kits(seed):
    rng = np.random.default_rng(seed)
    logits = rng.permutation(200 * 3).reshape(200, 3) / 10  # no ties: a kit puts those in some order
    labels = rng.choice([-1, 0, 1], size=(200, 3), p=(0.7, 0.1, 0.2))
    expected = [voc_kit(logits[:, k], labels[:, k]) for k in range(3)]
    found = score(logits, np.select([labels == 1, labels == -1], [1.0, 0.0], np.nan), batches=3)
    both = zip(found["by_class"]["map_voc2007"], found["by_class"]["map_voc2010"], strict=True)
    assert list(both) == [pytest.approx(pair, abs=1e-5) for pair in expected]
    assert found["map"] <= found["map_voc2010"]


@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(0, 1, (80, 3)), 1)
    targets = (rng.random((80, 3)) < 0.3).astype(float)
    found = score(logits, targets)
    assert found["map"] == pytest.approx(metrics.average_precision_score(targets, logits), abs=1e-5)


@pytest.mark.parametrize("shift", [-40.0, 0.0, 16.0, 40.0])
def test_only_the_ranking_counts(shift):
    # Hits at ranks 2 and 3: (1/2 + 2/3) / 2. A sigmoid in single precision is 1 from 17 on.
    assert one_class([shift + 0.3, shift + 0.2, shift + 0.1, shift], [0, 1, 1, 0]) == pytest.approx(7 / 12)


def test_classes_without_a_positive_image_do_not_count():
    found = score([[2.0, 0.0], [1.0, 1.0]], [[1, 0], [0, 0]])
    assert found["by_class"]["map"] == [1.0, None]
    assert found["score"] == 1.0
    json.dumps(found, allow_nan=False)


def test_repeated_images_do_not_count():
    valid = [True, True, True, False]
    assert one_class([3.0, 2.0, 1.0, 9.0], [0, 1, 0, 1], valid=valid) == 0.5
    assert score([[3.0, 1.0]] * 4, [[1, 0]] * 4, valid=valid)["n"] == 3


def test_processes_and_resets():
    one, other = MeanAveragePrecision(2), MeanAveragePrecision(2)
    none, yes = torch.tensor([-1]), torch.tensor([True])
    one.update(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, float("nan")]]), none, yes)
    other.update(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), none, yes)
    one.merge_state(other)
    assert (one.compute()["score"], one.compute()["n"]) == (0.5, 2)
    one.reset()
    one.update(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), none, yes)
    assert (one.compute()["score"], one.compute()["n"]) == (1.0, 1)
