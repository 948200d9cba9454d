"""Splits as data loaders, one batch contract for every dataset and method."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from genaug.data.base import Dataset, Sample
from genaug.data.decoded import DecodedImages
from genaug.data.images import ImageDataset, KeySampler, RealImages, Source
from genaug.data.subsets import hold_out
from genaug.data.transforms import Crop

PROTOCOLS = ("heldout", "last", "paper")


def choose_splits(
    splits: Mapping[str, Sequence[Sample]], protocol: str, fraction: float, seed: int
) -> dict[str, Sequence[Sample]]:
    """The splits of a run: ``train``, ``val`` (what the checkpoint is chosen on), ``test`` and every ``ood_*``.

    Args:
        splits: As the dataset gives them.
        protocol: ``heldout``: ``val`` is the dataset's own, or ``fraction`` of train. ``last``: no ``val``, the last
            weights count. ``paper``: ``val`` is the test split, as many papers do; labelled so in the results.
        fraction: Share of train to hold out.
        seed: Of the held-out draw.

    Raises:
        ValueError: a needed split is missing or empty, or the protocol is unknown.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is not known: choose one of {', '.join(PROTOCOLS)}.")
    for name in ("train", "test"):
        if not splits.get(name):
            raise ValueError(f"The dataset has no images in its {name!r} split; it has {sorted(splits)}.")
    chosen = dict(splits)
    if protocol == "last":
        chosen.pop("val", None)
    elif protocol == "paper":
        chosen["val"] = splits["test"]
    elif not chosen.get("val"):
        chosen["train"], chosen["val"] = hold_out(splits["train"], fraction, seed)
    return chosen


def test_names(splits: Iterable[str]) -> list[str]:
    """Names of the splits that are tested on: ``test``, then every ``ood_*``.

    >>> test_names(["ood_snow", "train", "test", "val"])
    ['test', 'ood_snow']
    """
    return ["test", *sorted(name for name in splits if name.startswith("ood_"))]


class DataModule(pl.LightningDataModule):
    """Loaders whose batches are dictionaries of tensors (see :class:`genaug.data.images.ImageDataset`).

    Args:
        dataset: For classes and channels.
        splits: From :func:`choose_splits`.
        crop: The recipe's geometry.
        transform: Follows the crop in training only.
        batch_size: Images per optimizer step over all processes.
        seed: Names order and augmentation.
        view: What a method makes of the real training images; ``None`` leaves them as they are.
        num_workers: Per process; ``None`` chooses for the machine.
        epoch_images: Images of an epoch, drawn anew in each; ``None`` goes through all that the view has.
        masks: Whether training batches hold the ground-truth masks of their images.
        cache: Folder where decoded images are kept; ``None`` decodes each file every time.

    Raises:
        ValueError: the batch size cannot be shared out evenly among the processes, or the disk has no room
            for ``cache``.
    """

    def __init__(
        self,
        dataset: Dataset,
        splits: Mapping[str, Sequence[Sample]],
        crop: Crop,
        transform: torch.nn.Module,
        batch_size: int,
        seed: int,
        view: Callable[[RealImages], Source] | None = None,
        num_workers: int | None = None,
        epoch_images: int | None = None,
        masks: bool = False,
        cache: Path | None = None,
    ) -> None:
        super().__init__()
        self.dataset, self.splits, self.crop = dataset, splits, crop
        self.transform, self.batch_size, self.seed, self.num_workers = transform, batch_size, seed, num_workers
        self.masks = masks
        self.decoded = None if cache is None else DecodedImages(cache, crop.first(), dataset.channels)
        if self.decoded is not None:
            self.decoded.check_room([sample for samples in splits.values() for sample in samples])
        real = self._real("train")
        self.train_source: Source = view(real) if view else real
        self.epoch_images = min(epoch_images or len(self.train_source), len(self.train_source))
        self.test_names = test_names(splits)

    def _real(self, split: str) -> RealImages:
        return RealImages(self.splits[split], len(self.dataset.classes), self.dataset.channels, self.decoded)

    def _loader(self, data: ImageDataset, seed: int | None, epoch: int = 0) -> DataLoader:
        world = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        if self.batch_size % world:
            raise ValueError(f"batch_size={self.batch_size} cannot be shared by {world} processes: take a multiple.")
        per_process = self.batch_size // world
        workers = default_workers() if self.num_workers is None else self.num_workers
        training, count = seed is not None, None
        if training:
            count = self.epoch_images
            if count >= self.batch_size:
                # A last partial batch would weigh its few images more; a set smaller than one batch is kept. Not left
                # to drop_last: each process would fill up its share first, and more of them could make one more batch.
                count = count // self.batch_size * self.batch_size
        return DataLoader(
            data,
            batch_size=per_process,
            sampler=KeySampler(len(data), seed, rank, world, count, epoch),
            num_workers=workers,
            persistent_workers=workers > 0 and training,
            pin_memory=torch.cuda.is_available(),
        )

    def train_dataset(self) -> ImageDataset:
        """What training draws from: the view's images, augmented."""
        transform = torch.nn.Sequential(self.crop.train(), self.transform)
        return ImageDataset(self.train_source, transform, self.seed, self.masks)

    def train_dataloader(self) -> DataLoader:
        """Shuffled, augmented, through the method's view."""
        data = self.train_dataset()
        # Lightning names the epoch when it begins; after a resume the loader's processes have drawn ahead by then.
        progress: Any = self.trainer.fit_loop.epoch_progress.current if self.trainer else None
        return self._loader(data, self.seed, epoch=progress.processed if progress else 0)

    def _eval_loader(self, split: str) -> DataLoader:
        return self._loader(ImageDataset(self._real(split), self.crop.eval(), self.seed), None)

    def val_dataloader(self) -> list[DataLoader]:
        """The split the checkpoint is chosen on; none with ``protocol=last``."""
        return [self._eval_loader("val")] if "val" in self.splits else []

    def test_dataloader(self) -> list[DataLoader]:
        """``test`` and every ``ood_*``, in the order of :attr:`test_names`."""
        return [self._eval_loader(name) for name in self.test_names]


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Loader processes that leave the CPU to the network where it trains on the CPU."""
    return min(8, cores() - 1) if torch.cuda.is_available() else min(1, cores() - 1)


def network_threads(num_workers: int | None) -> int:
    """Threads for a network on the CPU beside ``num_workers`` loader processes.

    A thread that waits for a processor makes all others wait with it: a step then takes several times as long.
    """
    return max(1, cores() - (default_workers() if num_workers is None else num_workers))
