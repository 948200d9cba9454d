"""Images per second of the training loader, beside torchvision's ImageFolder with the same transforms; and its memory.

    python benchmarks/loading.py --root ../shared/data/scenes8

The same photographs, batches and loader processes, each side in a process of its own, in turn, several rounds;
ratios are taken round by round, so that the machine's drift cancels.

* ``ImageFolder``: torchvision's, its transforms on PIL images; ``ImageFolder, tensors``: on tensors.
* ``genaug``: what ``run.py`` trains from.   * ``genaug, cache``: with ``loader.cache=true``, in its second epoch.

Then the memory that a loader process does not share with its parent, in the course of an epoch of 100,000 entries, for
samples as they are kept (:class:`genaug.data.packed.PackedSamples`) and for an ordinary list of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import queue
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from genaug.data.base import Sample
from genaug.data.datamodule import DataModule
from genaug.data.folder import Folder
from genaug.data.images import ImageDataset, KeySampler, RealImages
from genaug.data.transforms import Crop, RandomResizedCrop, ResizeCrop

SIDE, BATCH = 224, 32
CROPS: dict[str, Crop] = {"resize_crop": ResizeCrop(SIDE), "random_resized_crop": RandomResizedCrop(SIDE)}


def torchvision_loader(root: str, crop: str, workers: int, tensors: bool) -> DataLoader:
    """What a user writes without this project."""
    steps = [CROPS[crop].train()]
    transform = v2.Compose([v2.PILToTensor(), *steps] if tensors else [*steps, v2.PILToTensor()])
    return DataLoader(
        ImageFolder(root, transform),
        BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
    )


def genaug_loader(root: str, crop: str, workers: int, cache: Path | None) -> DataLoader:
    """What ``run.py`` trains from."""
    dataset = Folder(root, "scene", image_size=SIDE, test_fraction=0.01)
    splits = dataset.splits()
    everything = [*splits["train"], *splits["test"]]
    module = DataModule(
        dataset,
        {"train": everything, "test": splits["test"]},
        CROPS[crop],
        nn.Identity(),
        BATCH,
        seed=0,
        num_workers=workers,
        cache=cache,
    )
    return module.train_dataloader()


def measure(make: Callable[[], DataLoader], epochs: int, result: Any) -> None:
    """In a fresh process: images per second, the first epoch apart, in which processes start and caches fill."""
    torch.set_num_threads(1)
    loader = make()
    for _ in loader:
        pass
    started, images = time.perf_counter(), 0
    for _ in range(epochs):
        images += sum(len(batch["image"] if isinstance(batch, dict) else batch[0]) for batch in loader)
    result.put(images / (time.perf_counter() - started))


def in_process(task: Callable[..., None], *arguments: Any) -> Any:
    """What ``task`` puts into its last argument."""
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=task, args=(*arguments, result))
    process.start()
    while True:
        try:
            value = result.get(timeout=1)
            break
        except queue.Empty:
            if process.exitcode is not None:
                raise RuntimeError(f"a measuring process ended with {process.exitcode}") from None
    process.join()
    return value


def speeds(root: str, crop: str, workers: int, epochs: int, rounds: int) -> Iterator[list[str]]:
    """A row for each side."""
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "ImageFolder": partial(torchvision_loader, root, crop, workers, False),
            "ImageFolder, tensors": partial(torchvision_loader, root, crop, workers, True),
            "genaug": partial(genaug_loader, root, crop, workers, None),
            "genaug, cache": partial(genaug_loader, root, crop, workers, Path(folder)),
        }
        found: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, make in sides.items():
                found[name].append(in_process(measure, make, epochs))
    for name, values in found.items():
        ratios = [
            statistics.median(one / other for one, other in zip(values, found[base], strict=True))
            for base in ("ImageFolder", "ImageFolder, tensors")
        ]
        yield [crop, str(workers), name, f"{statistics.median(values):.0f}", *(f"{ratio:.2f}" for ratio in ratios)]


class ListedImages(RealImages):
    """Real images whose samples are an ordinary list, for comparison."""

    def __init__(self, samples: list[Sample], num_classes: int) -> None:
        super().__init__([], num_classes)
        self.samples = samples


def own_memory(process: psutil.Process) -> float:
    """MiB that a process shares with no other."""
    return process.memory_full_info().uss / 2**20


def memory(packed: bool, entries: int, result: Any) -> None:
    """In a fresh process: a loader process's own memory at ten points of an epoch."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.png")
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
        sample = Sample("a.png", file, 0)
        # Each with a path of its own, as real samples have.
        samples = [
            replace(sample, id=f"train/{i:06}.png", path=Path(folder, ".", f"{i:06}.png")) for i in range(entries)
        ]
        for one in samples:
            one.path.symlink_to(file)
        real = RealImages(samples, 2) if packed else ListedImages(samples, 2)
        if packed:
            del samples
        loader = DataLoader(
            ImageDataset(real, v2.Identity(), seed=0), 250, sampler=KeySampler(entries, 0), num_workers=1
        )
        points = []
        every = len(loader) // 10
        for number, _ in enumerate(loader):
            if number % every == every - 1:
                points.append(own_memory(psutil.Process().children()[0]))
        result.put(points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="../shared/data/scenes8", help="photographs, one folder a class")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="loader processes")
    parser.add_argument("--epochs", type=int, default=4, help="of the photographs, in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--entries", type=int, default=100_000, help="of the epoch in which memory is looked at")
    asked = parser.parse_args()
    table = Table(title=f"{SIDE} px, batches of {BATCH}, median of {asked.rounds} rounds", title_justify="left")
    for name in ("crop", "workers", "loader", "images/s", "x ImageFolder", "x on tensors"):
        table.add_column(name, justify="left" if name in ("crop", "loader") else "right")
    for crop in CROPS:
        for workers in asked.workers:
            for row in speeds(asked.root, crop, workers, asked.epochs, asked.rounds):
                table.add_row(*row)
    Console(width=110).print(table)
    table = Table(title=f"MiB of a loader process alone, along {asked.entries:,} entries", title_justify="left")
    for name in ("samples", *(f"{10 * tenth} %" for tenth in range(1, 11))):
        table.add_column(name, justify="right")
    for name, packed in (("packed", True), ("a list", False)):
        table.add_row(name, *(f"{value:.0f}" for value in in_process(memory, packed, asked.entries)))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
