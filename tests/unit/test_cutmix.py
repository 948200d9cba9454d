from __future__ import annotations

import pytest
import torch

from genaug.mixing.base import Context
from genaug.mixing.cutmix import CutMix, boxes_around, cutmix, share_outside


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def constant_images(size: int, height: int, width: int) -> torch.Tensor:
    return torch.arange(float(size)).view(size, 1, 1, 1).expand(size, 2, height, width)


def test_boxes_by_hand():
    # lam .75: sides are half the image's, 4 x 6 pixels of 8 x 12.
    centres = torch.tensor([[4, 6], [0, 0], [7, 11], [1, 2]])
    boxes = boxes_around(centres, torch.full((4,), 0.75), 8, 12)
    assert boxes.tolist() == [[2, 3, 6, 9], [0, 0, 2, 3], [5, 8, 8, 12], [0, 0, 3, 5]]
    expected = [1 - 24 / 96, 1 - 6 / 96, 1 - 12 / 96, 1 - 15 / 96]
    assert share_outside(boxes, 8, 12).tolist() == pytest.approx(expected)


def test_the_extremes_of_lam():
    centres = torch.tensor([[4, 4], [4, 4]])
    boxes = boxes_around(centres, torch.tensor([1.0, 0.0]), 8, 8)
    assert share_outside(boxes, 8, 8).tolist() == [1.0, 0.0]


def test_an_odd_side_is_not_cut_short():
    # sqrt(1 - 0.64) = .6 of 5 pixels is 3: rows and columns 1, 2, 3.
    assert boxes_around(torch.tensor([[2, 2]]), torch.tensor([0.64]), 5, 5).tolist() == [[1, 1, 4, 4]]


def test_one_box_by_hand():
    images = constant_images(2, 4, 4)
    mixed, targets = cutmix(
        images, torch.eye(2), torch.tensor([1, 0]), torch.tensor([[1, 0, 3, 2]]), torch.tensor([0.75])
    )
    pasted = [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert mixed[0, 0].tolist() == pasted
    assert mixed[0, 1].tolist() == pasted
    assert torch.equal(mixed[1], 1 - mixed[0])
    assert targets.tolist() == [[0.75, 0.25], [0.25, 0.75]]


def test_a_box_for_each_sample_is_the_same_as_one_at_a_time():
    images = torch.rand(5, 3, 9, 7, generator=generator())
    pairing = torch.tensor([3, 1, 0, 4, 2])
    boxes = torch.tensor([[0, 0, 9, 7], [2, 1, 5, 6], [4, 4, 4, 4], [8, 6, 9, 7], [0, 3, 9, 4]])
    mixed, _ = cutmix(images, torch.eye(5), pairing, boxes, torch.ones(5))
    for i, (y1, x1, y2, x2) in enumerate(boxes.tolist()):
        expected = images[i].clone()
        expected[:, y1:y2, x1:x2] = images[pairing[i], :, y1:y2, x1:x2]
        assert torch.equal(mixed[i], expected)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("pairing", ["permutation", "roll", "flip"])
def test_pixels_say_what_labels_say(pairing, per_sample):
    images, targets = constant_images(7, 15, 11), torch.eye(7)
    mixer, draws = CutMix(pairing=pairing, per_sample=per_sample), generator()
    boxes = set()
    for _ in range(20):
        mixed, labels = mixer(images, targets, draws, Context())
        assert ((labels > 0).sum(dim=1) <= 2).all()
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(7))
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), labels @ torch.arange(7.0))
        for own, image in enumerate(mixed):
            assert set(image.unique().tolist()) == set(labels[own].nonzero().flatten().tolist())
        boxes.add(len({(image[0] != own).sum().item() for own, image in enumerate(mixed)} - {0}))
    assert max(boxes) > 2 if per_sample else max(boxes) == 1


def test_without_correction_the_label_is_the_lam_that_was_drawn():
    images, targets = constant_images(4, 16, 16), torch.eye(4)
    corrected, drawn = (
        CutMix(pairing="roll", per_sample=True, correct_lam=correct)(images, targets, generator(), Context())
        for correct in (True, False)
    )
    lam = CutMix(pairing="roll", per_sample=True).draw(4, 16, 16, generator())[1]
    assert torch.equal(corrected[0], drawn[0])
    torch.testing.assert_close(drawn[1].diagonal(), lam.float())
    assert not torch.allclose(drawn[1], corrected[1], atol=1e-3)


@pytest.mark.parametrize("per_sample", [False, True])
def test_p_is_the_share_that_is_mixed(per_sample):
    # An image of 64 x 64: a box of no pixel has probability 1/128^2, below what the bounds can see.
    images, targets = constant_images(2, 64, 64), torch.eye(2)
    mixer, draws = CutMix(p=0.3, pairing="roll", per_sample=per_sample), generator()
    mixed = sum((mixer(images, targets, draws, Context())[1].diagonal() < 1).float().mean().item() for _ in range(1000))
    assert abs(mixed - 300) <= 5 * (1000 * 0.3 * 0.7) ** 0.5


def test_draws_have_the_distributions_of_the_paper():
    _, lam, centres = CutMix(per_sample=True).draw(20_000, 10, 40, generator())
    assert abs(lam.mean() - 0.5) < 5 * (1 / 12 / 20_000) ** 0.5
    assert abs(lam.var() * 12 - 1) < 0.05
    rows, columns = centres[:, 0].bincount(), centres[:, 1].bincount()
    assert (len(rows), len(columns)) == (10, 40)
    assert (abs(rows - 2000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5).all()
    assert (abs(columns - 500) < 5 * (20_000 * 0.025 * 0.975) ** 0.5).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("per_sample", [False, True])
def test_types_are_kept(dtype, per_sample):
    images, targets = torch.rand(3, 3, 8, 8, dtype=dtype), torch.eye(3)
    mixed, labels = CutMix(per_sample=per_sample)(images, targets, generator(), Context())
    assert (mixed.dtype, labels.dtype) == (dtype, torch.float32)
    reference = CutMix(per_sample=per_sample)(images.double(), targets, generator(), Context())[0]
    assert torch.equal(mixed.double(), reference)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"alpha.*came -1"):
        CutMix(alpha=-1)
    with pytest.raises(ValueError, match=r"probability.*came 2"):
        CutMix(p=2)
    with pytest.raises(ValueError, match=r"pairing.*came 'random'"):
        CutMix(pairing="random")
