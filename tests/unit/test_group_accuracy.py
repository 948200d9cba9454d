from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from genaug.metrics import metric_for
from genaug.metrics.group_accuracy import GroupAccuracy, count_correct


def logits(*answers: int) -> torch.Tensor:
    return F.one_hot(torch.tensor(answers), 3).float()


# Six images: right, wrong, right (repeated, so not valid), right, wrong, right.
ANSWERS, LABELS = logits(0, 1, 2, 2, 1, 0), logits(0, 2, 2, 2, 0, 0)
GROUPS = torch.tensor([0, 0, 0, 1, -1, -1])
VALID = torch.tensor([True, True, False, True, True, True])


def test_counts_by_hand():
    correct, total = count_correct(ANSWERS, LABELS, GROUPS, VALID, num_groups=3)
    assert correct.tolist() == [1, 1, 0, 1]
    assert total.tolist() == [2, 1, 0, 2]


def test_metric_by_hand_over_two_batches():
    metric = GroupAccuracy(num_groups=3)
    for part in (slice(0, 2), slice(2, 6)):
        metric.update(ANSWERS[part], LABELS[part], GROUPS[part], VALID[part])
    assert metric.compute() == {
        "score": 3 / 5,
        "n": 5,
        "group_score": [0.5, 1.0, None],
        "group_n": [2, 1, 0],
        "worst_group": 0,
        "worst_group_score": 0.5,
    }
    json.dumps(metric.compute(), allow_nan=False)


def test_processes_add_up():
    whole, one, other = (GroupAccuracy(num_groups=3) for _ in range(3))
    whole.update(ANSWERS, LABELS, GROUPS, VALID)
    one.update(ANSWERS[:4], LABELS[:4], GROUPS[:4], VALID[:4])
    other.update(ANSWERS[4:], LABELS[4:], GROUPS[4:], VALID[4:])
    one.merge_state(other)
    assert one.compute() == whole.compute()


def test_reset_forgets():
    metric = GroupAccuracy(num_groups=3)
    metric.update(ANSWERS, LABELS, GROUPS, VALID)
    metric.reset()
    metric.update(logits(1), logits(1), torch.tensor([2]), torch.tensor([True]))
    assert (metric.compute()["score"], metric.compute()["n"]) == (1.0, 1)
    assert metric.compute()["worst_group"] == 2


def test_without_groups_there_is_only_the_overall_score():
    metric = GroupAccuracy(num_groups=0)
    metric.update(ANSWERS, LABELS, torch.full((6,), -1), VALID)
    assert metric.compute() == {"score": 3 / 5, "n": 5}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen():
    values = GroupAccuracy(num_groups=1).compute()
    assert math.isnan(values["score"])
    assert values["worst_group"] is None


def test_a_network_that_broke_down_is_never_right():
    answers = torch.full((2, 3), torch.nan)  # their argmax is class 0
    correct, total = count_correct(answers, logits(0, 0), torch.tensor([-1, -1]), torch.tensor([True, True]), 0)
    assert (correct.item(), total.item()) == (0, 2)


def test_the_dataset_chooses_the_metric():
    metric = metric_for(SimpleNamespace(multilabel=False, groups=("land", "water"), name="x"))
    assert isinstance(metric, GroupAccuracy)
    assert metric.num_groups == 2
