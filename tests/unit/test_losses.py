from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from genaug.losses import SoftBCE, SoftCrossEntropy, inverse_frequency

LOGITS = torch.tensor([[0.0, math.log(3.0)]])  # softmax 1/4, 3/4; sigmoid 1/2, 3/4


def test_cross_entropy_by_hand():
    loss = SoftCrossEntropy()(LOGITS, torch.tensor([[0.25, 0.75]]))
    assert loss.item() == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))


def test_cross_entropy_is_averaged_over_the_batch():
    loss = SoftCrossEntropy()(LOGITS.repeat(2, 1), torch.eye(2))
    assert loss.item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)


def test_label_smoothing_by_hand():
    # 0.2 spread over both classes: [0.1, 0.9].
    loss = SoftCrossEntropy(label_smoothing=0.2)(LOGITS, torch.tensor([[0.0, 1.0]]))
    assert loss.item() == pytest.approx(0.1 * math.log(4) + 0.9 * math.log(4 / 3))


def test_smoothing_spread_over_the_others_by_hand():
    # Diff-Mix's: 0.9 of the label, and 0.1 / (2 - 1) on every class, [0.1, 1.0].
    loss = SoftCrossEntropy(label_smoothing=0.1, spread="others")(LOGITS, torch.tensor([[0.0, 1.0]]))
    assert loss.item() == pytest.approx(0.1 * math.log(4) + 1.0 * math.log(4 / 3))
    # Of a mixed label among three classes [0.25, 0.75, 0]: 0.9 of it, and 0.05 more for each.
    loss = SoftCrossEntropy(0.1, "others")(torch.zeros(1, 3), torch.tensor([[0.25, 0.75, 0.0]]))
    assert loss.item() == pytest.approx((0.275 + 0.725 + 0.05) * math.log(3))


def some(classes: int = 5, images: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, and two labels an image."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(images, classes, generator=generator), *torch.randint(classes, (2, images), generator=generator)


WEIGHT = [0.5, 1.0, 0.25, 0.1, 0.7]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_cross_entropy_of_single_labels_is_torchs(smoothing):
    logits, labels, _ = some()
    expected = torch.nn.CrossEntropyLoss(weight=torch.tensor(WEIGHT), label_smoothing=smoothing)(logits, labels)
    came = SoftCrossEntropy(smoothing, weight=WEIGHT)(logits, F.one_hot(labels, 5).float())
    torch.testing.assert_close(came, expected)


def test_weighted_cross_entropy_of_a_mixed_label_by_hand():
    # Uniform probabilities: each class costs log(2). Two images: the first of both classes, the second of the last.
    targets = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    loss = SoftCrossEntropy(weight=[1.0, 0.2])(LOGITS.repeat(2, 1), targets)
    costs = (0.5 * 1.0 * math.log(4) + 0.5 * 0.2 * math.log(4 / 3)) + 0.2 * math.log(4 / 3)
    assert loss.item() == pytest.approx(costs / ((0.5 * 1.0 + 0.5 * 0.2) + 0.2))


@pytest.mark.parametrize("scale", [1.0, 0.9])
def test_equal_weights_change_nothing(scale):
    """Nor where labels do not sum to 1, as those that Diff-Mix gives to synthetic images."""
    logits, a, b = some()
    soft = scale * (0.3 * F.one_hot(a, 5) + 0.7 * F.one_hot(b, 5))
    for arguments in ({}, {"label_smoothing": 0.1, "spread": "others"}):
        equal = SoftCrossEntropy(**arguments, weight=[0.5] * 5)(logits, soft)
        torch.testing.assert_close(equal, SoftCrossEntropy(**arguments)(logits, soft))


def test_images_of_no_weight_at_all_cost_nothing():
    loss = SoftCrossEntropy(weight=[0.0, 1.0])(LOGITS, torch.tensor([[1.0, 0.0]]))
    assert loss.item() == 0
    assert SoftCrossEntropy(weight=[0.0, 1.0])(LOGITS, torch.zeros(1, 2)).item() == 0


def test_weights_move_with_the_loss_and_are_in_no_checkpoint():
    loss = SoftCrossEntropy(weight=WEIGHT)
    assert loss.to("meta").weight.device.type == "meta"
    assert not loss.state_dict()


def test_inverse_frequency_by_hand():
    # 1 / counts = 0.1, 0.2, 0.05; over 0.2. ALIA has no class without images: here it does not count.
    assert inverse_frequency([10, 5, 20, 0]) == pytest.approx([0.5, 1.0, 0.25, 0.0])
    assert inverse_frequency([7, 7]) == [1.0, 1.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_mixed_labels_is_the_mix_of_torchs(smoothing):
    logits, a, b = some()
    soft = 0.3 * F.one_hot(a, 5) + 0.7 * F.one_hot(b, 5)
    expected = sum(
        share * F.cross_entropy(logits, labels, label_smoothing=smoothing) for share, labels in ((0.3, a), (0.7, b))
    )
    torch.testing.assert_close(SoftCrossEntropy(smoothing)(logits, soft), expected)


def test_bce_by_hand():
    loss = SoftBCE()(LOGITS, torch.tensor([[1.0, 0.25]]))
    second = -0.25 * math.log(3 / 4) - 0.75 * math.log(1 / 4)
    assert loss.item() == pytest.approx((math.log(2) + second) / 2)


def test_bce_is_torchs():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(8, 5, generator=generator), torch.rand(8, 5, generator=generator)
    torch.testing.assert_close(SoftBCE()(logits, targets), torch.nn.BCEWithLogitsLoss()(logits, targets))


def test_bce_leaves_out_what_is_unknown():
    targets, nan = torch.tensor([[1.0, 0.0], [0.25, 1.0]]), float("nan")
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]], requires_grad=True)
    each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    loss = SoftBCE()(logits, torch.tensor([[1.0, nan], [0.25, 1.0]]))
    torch.testing.assert_close(loss, (each[0, 0] + each[1, 0] + each[1, 1]) / 3)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0, 1] == 0
    assert (gradient[[0, 1, 1], [0, 0, 1]] != 0).all()


def test_bce_of_nothing_known_teaches_nothing():
    logits = torch.tensor([[30.0, -30.0]], requires_grad=True)
    loss = SoftBCE()(logits, torch.full((1, 2), float("nan")))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.tolist() == [[0, 0]]


def test_bce_counts_what_is_more_than_certain_as_certain():
    for large in (10.0, 1000.0):
        loss = SoftBCE()(torch.tensor([[large]]), torch.tensor([[1.5]]))
        assert loss.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("loss", [SoftCrossEntropy(0.1), SoftBCE()])
def test_half_precision_logits_are_not_rounded_again(loss):
    logits = torch.tensor([[11.0, -11.0, 3.0]], dtype=torch.float16)
    targets = torch.tensor([[0.0, 1.0, 0.0]])
    came = loss(logits, targets)
    assert came.dtype == torch.float32
    assert came.item() == loss(logits.float(), targets).item()


@pytest.mark.parametrize("loss", [SoftCrossEntropy(), SoftBCE()])
def test_class_indices_are_refused(loss):
    with pytest.raises(ValueError, match=r"one shape, came \(2, 2\) and \(2,\).*one_hot"):
        loss(torch.zeros(2, 2), torch.tensor([0, 1]))


def test_wrong_smoothing_is_refused():
    with pytest.raises(ValueError, match=r"label_smoothing.*came 10"):
        SoftCrossEntropy(label_smoothing=10)
    with pytest.raises(ValueError, match=r"spread='some' is not known: choose one of all, others"):
        SoftCrossEntropy(spread="some")
    for weight in ([-0.1, 1.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match="weight: expected numbers of 0 or more"):
            SoftCrossEntropy(weight=weight)
