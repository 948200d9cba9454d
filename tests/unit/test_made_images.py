"""Measures of made images on cases whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from genaug.metrics.made_images import background_change, mask_iou, psnr, spread, spread_within


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_psnr_of_one_grey_level_and_of_opposites():
    black = np.zeros((5, 7, 3), np.uint8)
    assert psnr(black, black + 1) == pytest.approx(20 * math.log10(255))
    assert psnr(black, black + 255) == pytest.approx(0, abs=1e-5)
    assert psnr(black, black) == math.inf


def test_psnr_by_its_definition():
    a, b = noise(9, 8, 3), noise(9, 8, 3, seed=1)
    mse = ((a.astype(float) - b) ** 2).mean()
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 / mse))


def test_a_source_is_brought_to_the_size_of_the_result():
    small = noise(6, 8, 3)
    large = small.repeat(2, 0).repeat(2, 1)
    assert psnr(large, small) == math.inf
    assert background_change(large, small, np.zeros((12, 16), bool), np.zeros((6, 8), bool)) == 0


def test_overlap_of_subjects():
    left, right = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    left[:, :2], right[:, 1:3] = True, True
    assert mask_iou(left, left) == 1
    assert mask_iou(left, right) == pytest.approx(4 / 12)
    assert mask_iou(left, ~left) == 0
    assert mask_iou(left, np.zeros_like(left)) == 0
    assert mask_iou(np.zeros_like(left), left) is None
    assert mask_iou(left, left.repeat(3, 0).repeat(3, 1)) == 1


def test_change_counts_where_neither_image_shows_the_subject():
    source, result = np.zeros((2, 4, 3), np.uint8), np.zeros((2, 4, 3), np.uint8)
    result[:, 0], result[:, 1], result[:, 2] = 255, 255, 51
    before, after = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    before[:, 0], after[:, 1] = True, True
    assert background_change(source, result, before, after) == pytest.approx((0.2 + 0) / 2)
    assert background_change(source, source, before, after) == 0
    assert background_change(source, result, ~before, before) is None


def test_spread_is_the_mean_over_all_pairs():
    rows = functional.normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    pairs = [1 - float(rows[i] @ rows[j]) for i in range(7) for j in range(i)]
    assert spread(rows) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert spread(rows[:1].expand(4, -1)) == pytest.approx(0, abs=1e-6)


def test_spread_within_classes_is_their_mean():
    rows = torch.tensor([[1.0, 0], [1, 0], [0, 1], [-1, 0], [0, 1], [0, 1]])
    # Class 0: one pair at distance 0. Class 1: 1 and -1 of two axes: distance 1. Class 2 has one image.
    assert spread_within(rows, [[0], [0], [1], [1], [2], []]) == (0.5, 2)
    assert spread_within(rows[:2], [[0, 1], [0]]) == (0.0, 1)
    assert spread_within(rows[:1], [[0]]) == (None, 0)
