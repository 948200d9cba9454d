from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from genaug.data.base import Sample
from genaug.data.images import ImageDataset, KeySampler, RealImages, one_hot, target_of

# --- the sampler ---------------------------------------------------------------------------------------------------


def keys(length, seed, world, epoch=0, count=None):
    """The keys of each process."""
    shares = []
    for rank in range(world):
        sampler = KeySampler(length, seed, rank, world, count)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler)
    return shares


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [1, 2, 7, 12])
@pytest.mark.parametrize("seed", [None, 0])
def test_each_image_comes_once_whatever_the_number_of_processes(length, world, seed):
    shares = keys(length, seed, world)
    assert len({len(share) for share in shares}) == 1
    counted = Counter(index for share in shares for _, index, valid in share if valid)
    assert counted == Counter(range(length))
    assert sum(not valid for share in shares for _, _, valid in share) == -length % world


@pytest.mark.parametrize("world", [2, 3, 4])
def test_global_batches_do_not_depend_on_the_number_of_processes(world):
    batch, length = 12, 36
    (alone,) = keys(length, 3, 1)
    expected = [{index for _, index, _ in alone[start : start + batch]} for start in range(0, length, batch)]
    shares = keys(length, 3, world)
    per = batch // world
    assert [
        {index for share in shares for _, index, _ in share[start : start + per]}
        for start in range(0, 36 // world, per)
    ] == expected


def test_count_takes_the_first_of_the_order():
    ((*whole,),) = keys(10, 3, 1)
    ((*part,),) = keys(10, 3, 1, count=8)
    assert part == whole[:8]
    shares = keys(10, 3, 2, count=8)
    assert sorted(index for share in shares for _, index, _ in share) == sorted(index for _, index, _ in part)
    assert all(valid for share in shares for _, _, valid in share)


def test_the_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        return [index for _, index, _ in keys(50, seed, 1, epoch)[0]]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6
    assert [order(None, epoch) for epoch in (0, 5)] == [list(range(50))] * 2
    assert {epoch for epoch, _, _ in keys(50, 0, 1, epoch=4)[0]} == {4}


def test_the_order_leaves_the_global_generators_alone():
    np.random.seed(0)  # noqa: NPY002 - the global generator is what this is about
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    keys(20, 1, 1)
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert (torch.get_rng_state() == before[1]).all()


# --- the images ----------------------------------------------------------------------------------------------------


def photographs(folder: Path) -> list[Sample]:
    """Images 0 to 3 of noise, 20 rows and 30 columns; the third of no group."""
    samples = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        samples.append(Sample(path.name, path, number % 3, group=None if number == 2 else number % 2))
    return samples


def test_one_hot_by_hand():
    assert one_hot(1, 3).tolist() == [0, 1, 0]
    assert one_hot((), 2).tolist() == [0, 0]
    assert one_hot((2, 0), 3).tolist() == [1, 0, 1]
    assert one_hot(0, 1).dtype == np.float32


def test_what_nobody_knows_is_no_number(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    sample = Sample("a.png", tmp_path / "a.png", (2,), unknown=(0, 3))
    drawn = RealImages([sample], 4).draw(0, np.random.default_rng(0))[1]
    for row in (target_of(sample, 4), drawn):
        assert row.dtype == np.float32
        np.testing.assert_array_equal(row, [np.nan, 0, 1, np.nan])
    assert target_of(Sample("b.png", Path("b.png"), ()), 2).tolist() == [0, 0]
    assert target_of(Sample("c.png", Path("c.png"), 1), 2).tolist() == [0, 1]
    half = Sample("d.png", Path("d.png"), 1, soft_label=((0, 0.25), (1, 0.75)))
    assert target_of(half, 3).tolist() == [0.25, 0.75, 0]


def test_real_images_are_the_files(tmp_path):
    samples = photographs(tmp_path)
    source = RealImages(samples, num_classes=3)
    assert len(source) == 4
    for index, sample in enumerate(samples):
        pixels, label = source.draw(index, np.random.default_rng(0))
        assert (pixels == np.asarray(Image.open(sample.path))).all()
        assert label.tolist() == [float(index % 3 == k) for k in range(3)]
    assert RealImages(samples, 3, channels=1).draw(0, np.random.default_rng(0))[0].shape == (20, 30, 1)


def test_an_item_says_what_it_is(tmp_path):
    dataset = ImageDataset(RealImages(photographs(tmp_path), 3), torch.nn.Identity(), seed=0)
    item = dataset[5, 1, True]
    assert (item["image"].numpy() == np.asarray(Image.open(tmp_path / "1.png"))).all()  # (H, W, C)
    assert item["image"].is_contiguous()
    assert item["target"].tolist() == [0, 1, 0]
    assert (item["group"], item["valid"], item["index"]) == (1, True, 1)
    repeated = dataset[5, 2, False]
    assert (repeated["group"], repeated["valid"]) == (-1, False)


RANDOM = v2.Compose([v2.RandomCrop(12), v2.RandomHorizontalFlip(), v2.RandAugment()])


def items(dataset, order):
    return {key: dataset[key]["image"] for key in order}


def test_an_item_does_not_depend_on_order_or_global_state(tmp_path):
    dataset = ImageDataset(RealImages(photographs(tmp_path), 3), RANDOM, seed=7)
    order = [(epoch, index, True) for epoch in range(3) for index in range(4)]
    torch.manual_seed(1)
    first = items(dataset, order)
    torch.manual_seed(2)
    second = items(ImageDataset(RealImages(photographs(tmp_path), 3), RANDOM, seed=7), reversed(order))
    assert all((first[key] == second[key]).all() for key in order)
    assert (dataset[1, 2, False]["image"] == first[1, 2, True]).all()  # nor on whether it is counted


def test_epochs_indices_and_seeds_draw_differently(tmp_path):
    one = RealImages(photographs(tmp_path)[:1] * 4, 3)  # the same image at every index
    noise = v2.RandomCrop(4)
    crops = {
        dataset[epoch, index, True]["image"].numpy().tobytes()
        for dataset in (ImageDataset(one, noise, seed) for seed in range(3))
        for epoch in range(3)
        for index in range(4)
    }
    assert len(crops) > 30  # of 36 draws from 17 x 27 places


def test_the_global_generators_are_left_as_they_were(tmp_path):
    dataset = ImageDataset(RealImages(photographs(tmp_path), 3), RANDOM, seed=7)
    before = torch.get_rng_state()
    numbers = np.random.get_state()[1].copy()  # noqa: NPY002
    dataset[0, 0, True]
    assert (torch.get_rng_state() == before).all()
    assert (np.random.get_state()[1] == numbers).all()  # noqa: NPY002

    class Failing(torch.nn.Module):
        def forward(self, image):
            torch.rand(3)
            raise RuntimeError("broken transform")

    with pytest.raises(RuntimeError, match="broken"):
        ImageDataset(dataset.source, Failing(), seed=7)[0, 0, True]
    assert (torch.get_rng_state() == before).all()


def test_the_generators_of_devices_are_not_touched(tmp_path, monkeypatch):
    def touched(seed):
        raise AssertionError("a device was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched)
    ImageDataset(RealImages(photographs(tmp_path), 3), RANDOM, seed=7)[0, 0, True]


def test_the_source_and_the_transform_are_seeded(tmp_path):
    class Noise(RealImages):
        def draw(self, index, rng):
            return rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), one_hot(0, 3)

    dataset = ImageDataset(Noise(photographs(tmp_path), 3), torch.nn.Identity(), seed=0)
    images = [dataset[epoch, index, True]["image"] for epoch in range(2) for index in range(2)]
    assert len({image.numpy().tobytes() for image in images}) == 4
    assert (dataset[1, 1, True]["image"] == images[3]).all()


# --- masks ---------------------------------------------------------------------------------------------------------


def with_masks(folder: Path) -> list[Sample]:
    """Images whose first channel is 255 where their mask is, and 0 elsewhere."""
    samples = []
    for number in range(3):
        mask = np.random.default_rng(number).random((20, 30)) > 0.5
        pixels = np.stack([mask * 255, np.full_like(mask, 40, dtype=int), np.zeros_like(mask, dtype=int)], axis=2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / f"mask-{number}.png")
        samples.append(Sample(f"{number}.png", folder / f"{number}.png", 0, mask=folder / f"mask-{number}.png"))
    return samples


@pytest.mark.parametrize("padding", [0, 6])
def test_masks_follow_their_images(tmp_path, padding):
    moves = torch.nn.Sequential(v2.RandomCrop(16, padding=padding), v2.RandomHorizontalFlip())
    source = RealImages(with_masks(tmp_path), 1)
    dataset, plain = (ImageDataset(source, moves, seed=1, masks=masks) for masks in (True, False))
    for epoch in range(5):
        for index in range(3):
            item = dataset[epoch, index, True]
            assert item["mask"].dtype == torch.bool
            assert torch.equal(item["mask"], item["image"][..., 0] == 255)
            assert torch.equal(item["image"], plain[epoch, index, True]["image"])  # asking changes no image
            assert type(item["image"]) is type(item["mask"]) is torch.Tensor
    assert "mask" not in plain[0, 0, True]


def test_masks_are_resized_without_blending(tmp_path):
    dataset = ImageDataset(RealImages(with_masks(tmp_path), 1), v2.Resize((33, 47), antialias=True), 0, masks=True)
    assert dataset[0, 0, True]["mask"].shape == (33, 47)
    assert dataset[0, 0, True]["mask"].dtype == torch.bool


def test_masks_that_are_not_there_are_refused(tmp_path):
    class View:
        samples, num_classes = (), 1

    still = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"View has none.*makes new images.*another saliency"):
        ImageDataset(View(), still, seed=0, masks=True)
    with pytest.raises(ValueError, match=r"4 of 4 training images have none \(0.png\).*saliency=spectral_residual"):
        ImageDataset(RealImages(photographs(tmp_path), 3), still, seed=0, masks=True)
    with pytest.raises(ValueError, match=r"cannot move as it moves the image.*RandAugment.*transform=standard"):
        ImageDataset(RealImages(with_masks(tmp_path), 1), v2.RandAugment(), seed=0, masks=True)
