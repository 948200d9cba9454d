from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from genaug.data.base import Dataset, Sample
from genaug.data.datamodule import PROTOCOLS, DataModule, choose_splits, default_workers, network_threads
from genaug.data.subsets import hold_out
from genaug.data.transforms import SquashCrop


def samples(prefix: str, count: int) -> list[Sample]:
    return [Sample(f"{prefix}/{i:02}.png", Path(f"{prefix}-{i:02}.png"), i % 2) for i in range(count)]


SPLITS = {"train": samples("train", 20), "test": samples("test", 6), "ood_snow": samples("snow", 4)}
WITH_VAL = SPLITS | {"val": samples("val", 3)}

# --- the splits of a run -------------------------------------------------------------------------------------------


def test_heldout_takes_a_part_of_train():
    chosen = choose_splits(SPLITS, "heldout", 0.2, seed=5)
    assert (chosen["train"], chosen["val"]) == hold_out(SPLITS["train"], 0.2, 5)
    assert len(chosen["val"]) == 4
    assert {s.id for s in chosen["train"]} | {s.id for s in chosen["val"]} == {s.id for s in SPLITS["train"]}
    assert (chosen["test"], chosen["ood_snow"]) == (SPLITS["test"], SPLITS["ood_snow"])
    assert choose_splits(SPLITS, "heldout", 0.2, seed=6)["val"] != chosen["val"]


def test_heldout_prefers_the_datasets_own_val():
    assert choose_splits(WITH_VAL, "heldout", 0.2, seed=0) == WITH_VAL
    assert len(choose_splits(WITH_VAL | {"val": []}, "heldout", 0.2, seed=0)["val"]) == 4


def test_last_holds_nothing_out():
    assert choose_splits(SPLITS, "last", 0.2, seed=0) == SPLITS
    assert choose_splits(WITH_VAL, "last", 0.2, seed=0) == SPLITS


def test_paper_looks_at_the_test_split():
    chosen = choose_splits(WITH_VAL, "paper", 0.2, seed=0)
    assert chosen["val"] == chosen["test"] == SPLITS["test"]
    assert chosen["train"] == SPLITS["train"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_datasets_splits_are_not_changed(protocol):
    given = dict(WITH_VAL)
    choose_splits(given, protocol, 0.2, seed=0)
    assert given == WITH_VAL
    assert len(given["train"]) == 20


@pytest.mark.parametrize(
    ("splits", "protocol", "fraction", "message"),
    [
        (SPLITS, "best", 0.1, "protocol='best' is not known: choose one of heldout, last, paper"),
        ({"test": SPLITS["test"]}, "last", 0.1, "no images in its 'train' split; it has .'test'."),
        (SPLITS | {"test": []}, "last", 0.1, "no images in its 'test' split"),
        (SPLITS, "heldout", 1.5, "between 0 and 1"),
        (SPLITS | {"train": samples("train", 1)}, "heldout", 0.1, "Nothing can be held out of 1 images"),
    ],
)
def test_splits_that_cannot_be_are_refused(splits, protocol, fraction, message):
    with pytest.raises(ValueError, match=message):
        choose_splits(splits, protocol, fraction, seed=0)


# --- the loaders ---------------------------------------------------------------------------------------------------


class Numbers(Dataset):
    """Image i of a split is i everywhere."""

    name, superclass, image_size, classes = "numbers", "number", 8, ("even", "odd")

    def __init__(self, folder: Path, **sizes: int) -> None:
        self.folder, self.sizes = folder, sizes

    def splits(self):
        return {split: [self._sample(split, i) for i in range(size)] for split, size in self.sizes.items()}

    def _sample(self, split: str, i: int) -> Sample:
        path = self.folder / f"{split}-{i:02}.png"
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(path)
        return Sample(path.name, path, i % 2)


def module(folder: Path, batch_size: int = 4, seed: int = 0, view=None, **sizes: int) -> DataModule:
    dataset = Numbers(folder, **(sizes or {"train": 10, "val": 3, "test": 5, "ood_b": 2, "ood_a": 2}))
    crop = SquashCrop(8, ratio=1.0, padding=0, flip=0.0)
    return DataModule(dataset, dataset.splits(), crop, nn.Identity(), batch_size, seed, view=view, num_workers=0)


def in_process(data: DataModule, rank: int, world: int) -> DataModule:
    progress = SimpleNamespace(current=SimpleNamespace(processed=0))
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world, fit_loop=SimpleNamespace(epoch_progress=progress)
    )
    return data


def indices(loader, epoch: int = 0) -> list[list[int]]:
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    for batch in batches:  # each image is the one its index says
        assert (batch["image"].flatten(1).float().mean(1) == batch["index"]).all()
        assert (batch["target"].argmax(1) == batch["index"] % 2).all()
    return [batch["index"].tolist() for batch in batches]


def test_training_batches_are_whole_shuffled_and_named_by_the_epoch(tmp_path):
    data = module(tmp_path)
    first = indices(data.train_dataloader(), epoch=0)
    assert [len(batch) for batch in first] == [4, 4]  # two of ten images have to wait
    assert len(set(sum(first, []))) == 8
    assert indices(data.train_dataloader(), epoch=0) == first
    assert indices(data.train_dataloader(), epoch=1) != first
    assert indices(module(tmp_path, seed=1).train_dataloader(), epoch=0) != first


def test_a_set_smaller_than_a_batch_is_trained_on(tmp_path):
    assert [sorted(batch) for batch in indices(module(tmp_path, batch_size=16).train_dataloader())] == [list(range(10))]


@pytest.mark.parametrize("size", range(4, 14))
@pytest.mark.parametrize("world", [2, 4])
def test_processes_take_equal_shares_of_the_same_batches(tmp_path, size, world):
    def batches(rank, world):
        return indices(in_process(module(tmp_path, train=size, test=1), rank, world).train_dataloader(), epoch=2)

    alone = batches(0, 1)
    shares = [batches(rank, world) for rank in range(world)]
    assert len(alone) == size // 4
    assert [sorted(sum(parts, [])) for parts in zip(*shares, strict=True)] == [sorted(batch) for batch in alone]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_each_image_once_in_order(tmp_path, world):
    seen = []
    for rank in range(world):
        data = in_process(module(tmp_path, batch_size=6), rank, world)
        (loader,) = data.val_dataloader()
        for batch in loader:
            seen += batch["index"][batch["valid"]].tolist()
    assert sorted(seen) == [0, 1, 2]
    if world == 1:
        assert seen == [0, 1, 2]


def test_test_loaders_are_test_and_every_ood_split(tmp_path):
    data = module(tmp_path)
    assert data.test_names == ["test", "ood_a", "ood_b"]
    assert [sum(len(batch["index"]) for batch in loader) for loader in data.test_dataloader()] == [5, 2, 2]
    assert module(tmp_path, train=4, test=2).val_dataloader() == []


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size=4 cannot be shared by 3 processes: take a multiple"):
        in_process(module(tmp_path), 0, 3).train_dataloader()


def test_the_view_and_the_transform_are_for_training_only(tmp_path):
    class Inverted:
        def __init__(self, real):
            self.real, self.samples, self.num_classes = real, real.samples, real.num_classes

        def __len__(self):
            return len(self.real)

        def draw(self, index, rng):
            image, label = self.real.draw(index, rng)
            return 255 - image, label

    data = module(tmp_path, view=Inverted)
    data.transform = nn.Hardtanh(0, 250)
    assert list(data.train_source.samples) == data.splits["train"]
    batch = next(iter(data.train_dataloader()))
    assert (batch["image"][:, 0, 0, 0] == (255 - batch["index"]).clamp(max=250)).all()
    for loader in (*data.val_dataloader(), *data.test_dataloader()):
        indices(loader)


def test_masks_come_with_training_batches_only(tmp_path):
    data = module(tmp_path)
    assert "mask" not in next(iter(data.train_dataloader()))
    mask = tmp_path / "mask.png"
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(mask)
    data.splits["train"] = [replace(sample, mask=mask) for sample in data.splits["train"]]
    masked = DataModule(data.dataset, data.splits, data.crop, nn.Identity(), 4, 0, num_workers=0, masks=True)
    assert torch.equal(next(iter(masked.train_dataloader()))["mask"], torch.eye(8).bool().expand(4, -1, -1))
    assert "mask" not in next(iter(masked.val_dataloader()[0]))


class Tripled:
    """A view that adds two images to each real one."""

    def __init__(self, real):
        self.real, self.samples, self.num_classes = real, list(real.samples) * 3, real.num_classes

    def __len__(self):
        return 3 * len(self.real)

    def draw(self, index, rng):
        return self.real.draw(index % len(self.real), rng)


def test_an_epoch_can_be_as_long_as_without_what_a_view_adds(tmp_path):
    """Equal steps, looks and checkpoints for every method; over the epochs all images have their turn."""
    data = module(tmp_path, view=Tripled)
    real = len(data.splits["train"])
    data.epoch_images = real
    sampler = data.train_dataloader().sampler
    epochs = []
    for epoch in range(30):
        sampler.set_epoch(epoch)
        epochs.append([index for _, index, _ in sampler])
    assert {len(epoch) for epoch in epochs} == {real // data.batch_size * data.batch_size}
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    assert set().union(*epochs) == set(range(3 * real))
    assert (
        len(module(tmp_path, view=Tripled).train_dataloader().sampler) == 3 * real // data.batch_size * data.batch_size
    )


# --- workers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "gpu", "expected"),
    # One core is left to the process that trains; on a CPU the network needs the rest too.
    [(1, False, 0), (2, False, 1), (16, False, 1), (1, True, 0), (2, True, 1), (6, True, 5), (64, True, 8)],
)
def test_default_workers(monkeypatch, cores, gpu, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert default_workers() == expected


def test_default_workers_where_no_affinity_is_known(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_workers() == 0


@pytest.mark.parametrize(("cores", "workers", "threads"), [(2, 1, 1), (8, 3, 5), (1, 0, 1), (2, 4, 1), (4, None, 3)])
def test_the_network_gets_what_the_loader_leaves(cores, workers, threads, monkeypatch):
    monkeypatch.setattr("genaug.data.datamodule.cores", lambda: cores)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert network_threads(workers) == threads
