"""Objects pasted into scenes: where they may go, how large they are, and which of their pixels are seen."""

from __future__ import annotations

import numpy as np
import pytest

from genaug.functional.cutpaste import enclosing_circle, largest_circle, lifted, paste_in_circle, random_circle


def object_of(height, width, colour=200, pad=5):
    """A picture with a rectangle, and its mask."""
    image = np.zeros((height + 2 * pad, width + 2 * pad, 3), np.uint8)
    mask = np.zeros(image.shape[:2], bool)
    mask[pad : pad + height, pad : pad + width] = True
    image[mask] = colour
    return image, mask


def test_an_object_is_lifted_to_its_box():
    image, mask = object_of(7, 11)
    cutout = lifted(image, mask, 0)
    assert cutout.shape == (7, 11, 4)
    assert (cutout == (200, 200, 200, 255)).all()
    turned = lifted(image, mask, 90)
    assert turned.shape[:2] == (11, 7)
    assert lifted(image, mask, 45).shape[:2] == pytest.approx((13, 13), abs=1)  # 18 / sqrt(2)
    with pytest.raises(ValueError, match="empty mask"):
        lifted(image, ~mask & mask, 0)


def test_the_circle_of_a_rectangle_goes_through_its_corners():
    x, y, radius = enclosing_circle(lifted(*object_of(6, 8), 0))
    assert (x, y, radius) == pytest.approx((4, 3, 5), abs=1e-3)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_circles_lie_in_the_picture(shape):
    rng = np.random.default_rng(0)
    drawn = [random_circle(*shape, (0.3, 0.7), rng) for _ in range(300)]
    largest = [largest_circle(*shape, 0.3, rng) for _ in range(300)]
    for x, y, radius in drawn + largest:
        assert min(x, shape[1] - x, y, shape[0] - y) >= radius - 1e-9
        assert radius >= 6
    assert max(radius for _, _, radius in drawn) <= 14
    for x, y, radius in largest:
        assert radius == pytest.approx(min(x, shape[1] - x, y, shape[0] - y))
    assert max(radius for _, _, radius in largest) > 17
    assert len({round(x) for x, _, _ in largest}) > 15


def test_an_object_fills_its_circle():
    scene = np.full((100, 120, 3), 50, np.uint8)
    result = paste_in_circle(scene, lifted(*object_of(6, 8), 0), (60, 40, 25), sigma=0)
    rows, columns = np.nonzero(result[..., 0] == 200)
    # A rectangle of 6 x 8 in a circle of 5 becomes one of 30 x 40 in a circle of 25.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (25, 54, 40, 79)
    assert (result[result[..., 0] != 200] == 50).all()
    assert (scene == 50).all()


def test_a_soft_edge_mixes_both():
    scene = np.zeros((64, 64, 3), np.uint8)
    cutout = lifted(*object_of(20, 20), 0)
    hard, soft = (paste_in_circle(scene, cutout, (32, 32, 14.2), sigma) for sigma in (0, 2))
    assert set(np.unique(hard)) == {0, 200}
    assert len(np.unique(soft)) > 3
    assert soft[32, 32, 0] == 200


def test_every_circle_in_the_picture_can_be_filled():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(side) for side in rng.integers(8, 40, 2))
        cutout = lifted(*object_of(*(int(side) for side in rng.integers(1, 30, 2))), rng.uniform(-30, 30))
        circle = largest_circle(height, width, 0.3, rng)
        assert paste_in_circle(np.zeros((height, width, 3), np.uint8), cutout, circle, 0.5).shape == (height, width, 3)
