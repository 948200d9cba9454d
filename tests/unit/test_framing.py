from __future__ import annotations

import numpy as np
import pytest

from genaug.generation.framing import Frame


def disc(height, width):
    """A white disc on black, its radius a quarter of the shorter side."""
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 <= (min(height, width) / 4) ** 2
    return (inside[..., None] * np.full(3, 255)).astype(np.uint8)


def extent(image):
    """Height and width of what is bright."""
    bright = image[..., 0] > 127
    return int(bright.any(1).sum()), int(bright.any(0).sum())


def test_without_a_side_no_pixel_moves():
    image = np.random.default_rng(0).integers(0, 256, (100, 70, 3), dtype=np.uint8)
    frame = Frame.of(100, 70, step=8)
    shown = frame.show(image)
    assert shown.shape == (104, 72, 3)
    assert (shown[:100, :70] == image).all()
    assert (shown[100:, :70] == image[95:99][::-1]).all()  # the reflection
    assert (shown[:100, 70:] == image[:, 67:69][:, ::-1]).all()
    assert (frame.back(shown) == image).all()


@pytest.mark.parametrize(("height", "width"), [(100, 70), (375, 500), (64, 333), (1000, 999)])
@pytest.mark.parametrize("side", [128, 512])
def test_a_circle_stays_a_circle(height, width, side):
    frame = Frame.of(height, width, step=16, side=side)
    assert all(size % 16 == 0 for size in frame.size)
    assert all(0 <= size - content < 16 for size, content in zip(frame.size, frame.content, strict=True))
    assert frame.content[0] * frame.content[1] == pytest.approx(side**2, rel=0.02)  # the pixels asked for
    image = disc(height, width)
    shown = frame.show(image)
    tall, wide = extent(shown[: frame.content[0], : frame.content[1]])
    assert abs(tall - wide) <= max(2, 3 * side / min(height, width))
    back = frame.back(shown)
    assert back.shape == image.shape
    assert np.abs(back.astype(int) - image).mean() < 4
    assert extent(back) == pytest.approx(extent(image), abs=2)


def test_an_image_smaller_than_a_step():
    frame = Frame.of(1, 3, step=8)
    assert frame.size == (8, 8)
    image = np.array([[[1, 2, 3], [4, 5, 6], [7, 8, 9]]], np.uint8)
    assert (frame.back(frame.show(image)) == image).all()


def test_a_mask_keeps_every_pixel_it_touches():
    mask = np.zeros((100, 70), bool)
    mask[41, 33] = True
    same = Frame.of(100, 70, step=8).show_mask(mask)
    assert same.dtype == bool
    assert np.argwhere(same).tolist() == [[41, 33]]
    smaller = Frame.of(100, 70, step=8, side=21).show_mask(mask)
    assert smaller.sum() >= 1
    assert [41 * 25 // 100, 33 * 18 // 70] in np.argwhere(smaller).tolist()
    assert not Frame.of(100, 70, step=8, side=300).show_mask(~mask).all()
