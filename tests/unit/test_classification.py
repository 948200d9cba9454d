from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from genaug.metrics import metric_for
from genaug.metrics.classification import ClassificationScores, count_answers, count_correct, macro_f1


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
    metric = ClassificationScores(3, num_groups=3)
    for part in (slice(0, 2), slice(2, 6)):
        metric.update(ANSWERS[part], LABELS[part], GROUPS[part], VALID[part])
    assert metric.compute() == {
        "score": 3 / 5,
        "metric": "accuracy",
        "n": 5,
        "accuracy": 3 / 5,
        "macro_f1": pytest.approx((4 / 5 + 2 / 3) / 2),
        "group_score": [0.5, 1.0, None],
        "group_n": [2, 1, 0],
        "worst_group": 0,
        "worst_group_score": 0.5,
    }
    json.dumps(metric.compute(), allow_nan=False)


def test_processes_add_up():
    whole, one, other = (ClassificationScores(3, num_groups=3) for _ in range(3))
    whole.update(ANSWERS, LABELS, GROUPS, VALID)
    one.update(ANSWERS[:4], LABELS[:4], GROUPS[:4], VALID[:4])
    other.update(ANSWERS[4:], LABELS[4:], GROUPS[4:], VALID[4:])
    one.merge_state(other)
    assert one.compute() == whole.compute()


def test_reset_forgets():
    metric = ClassificationScores(3, num_groups=3)
    metric.update(ANSWERS, LABELS, GROUPS, VALID)
    metric.reset()
    metric.update(logits(1), logits(1), torch.tensor([2]), torch.tensor([True]))
    assert (metric.compute()["score"], metric.compute()["n"]) == (1.0, 1)
    assert metric.compute()["worst_group"] == 2


def test_without_groups_there_is_only_the_overall_score():
    metric = ClassificationScores(3, num_groups=0)
    metric.update(ANSWERS, LABELS, torch.full((6,), -1), VALID)
    assert set(metric.compute()) == {"score", "metric", "n", "accuracy", "macro_f1"}


def test_macro_f1_against_an_independent_computation():
    from torchmetrics.functional.classification import multiclass_f1_score

    rng = torch.Generator().manual_seed(0)
    guesses, truth = torch.randn(200, 7, generator=rng), torch.randint(6, (200,), generator=rng)
    truth[truth == 3] = 2  # classes 3 and 6 do not occur
    counts = count_answers(guesses, F.one_hot(truth, 7), torch.ones(200, dtype=torch.bool))
    by_class = multiclass_f1_score(guesses, truth, num_classes=7, average="none")
    assert macro_f1(*counts) == pytest.approx(float(by_class[[0, 1, 2, 4, 5]].mean()), abs=1e-6)


def test_repeated_and_broken_answers_do_not_count():
    answers = torch.cat([logits(0, 1), torch.full((1, 3), torch.nan)])
    hits, answered, labels = count_answers(answers, logits(0, 1, 0), torch.tensor([True, False, True]))
    assert (hits.tolist(), answered.tolist(), labels.tolist()) == ([1, 0, 0], [1, 0, 0], [2, 0, 0])


def test_groups_weighted_by_their_share_in_training():
    metric = ClassificationScores(3, 2, group_shares=[0.9, 0.1], score="weighted_accuracy")
    metric.update(ANSWERS[:4], LABELS[:4], GROUPS[:4], VALID[:4])
    values = metric.compute()
    assert values["weighted_accuracy"] == values["score"] == pytest.approx(0.9 * 0.5 + 0.1 * 1.0)
    assert (values["metric"], values["accuracy"]) == ("weighted_accuracy", pytest.approx(2 / 3))


def test_a_group_without_images_leaves_the_others_their_weights():
    metric = ClassificationScores(3, 3, group_shares=[0.6, 0.2, 0.2], score="weighted_accuracy")
    metric.update(ANSWERS[:4], LABELS[:4], GROUPS[:4], VALID[:4])
    assert metric.compute()["score"] == pytest.approx((0.6 * 0.5 + 0.2 * 1.0) / 0.8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_groups": -1}, "0 or more"),
        ({"score": "top5"}, "choose one of accuracy"),
        ({"score": "weighted_accuracy"}, "share of each"),
        ({"num_groups": 2, "group_shares": [1.0]}, "2 groups"),
    ],
)
def test_what_cannot_be_computed_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ClassificationScores(3, **arguments)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen():
    values = ClassificationScores(3, num_groups=1).compute()
    assert math.isnan(values["score"])
    assert values["worst_group"] is None


def test_a_network_that_broke_down_is_never_right():
    answers = torch.full((2, 3), torch.nan)  # their argmax is class 0
    correct, total = count_correct(answers, logits(0, 0), torch.tensor([-1, -1]), torch.tensor([True, True]), 0)
    assert (correct.item(), total.item()) == (0, 2)


def test_the_dataset_chooses_the_metric():
    metric = metric_for(
        SimpleNamespace(
            multilabel=False, classes="abc", groups=("land", "water"), group_shares=[0.5, 0.5], score="macro_f1"
        )
    )
    assert isinstance(metric, ClassificationScores)
    assert (metric.num_groups, metric.score, metric.group_shares) == (2, "macro_f1", [0.5, 0.5])
