from __future__ import annotations

import pytest
import torch

from genaug.mixing.base import (
    Context,
    add_targets,
    combine_targets,
    draw_beta,
    draw_lam,
    draw_pairing,
    mix_targets,
)
from genaug.mixing.mixup import MixUp, mixup


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mixup_by_hand():
    images = torch.tensor([0.0, 4.0, 8.0]).view(3, 1, 1, 1).expand(3, 2, 2, 2)
    mixed, targets = mixup(images, torch.eye(3), torch.tensor([2, 0, 1]), torch.tensor([0.75]))
    expected = torch.tensor([2.0, 3.0, 7.0])  # .75*0+.25*8, .75*4+.25*0, .75*8+.25*4
    assert torch.equal(mixed, expected.view(3, 1, 1, 1).expand(3, 2, 2, 2))
    assert torch.equal(targets, torch.tensor([[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]]))


def test_mixup_by_hand_with_a_share_for_each_sample():
    images = torch.tensor([0.0, 4.0, 8.0]).view(3, 1, 1, 1)
    mixed, targets = mixup(images, torch.eye(3), torch.tensor([2, 0, 1]), torch.tensor([0.5, 1.0, 0.0]))
    assert mixed.flatten().tolist() == [4.0, 4.0, 4.0]
    assert targets.tolist() == [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]


def test_pairings_by_hand():
    assert draw_pairing("roll", 5, generator()).tolist() == [4, 0, 1, 2, 3]
    assert draw_pairing("flip", 5, generator()).tolist() == [4, 3, 2, 1, 0]
    permutation = draw_pairing("permutation", 50, generator())
    assert sorted(permutation.tolist()) == list(range(50))
    assert permutation.tolist() != list(range(50))
    assert draw_pairing("permutation", 50, generator(1)).tolist() != permutation.tolist()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_beta_has_the_mean_and_variance_of_its_formula(alpha):
    draws = draw_beta(alpha, 20_000, generator())
    variance = 1 / (4 * (2 * alpha + 1))  # of Beta(alpha, alpha): 1/12 for alpha 1
    assert abs(draws.mean() - 0.5) < 5 * (variance / 20_000) ** 0.5
    assert abs(draws.var() / variance - 1) < 0.05


def test_beta_of_a_small_alpha_is_a_coin():
    draws = draw_beta(1e-4, 1000, generator())
    assert torch.isfinite(draws).all()
    assert 400 < (draws > 0.5).sum() < 600
    assert ((draws < 0.01) | (draws > 0.99)).float().mean() > 0.98


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_p_is_the_share_of_samples_that_are_mixed(p):
    mixed = (draw_lam(1.0, p, 10_000, generator()) < 1).sum().item()
    assert abs(mixed - 10_000 * p) <= 5 * (10_000 * p * (1 - p)) ** 0.5


def test_p_is_the_share_of_batches_that_are_mixed():
    mixer, draws = MixUp(p=0.3, pairing="roll"), generator()
    images, targets = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.eye(2)
    mixed = sum(not torch.equal(mixer(images, targets, draws, Context())[0], images) for _ in range(1000))
    assert abs(mixed - 300) <= 5 * (1000 * 0.3 * 0.7) ** 0.5


def test_p_changes_which_batches_are_mixed_but_not_how():
    images, targets = torch.rand(4, 3, 4, 4, generator=generator(9)), torch.eye(4)
    always, sometimes = MixUp(p=1.0), MixUp(p=0.5)
    kept = 0
    for seed in range(20):
        mixed = sometimes(images, targets, generator(seed), Context())[0]
        if torch.equal(mixed, images):
            kept += 1
        else:
            assert torch.equal(mixed, always(images, targets, generator(seed), Context())[0])
    assert 0 < kept < 20


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("pairing", ["permutation", "roll", "flip"])
def test_pixels_say_what_labels_say(pairing, per_sample):
    colours = torch.arange(7.0)
    images, targets = colours.view(7, 1, 1, 1).expand(7, 3, 5, 4), torch.eye(7)
    mixer, draws = MixUp(pairing=pairing, per_sample=per_sample), generator()
    shares = set()
    for _ in range(20):
        mixed, labels = mixer(images, targets, draws, Context())
        assert ((labels > 0).sum(dim=1) <= 2).all()
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(7))
        torch.testing.assert_close(mixed, (labels @ colours).view(7, 1, 1, 1).expand_as(images))
        shares.add(len(set(labels.diagonal().tolist()) - {1.0}))
    assert max(shares) > 2 if per_sample else max(shares) == 1


def test_a_sample_that_is_not_mixed_comes_out_bit_for_bit():
    images, targets = torch.rand(64, 3, 4, 4, generator=generator()), torch.eye(64)
    mixed, labels = MixUp(p=0.5, per_sample=True, pairing="roll")(images, targets, generator(), Context())
    same = labels.diagonal() == 1
    assert 10 < same.sum() < 54
    assert torch.equal(mixed[same], images[same])
    assert torch.equal(labels[same], targets[same])
    assert (mixed[~same] != images[~same]).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("per_sample", [False, True])
def test_types_are_kept(dtype, per_sample):
    images, targets = torch.rand(3, 3, 4, 4, dtype=dtype), torch.eye(3)
    mixed, labels = MixUp(per_sample=per_sample)(images, targets, generator(), Context())
    assert (mixed.dtype, labels.dtype) == (dtype, torch.float32)
    reference = MixUp(per_sample=per_sample)(images.float(), targets, generator(), Context())[0]
    torch.testing.assert_close(mixed.float(), reference, atol=0.02, rtol=0)


def test_targets_alone_by_hand():
    rows = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])  # multi-hot
    mixed = mix_targets(rows, torch.tensor([1, 0]), torch.tensor([0.25]))
    assert mixed.tolist() == [[0.25, 1.0, 0.0], [0.75, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha.*positive.*came 0.0.*mixer=none"),
        ({"alpha": float("nan")}, "alpha.*nan"),
        ({"p": 1.5}, r"p is the probability.*\[0, 1\].*came 1.5"),
        ({"pairing": "rol"}, "permutation, roll, flip, came 'rol'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MixUp(**arguments)


# --- what is unknown -----------------------------------------------------------------------------------------------

NAN = float("nan")
KNOWN_AND_NOT = torch.tensor([[NAN, 1.0, 0.0], [1.0, NAN, 0.0]])


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        ([0.75, 0.75], [[NAN, NAN, 0], [NAN, NAN, 0]]),
        ([1.0, 0.75], [[NAN, 1, 0], [NAN, NAN, 0]]),  # nothing of the partner, nothing of what is unknown in it
        ([0.0, 1.0], [[1, NAN, 0], [1, NAN, 0]]),
    ],
)
def test_what_is_unknown_in_a_part_is_so_in_the_mixture(lam, expected):
    mixed = mix_targets(KNOWN_AND_NOT, torch.tensor([1, 0]), torch.tensor(lam))
    torch.testing.assert_close(mixed, torch.tensor(expected), equal_nan=True)
    shares = torch.zeros(2, 2)
    shares[[0, 1], [0, 1]], shares[[0, 1], [1, 0]] = torch.tensor(lam), 1 - torch.tensor(lam)
    torch.testing.assert_close(combine_targets(KNOWN_AND_NOT, shares), torch.tensor(expected), equal_nan=True)
    added = add_targets(KNOWN_AND_NOT, torch.tensor(lam), KNOWN_AND_NOT.flip(0), 1 - torch.tensor(lam))
    torch.testing.assert_close(added, torch.tensor(expected), equal_nan=True)


def test_targets_are_not_written_to():
    kept = KNOWN_AND_NOT.clone()
    mix_targets(KNOWN_AND_NOT, torch.tensor([1, 0]), torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(KNOWN_AND_NOT, kept, equal_nan=True)
