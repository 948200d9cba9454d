from __future__ import annotations

import numpy as np
import pytest

from genaug.functional.pushpull import fill_holes


def grey(values):
    """Rows of grey values as an RGB image."""
    return np.repeat(np.array(values, np.uint8)[..., None], 3, axis=2)


def test_holes_of_the_coarsest_layer_get_the_mean_of_what_is_known():
    image, known = grey([[0, 30], [60, 255]]), np.array([[1, 1], [1, 0]], bool)
    assert fill_holes(image, known)[..., 0].tolist() == [[0, 30], [60, 30]]


def test_two_layers_by_hand():
    # Factor 2 leaves (0, 96) at alpha 1/2 each over their mean 48: 24 and 72, interpolated to 24, 36, 60, 72.
    image, known = grey([[0, 7, 7, 96]] * 2), np.array([[1, 0, 0, 1]] * 2, bool)
    assert fill_holes(image, known, factor=2)[..., 0].tolist() == [[0, 36, 60, 96]] * 2


def test_partly_known_pixels_count_and_are_filled_by_their_share():
    # The mean is (0.5 * 100 + 1 * 0) / 1.5 = 33.3; the half-known pixel is half itself, half that mean.
    image, known = grey([[100, 0], [9, 9]]), np.array([[0.5, 1], [0, 0]], np.float32)
    assert fill_holes(image, known)[..., 2].tolist() == [[67, 0], [33, 33]]


def test_between_two_halves_lies_their_mean():
    image = np.zeros((41, 61, 3), np.uint8)
    image[:, :30], image[:, 31:] = (200, 0, 40), (100, 50, 40)
    known = np.ones((41, 61), bool)
    known[:, 20:41] = False
    filled = fill_holes(image, known)
    np.testing.assert_allclose(filled[:, 30], np.broadcast_to((150, 25, 40), (41, 3)), atol=2)
    red = filled[20, 20:41, 0].astype(int)
    assert (np.diff(red) <= 0).all()
    assert red[0] > 180
    assert red[-1] < 120


def test_known_pixels_stay_bit_by_bit_and_holes_do_not_show_what_lay_under_them():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (53, 71, 3), dtype=np.uint8)
    known = rng.random((53, 71)) < 0.4
    filled = fill_holes(image, known)
    assert (filled[known] == image[known]).all()
    other = np.where(known[..., None], image, 255 - image)
    assert (fill_holes(other, known) == filled).all()


def test_a_linear_gradient_is_continued():
    image = grey(np.rint(np.linspace(0, 255, 256))[None].repeat(192, axis=0))
    known = np.ones((192, 256), bool)
    known[48:144, 64:192] = False
    error = np.abs(fill_holes(image, known).astype(int) - image)[~known] / 255
    assert error.mean() < 0.02
    assert error.max() < 0.05


def test_one_known_pixel_fills_everything():
    image = np.zeros((37, 53, 3), np.uint8)
    image[30, 2] = 12, 200, 99
    known = np.zeros((37, 53), bool)
    known[30, 2] = True
    assert (fill_holes(image, known) == (12, 200, 99)).all()


def test_arguments_are_left_alone():
    image, known = grey([[1, 2], [3, 4]]), np.array([[1, 0], [0, 0]], np.float32)
    fill_holes(image, known)
    assert image[..., 0].tolist() == [[1, 2], [3, 4]]
    assert known.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("image", "known", "factor", "message"),
    [
        (grey([[1, 2]]), np.zeros((1, 2), bool), 1.2, "every pixel is a hole"),
        (grey([[1, 2]]), np.ones((2, 1), bool), 1.2, r"\(2, 1\).*\(1, 2\)"),
        (grey([[1, 2]]), np.full((1, 2), 255), 1.2, r"\[0, 1\]"),
        (grey([[1, 2]]), np.array([[1, np.nan]]), 1.2, r"\[0, 1\]"),
        (grey([[1, 2]]).astype(float), np.ones((1, 2), bool), 1.2, "uint8"),
        (grey([[1, 2]]), np.ones((1, 2), bool), 1.0, "factor"),
    ],
)
def test_wrong_input_is_refused(image, known, factor, message):
    with pytest.raises(ValueError, match=message):
        fill_holes(image, known, factor)
