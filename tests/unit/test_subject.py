"""Subjects lifted, moved and laid over scenes, against answers known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from genaug.functional.subject import cover, lay_over, soft_alpha, subject_motion


def square(top=4, left=2, side=4, shape=(16, 12)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def moved(mask: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """The mask after the motion, through the function that composites use."""
    white = np.full((*mask.shape, 3), 255, np.uint8)
    return lay_over(np.zeros_like(white), white, soft_alpha(mask, 0), motion)[..., 0] > 127


# --- edges ---------------------------------------------------------------------------------------------------------


def test_edges_fade_inside_the_mask_alone():
    mask = square(2, 2, 9, (13, 13))
    alpha = soft_alpha(mask, 2)
    assert (alpha[~mask] == 0).all()
    assert alpha[6, 2:11].tolist() == [85, 170, 255, 255, 255, 255, 255, 170, 85]  # 1/3, 2/3, 1
    assert (soft_alpha(mask, 0) == 255 * mask).all()


def test_thin_parts_stay_opaque_in_their_middle():
    """A leg of three pixels beside a body: with the width of the body's edge it would be a ghost."""
    mask = np.zeros((30, 30), bool)
    mask[2:16, 4:26], mask[16:28, 10:13] = True, True
    alpha = soft_alpha(mask, 4)
    assert alpha[24, 10:13].tolist() == [128, 255, 128]
    assert alpha[8, 4:9].tolist() == [51, 102, 153, 204, 255]  # the body fades over five steps


def test_where_the_frame_cuts_a_subject_off_there_is_no_edge():
    mask = np.zeros((5, 5), bool)
    mask[:, :3] = True
    assert soft_alpha(mask, 1)[2].tolist() == [255, 255, 128, 0, 0]
    assert (soft_alpha(np.ones((4, 4), bool), 3) == 255).all()


# --- motion --------------------------------------------------------------------------------------------------------


def test_no_motion_is_none():
    assert np.allclose(subject_motion(square(), False, 0, 1), [[1, 0, 0], [0, 1, 0]])


def test_a_flip_mirrors_the_image():
    mask = square()
    assert (moved(mask, subject_motion(mask, True, 0, 1)) == mask[:, ::-1]).all()


def test_a_quarter_turn_about_the_subject_leaves_a_square_where_it_is():
    mask = square()
    motion = subject_motion(mask, False, 90, 1)
    assert (moved(mask, motion) == mask).all()
    # Counter-clockwise as seen: the right edge's middle comes to the top.
    centre = np.array([3.5, 5.5])
    assert np.allclose(motion @ [5.5, 5.5, 1], centre + [0, -2])


def test_scaling_keeps_the_centre_and_squares_the_area():
    mask = square(6, 4, 4)
    assert moved(mask, subject_motion(mask, False, 0, 0.5)).sum() == pytest.approx(4, abs=1)
    assert np.allclose(subject_motion(mask, False, 0, 0.5) @ [5.5, 7.5, 1], [5.5, 7.5])


@pytest.mark.parametrize("flip", [False, True])
def test_a_subject_that_would_leave_the_frame_is_shifted_back(flip):
    mask = square(2, 1, 4)  # twice as large it would reach from -1 to 6
    after = moved(mask, subject_motion(mask, flip, 0, 2))
    assert after.sum() == pytest.approx(64, abs=8)
    columns = np.flatnonzero(after.any(axis=0))
    assert (columns[0] >= 0, columns[-1] <= 11) == (True, True)
    assert columns[-1] - columns[0] == pytest.approx(7, abs=1)


@pytest.mark.parametrize(
    ("flip", "zoom", "degrees"), [(False, 0.6, 0), (True, 0.6, 0), (False, 1.0, 20), (True, 0.8, -20)]
)
def test_a_cut_stays_at_the_frame(flip, zoom, degrees):
    """A subject that the left border cuts off must not float away from it and show the cut."""
    mask = np.zeros((40, 40), bool)
    mask[15:25, :12] = True
    after = moved(mask, subject_motion(mask, flip, degrees, zoom))
    assert after[:, -1 if flip else 0].any()
    if degrees == 0:  # and the other end follows: 12 pixels at 0.6
        assert after.any(axis=0).sum() == pytest.approx(12 * zoom, abs=1.5)


def test_a_subject_cut_on_opposite_sides_is_only_mirrored():
    mask = np.zeros((10, 10), bool)
    mask[3:6] = True
    mask[3, 0] = False
    assert (moved(mask, subject_motion(mask, True, 30, 0.5)) == mask[:, ::-1]).all()


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="empty"):
        subject_motion(np.zeros((4, 4), bool), False, 0, 1)


# --- scenes and composites -----------------------------------------------------------------------------------------


def test_cover_keeps_the_aspect_and_cuts_the_rest():
    scene = np.tile(np.arange(40, dtype=np.uint8)[None, :, None] * 6, (20, 1, 3))  # brightness is the column
    part = cover(scene, 10, 10, np.random.default_rng(0))
    assert part.shape == (10, 10, 3)
    steps = np.diff(part[0, :, 0].astype(int))
    assert steps == pytest.approx(12, abs=1)  # half the size: two columns a pixel, not four as if it were squashed


def test_cover_takes_every_part():
    scene = np.tile(np.arange(4, dtype=np.uint8)[None, :, None], (2, 1, 3))
    rng = np.random.default_rng(0)
    assert {int(cover(scene, 2, 2, rng)[0, 0, 0]) for _ in range(40)} == {0, 1, 2}


def test_a_composite_by_hand():
    scene, image = np.full((3, 3, 3), 100, np.uint8), np.full((3, 3, 3), 200, np.uint8)
    alpha = np.array([[0, 0, 0], [0, 255, 51], [0, 0, 0]], np.uint8)
    result = lay_over(scene, image, alpha, np.eye(2, 3))
    assert result[..., 0].tolist() == [[100, 100, 100], [100, 200, 120], [100, 100, 100]]


def test_nothing_of_the_old_background_shows_at_the_rim():
    """A blue subject on red is moved over black: there is no red anywhere."""
    mask = square(6, 5, 8, (24, 20))
    image = np.zeros((24, 20, 3), np.uint8)
    image[..., 0], image[mask] = 255, (0, 0, 255)
    for softness in (0, 1):
        motion = subject_motion(mask, True, 17, 0.9)
        result = lay_over(np.zeros_like(image), image, soft_alpha(mask, softness), motion)
        assert result[..., 0].max() == 0
        assert result[..., 2].max() == 255


def test_black_pixels_of_a_subject_stay_black():
    """The published code took them for background."""
    mask = square()
    image = np.zeros((16, 12, 3), np.uint8)
    result = lay_over(np.full_like(image, 255), image, soft_alpha(mask, 0), np.eye(2, 3))
    assert (result[mask] == 0).all()
    assert (result[~mask] == 255).all()
