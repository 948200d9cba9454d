from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from genaug.losses import SoftBCE, SoftCrossEntropy

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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_mixed_labels_is_the_mix_of_torchs(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, generator=generator)
    a, b = torch.randint(5, (2, 8), generator=generator)
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
