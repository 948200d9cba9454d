from __future__ import annotations

import numpy as np
import pytest

from genaug.functional.composite import cut_out, middle_square, paste, resize, rotate, visible_areas


def cutout_of(colour: tuple[int, int, int], alpha: int, height: int = 1, width: int = 1) -> np.ndarray:
    return np.full((height, width, 4), (*colour, alpha), np.uint8)


def test_the_middle_square():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 200
    assert (middle_square(image, 2) == 200).all()
    assert middle_square(image, 8).shape == (8, 8, 3)
    assert (middle_square(image, 4) == image[:, 2:6]).all()


# --- paste ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "expected"),
    # 128/255 of 200, 100, 0 and 127/255 of 10, 20, 255: 100.39 + 4.98, 50.20 + 9.96, 0 + 127.
    [(0, [10, 20, 255]), (255, [200, 100, 0]), (128, [105, 60, 127])],
)
def test_paste_by_hand(alpha, expected):
    canvas = np.full((1, 1, 3), (10, 20, 255), np.uint8)
    returned = paste(canvas, cutout_of((200, 100, 0), alpha), 0, 0)
    assert canvas[0, 0].tolist() == expected
    assert returned.tolist() == [[alpha]]


def test_paste_is_the_blend_formula_for_every_colour_and_alpha():
    colours = np.arange(256)
    for alpha in range(0, 256, 5):
        canvas = np.repeat(colours.astype(np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2)
        cutout = np.full((256, 256, 4), alpha, np.uint8)
        cutout[..., :3] = colours[:, None, None]
        exact = (colours[:, None] * alpha + colours[None, :] * (255 - alpha)) / 255
        paste(canvas, cutout, 0, 0)
        assert np.abs(canvas - exact[..., None]).max() <= 0.503  # rounded, and no more
        if alpha in (0, 255):
            assert (canvas == exact[..., None]).all()


def test_paste_touches_its_rectangle_only():
    canvas = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    before = canvas.copy()
    paste(canvas, cutout_of((255, 254, 253), 255, height=2, width=3), x=2, y=1)
    inside = np.zeros((5, 6), bool)
    inside[1:3, 2:5] = True
    assert (canvas[inside] == (255, 254, 253)).all()
    assert (canvas[~inside] == before[~inside]).all()


# --- visible areas -------------------------------------------------------------------------------------------------

OPAQUE = np.full((4, 6), 255, np.uint8)  # 24 pixels


@pytest.mark.parametrize(
    ("second_at", "hidden"),
    [
        ((6, 0), 0),  # side by side
        ((0, 4), 0),  # one below the other
        ((100, 100), 0),
        ((4, 3), 2),  # the corner: 2 x 1
        ((-4, -3), 2),  # the opposite corner
        ((0, 0), 24),  # all of it
        ((2, -1), 12),  # 4 columns, 3 rows
    ],
)
def test_visible_areas_of_rectangles(second_at, hidden):
    assert visible_areas(OPAQUE, (0, 0), OPAQUE, second_at) == (24 - hidden, 24)
    assert visible_areas(OPAQUE, (7, 5), OPAQUE, (second_at[0] + 7, second_at[1] + 5)) == (24 - hidden, 24)


def test_visible_areas_of_one_inside_the_other():
    small = np.full((2, 2), 255, np.uint8)
    assert visible_areas(OPAQUE, (0, 0), small, (3, 1)) == (20, 4)
    assert visible_areas(small, (3, 1), OPAQUE, (0, 0)) == (0, 24)


def test_visible_areas_count_soft_edges_by_alpha():
    soft = np.array([[51, 102]], np.uint8)  # 0.2 and 0.4 of a pixel
    first, second = visible_areas(soft, (0, 0), np.array([[128]], np.uint8), (1, 0))
    # What is hidden is rounded to 1/255 of a pixel.
    assert (first, second) == pytest.approx((0.2 + 0.4 * (1 - 128 / 255), 128 / 255), abs=0.5 / 255)


# --- resize, cut out, rotate ---------------------------------------------------------------------------------------


def test_resize_averages_to_shrink_and_keeps_a_size():
    image = np.array([[[0], [10]], [[20], [50]]], np.uint8)
    assert resize(image, 1, 1).ravel().tolist() == [20]
    assert resize(image, 2, 2) is image
    assert resize(np.full((3, 5, 4), 77, np.uint8), 11, 7).shape == (7, 11, 4)
    assert (resize(np.full((3, 5, 4), 77, np.uint8), 11, 7) == 77).all()


def test_cut_out_takes_the_box_and_the_mask():
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = mask[2, 3] = True
    cutout = cut_out(image, mask, (2, 1, 2, 2))
    assert (cutout[..., :3] == image[1:3, 2:4]).all()
    assert cutout[..., 3].tolist() == [[255, 0], [0, 255]]


def pattern(height: int, width: int) -> np.ndarray:
    """All pixels differ, all are opaque."""
    cutout = np.full((height, width, 4), 255, np.uint8)
    cutout[..., 0] = np.arange(height * width).reshape(height, width) + 1
    return cutout


@pytest.mark.parametrize("size", [(3, 2), (2, 3), (4, 4), (5, 1)])
@pytest.mark.parametrize("quarters", [-1, 0, 1, 2])
def test_rotate_by_quarters_moves_whole_pixels(size, quarters):
    cutout = pattern(*size)
    assert (rotate(cutout, 90 * quarters) == np.rot90(cutout, quarters)).all()


@pytest.mark.parametrize("degrees", [10, 30, 45, 77, -60])
def test_rotate_holds_all_of_the_object_and_keeps_it_in_the_middle(degrees):
    cutout = np.full((40, 24, 4), 255, np.uint8)
    alpha = rotate(cutout, degrees)[..., 3] / 255
    assert alpha.sum() == pytest.approx(40 * 24, rel=0.01)
    y, x = (np.indices(alpha.shape) * alpha).sum(axis=(1, 2)) / alpha.sum()
    assert (y, x) == pytest.approx(((alpha.shape[0] - 1) / 2, (alpha.shape[1] - 1) / 2), abs=0.05)


def test_rotate_does_not_darken_the_rim():
    rotated = rotate(cutout_of((200, 150, 100), 255, 20, 30), 30)
    assert (rotated[..., :3] == (200, 150, 100)).all()
