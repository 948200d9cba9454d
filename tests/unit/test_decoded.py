from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genaug.data.base import Sample
from genaug.data.decoded import DecodedImages
from genaug.data.folder import Folder
from genaug.data.images import ImageDataset, RealImages
from genaug.data.packed import PackedSamples
from genaug.data.transforms import Crop, RandomResizedCrop, ResizeCrop, SquashCrop, StripCrop

CROPS = [
    ResizeCrop(32),
    SquashCrop(32),
    SquashCrop(32, ratio=1.0, padding=0, flip=0.0),
    RandomResizedCrop(32),
    StripCrop(32),
]


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    """Five JPEGs of different sizes, with masks."""
    folder, rng, samples = tmp_path_factory.mktemp("photos"), np.random.default_rng(0), []
    for number in range(5):
        height, width = rng.integers(30, 90, 2)
        image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((int(width), int(height)))
        image.save(folder / f"{number}.jpg")
        Image.fromarray(rng.integers(0, 2, (height, width), dtype=np.uint8) * 255).save(folder / f"{number}.png")
        samples.append(Sample(f"{number}.jpg", folder / f"{number}.jpg", number % 2, mask=folder / f"{number}.png"))
    return samples


def batch(samples: list[Sample], crop: Crop, decoded: DecodedImages | None, training: bool) -> list[torch.Tensor]:
    transform = crop.train() if training else crop.eval()
    data = ImageDataset(RealImages(samples, 2, decoded=decoded), transform, seed=3, masks=training)
    items = [data[0, index, True] for index in range(len(samples))]
    return [item[name] for item in items for name in ("image", "mask") if name in item]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("crop", CROPS, ids=lambda crop: type(crop).__name__)
def test_images_and_masks_are_the_same_to_the_last_bit(samples, tmp_path, crop, training):
    without = batch(samples, crop, None, training)
    for _ in range(2):  # made, and found
        with_cache = batch(samples, crop, DecodedImages(tmp_path, crop.first()), training)
        assert all(torch.equal(one, other) for one, other in zip(without, with_cache, strict=True))


def test_a_file_is_decoded_once(samples, tmp_path, monkeypatch):
    decoded = DecodedImages(tmp_path, ResizeCrop(32).first())
    first = decoded.read(samples[0].path)
    monkeypatch.setattr("genaug.data.decoded.read_image", lambda *_: pytest.fail("decoded again"))
    again = decoded.read(samples[0].path)
    assert np.array_equal(again, first)
    again[:] = 0  # the caller's to write to
    assert np.array_equal(decoded.read(samples[0].path), first)


def test_a_file_that_changed_is_another_image(tmp_path):
    decoded, path = DecodedImages(tmp_path / "cache", None), tmp_path / "a.png"
    for grey in (10, 200):
        Image.new("RGB", (6 + grey, 6), (grey, grey, grey)).save(path)
        assert decoded.read(path)[0, 0, 0] == grey


def test_crops_do_not_share_what_is_kept(samples, tmp_path):
    for crop in CROPS:
        DecodedImages(tmp_path, crop.first()).read(samples[0].path)
    assert len(list(tmp_path.iterdir())) == len(CROPS)
    assert DecodedImages(tmp_path, None, channels=1).read(samples[0].path).shape[2] == 1


def test_room_is_asked_for_before_it_is_needed(samples, tmp_path, monkeypatch):
    decoded = DecodedImages(tmp_path, SquashCrop(32, ratio=1.0).first())
    needed = 32 * 32 * 3 * len(samples)
    room = namedtuple("room", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room(0, 0, needed - 1))
    with pytest.raises(ValueError, match=r"loader.cache=true would write about 0.0 GB .* paths.cache"):
        decoded.check_room(samples)
    decoded.read(samples[0].path)
    decoded.check_room(samples)  # one less to write


class TestPacked:
    def test_it_is_the_list(self, tiny_folder):
        samples = Folder(tiny_folder.root, "blob", masks=tiny_folder.masks).splits()["train"]
        packed = PackedSamples(samples)
        assert list(packed) == samples
        assert packed[3:7] == samples[3:7]
        assert (packed[-1], packed[0]) == (samples[-1], samples[0])
        assert len(packed) == len(samples)

    def test_out_of_range(self):
        for index in (1, -2):
            with pytest.raises(IndexError):
                PackedSamples([Sample("a", Path("a"), 0)])[index]

    def test_nothing(self):
        assert list(PackedSamples([])) == []
