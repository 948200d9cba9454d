from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from genaug.data.transforms import (
    RandomResizedCrop,
    ResizeCrop,
    SquashCrop,
    StripCrop,
    randaugment,
    resize_side,
    standard,
)

CROPS = [
    ResizeCrop(32),
    ResizeCrop(32, ratio=1.0),
    RandomResizedCrop(32),
    SquashCrop(32),
    SquashCrop(32, ratio=1.0, padding=4),
    SquashCrop(32, ratio=1.0, padding=0, flip=0.0),
    StripCrop(32),
]


def noise(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)


def seeded(transform: nn.Module, image: Tensor, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(image)


@pytest.mark.parametrize(
    ("size", "ratio", "expected"),
    [
        (224, 8 / 7, 256),
        (384, 8 / 7, 440),  # 438.9
        (448, 8 / 7, 512),
        (64, 8 / 7, 80),  # 73.1
        (96, 8 / 7, 112),  # 109.7
        (224, 1.0, 224),
        (30, 1.0, 32),
        (64, 0.5, 64),  # never smaller than the crop
    ],
)
def test_side_to_resize_to(size, ratio, expected):
    assert resize_side(size, ratio) == expected


@pytest.mark.parametrize("size", [224, 384, 448])
def test_the_ratio_as_the_configuration_writes_it_gives_the_same_side(size):
    assert resize_side(size, 1.142857) == resize_side(size, 8 / 7)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("shape", [(3, 50, 90), (3, 90, 50), (1, 40, 40), (3, 7, 11), (3, 32, 200)])
def test_every_crop_gives_the_training_size(crop, shape):
    for transform in (crop.train(), crop.eval()):
        for seed in range(3):
            out = seeded(transform, noise(*shape), seed)
            assert out.shape == (shape[0], 32, 32)
            assert out.dtype == torch.uint8


@pytest.mark.parametrize("crop", CROPS)
def test_evaluation_draws_nothing(crop):
    image = noise(3, 50, 90)
    before = torch.get_rng_state()
    first = crop.eval()(image)
    assert (torch.get_rng_state() == before).all()
    torch.rand(1)
    assert (crop.eval()(image) == first).all()


@pytest.mark.parametrize("crop", CROPS[:5])
def test_training_crops_vary_with_the_seed_only(crop):
    image = noise(3, 50, 90)
    drawn = [seeded(crop.train(), image, seed) for seed in range(8)]
    assert len({one.numpy().tobytes() for one in drawn}) > 3
    assert (seeded(crop.train(), image, 3) == drawn[3]).all()


def test_squash_without_crop_padding_and_flip_is_a_pure_resize():
    crop, image = SquashCrop(32, ratio=1.0, padding=0, flip=0.0), noise(3, 50, 90)
    expected = v2.functional.resize(image, [32, 32], antialias=True)
    assert crop.side == 32
    for seed in range(5):
        assert (seeded(crop.train(), image, seed) == expected).all()
    assert (crop.eval()(image) == expected).all()


@pytest.mark.parametrize("crop", [ResizeCrop(32, ratio=1.25, flip=0.0), SquashCrop(32, 1.25, padding=0, flip=0.0)])
def test_crops_are_windows_of_the_resized_image(crop):
    assert crop.side == 40
    image = noise(3, 40, 40)  # resized to itself
    places = {
        (y, x)
        for seed in range(100)
        for out in [seeded(crop.train(), image, seed)]
        for y in range(9)
        for x in range(9)
        if (out == image[:, y : y + 32, x : x + 32]).all()
    }
    assert len(places) > 50  # of 81
    assert {y for y, _ in places} == {x for _, x in places} == set(range(9))
    assert (crop.eval()(image) == image[:, 4:36, 4:36]).all()


def test_resize_crop_keeps_the_aspect_and_squash_does_not():
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    image[:, :, 40:] = 255
    kept, squashed = ResizeCrop(32, ratio=1.25).eval()(image), SquashCrop(32, ratio=1.0, padding=0).eval()(image)
    assert (kept[0, :, 0] == 0).all()
    assert (kept[0, :, -1] == 255).all()
    narrow = torch.zeros(3, 40, 80, dtype=torch.uint8)
    narrow[:, :, :20] = 255  # the left quarter: outside the centre crop of 32 of 80, inside the squashed image
    assert ResizeCrop(32, ratio=1.25).eval()(narrow).max() == 0
    assert squashed[0, 0].tolist()[:15] == [0] * 15
    assert (SquashCrop(32, ratio=1.0, padding=0).eval()(narrow)[0, :, :7] == 255).all()


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_padding_shifts_by_at_most_itself(mode):
    crop, image = SquashCrop(32, ratio=1.0, padding=4, padding_mode=mode, flip=0.0), noise(3, 32, 32)
    padded = v2.functional.pad(image, [4, 4, 4, 4], padding_mode=mode)
    for seed in range(50):
        out = seeded(crop.train(), image, seed)
        assert any((out == padded[:, y : y + 32, x : x + 32]).all() for y in range(9) for x in range(9))
    assert (crop.eval()(image) == image).all()


@pytest.mark.parametrize(("flip", "expected"), [(0.0, {False}), (1.0, {True}), (0.5, {True, False})])
@pytest.mark.parametrize("kind", [ResizeCrop, SquashCrop, RandomResizedCrop])
def test_flips(kind, flip, expected):
    image = torch.arange(32, dtype=torch.uint8).mul(8).expand(3, 32, 32).contiguous()  # brighter to the right
    crop = kind(32, flip=flip).train()
    # The middle row, inside any padding that is black.
    rows = [seeded(crop, image, seed)[0, 16, 8:24] for seed in range(20)]
    flipped = {bool(row[0] > row[-1]) for row in rows}
    assert flipped == expected


def test_random_resized_crop_takes_areas_of_its_range():
    # Each pixel of the gradient tells its column: the span of a crop is the crop's width.
    image = torch.arange(200, dtype=torch.uint8).expand(3, 200, 200).contiguous()
    spans = []
    for seed in range(200):
        row = seeded(RandomResizedCrop(50, scale=(0.25, 0.5), flip=0.0).train(), image, seed)[0, 0].int()
        spans.append((row[-1] - row[0]).item() / 200)
    # Widths: sqrt(area * aspect), aspect within 3/4 and 4/3.
    assert 0.25**0.5 * 0.75**0.5 - 0.03 < min(spans) < 0.50
    assert 0.65 < max(spans) < (0.5 * 4 / 3) ** 0.5 + 0.01


def test_strips_are_cut_off():
    image = torch.full((3, 448, 448), 100, dtype=torch.uint8)
    image[:, :10], image[:, 410:] = 0, 255  # a date above, a logo below
    assert (StripCrop(448).eval()(image) == 100).all()
    image[:, 10], image[:, 409] = 7, 9
    kept = StripCrop(448, height=400).eval()(image)
    assert (kept[0, 0].tolist(), kept[0, -1].tolist()) == ([7] * 448, [9] * 448)


def test_strips_are_cut_off_masks_too():
    mask = torch.zeros(1, 90, 120, dtype=torch.bool)
    mask[:, 45:] = True  # the lower half: from row 224 of 448, row 214 of the 400 that are kept
    image = tv_tensors.Image(mask.expand(3, -1, -1).to(torch.uint8) * 255)
    pixels, moved = StripCrop(200).train()((image, tv_tensors.Mask(mask)))
    assert pixels.shape == (3, 200, 200)
    assert moved[0].sum(dim=0).tolist() == [93] * 200
    assert (pixels[0][moved[0]] > 100).all()


def test_strips_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="top=10 and height=400 must name rows of a square of side=400"):
        StripCrop(224, side=400)


def test_standard_is_nothing_and_randaugment_is_something():
    image = noise(3, 32, 32)
    assert (standard()(image) == image).all()
    drawn = [seeded(randaugment(), image, seed) for seed in range(10)]
    assert all(one.dtype == torch.uint8 and one.shape == image.shape for one in drawn)
    assert sum(bool((one != image).any()) for one in drawn) > 5
    assert (seeded(randaugment(num_ops=0), image, 0) == image).all()
