"""Fractals: the same from the same seed, colourful, and with structure all over."""

from __future__ import annotations

import numpy as np
import pytest

from genaug.functional.fractals import SIDE, fractal


@pytest.mark.parametrize("size", [(64, 64), (40, 90), (91, 37), (1, 1), (1, 50), (300, 400)])
def test_a_fractal_has_the_size_asked_for_and_follows_from_its_seed(size):
    one = fractal(5, *size)
    assert (one.shape, one.dtype) == ((*size, 3), np.uint8)
    assert (one == fractal(5, *size)).all()
    assert min(size) == 1 or (one != fractal(6, *size)).any()


def test_no_seed_gives_a_plain_picture():
    pictures = [fractal(seed, 64, 64) for seed in range(60)]
    assert min(picture.std(axis=(0, 1)).max() for picture in pictures) > 5
    # Neighbouring pixels differ somewhere: there is structure and not a gradient alone.
    assert min(np.abs(np.diff(picture.astype(int), axis=1)).max() for picture in pictures) > 15
    # And in colour: red, green and blue are not the same picture.
    assert min(np.abs(np.diff(picture.astype(int), axis=2)).max() for picture in pictures) > 15
    assert len({picture.tobytes() for picture in pictures}) == 60


def test_a_wide_fractal_is_a_part_of_the_square_and_not_squeezed():
    square, wide = fractal(2, SIDE, SIDE), fractal(2, SIDE // 2, SIDE)
    assert (wide == square[SIDE // 4 : -SIDE // 4]).all()
