"""Images per second of De-DA's training view, beside plain training and beside the obvious way to write it.

    python benchmarks/online_combination.py --root ../shared/data/cub40

The same photographs with the same crop, each view in a process of its own with one thread, in turn, several rounds.
Speed is per second of processor time, so that other work on the machine counts less; ratios are taken round by round.

* ``vanilla``: decode, crop, flip.
* ``deda``: half of the images are combinations of stored parts (p_aug 0.5, p_mix 0.5).
* ``plain``: the same combinations, each part opened from a PNG, resized and pasted with PIL.
* ``deda p_aug=1`` and ``plain p_aug=1``: combinations only, without the real half that both share.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytorch_lightning as pl
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn
from torchvision.transforms import v2

from genaug.data.cub import CUB
from genaug.data.images import ImageDataset, RealImages
from genaug.data.transforms import ResizeCrop
from genaug.methods.deda import Decouple, OnlineCombination, Parts
from genaug.segmentation.grabcut import GrabCut
from genaug.synthesis.runner import Runner


class PlainCombination:
    """De-DA's combination as one would write it first: open the files, resize, paste, all with PIL."""

    def __init__(self, dataset: CUB, folder: Path, side: int, crop: int, count: int, p_aug: float) -> None:
        self.samples, self.folder, self.count = dataset.splits()["train"][:count], folder, count
        self.transform = v2.Compose([v2.Resize(side), v2.RandomCrop(crop), v2.RandomHorizontalFlip(), v2.PILToTensor()])
        self.side, self.p_aug = side, p_aug

    def __getitem__(self, key: tuple[int, int, bool]) -> torch.Tensor:
        """One training image."""
        _, index, _ = key
        rng = np.random.default_rng(index)
        if rng.random() >= self.p_aug:
            return self.transform(Image.open(self.samples[index].path).convert("RGB"))
        canvas = Image.open(self.folder / f"{rng.integers(self.count)}.cip.png").convert("RGB")
        canvas = v2.functional.resize(canvas, self.side)
        areas = [self._paste(canvas, index, rng)]
        if rng.random() < 0.5:
            areas.append(self._paste(canvas, int(rng.integers(self.count)), rng))
        return self.transform(canvas)

    def _paste(self, canvas: Image.Image, index: int, rng: np.random.Generator) -> int:
        cutout = Image.open(self.folder / f"{index}.cdp.png")
        scale = rng.uniform(0.4, 0.9) * min(canvas.size) / max(cutout.size)
        cutout = cutout.resize((max(1, int(cutout.width * scale)), max(1, int(cutout.height * scale))))
        if rng.random() < 0.5:
            cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        at = tuple(int(rng.integers(room + 1)) for room in (canvas.width - cutout.width, canvas.height - cutout.height))
        canvas.paste(cutout, at, cutout)
        return int((np.asarray(cutout)[..., 3] > 0).sum())


def write_pngs(dataset: CUB, decouple: Decouple, parts: Parts, folder: Path, count: int) -> None:
    """The parts at the photographs' own size, as the obvious version keeps them."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, sample in enumerate(dataset.splits()["train"][:count]):
        image = np.asarray(Image.open(sample.path).convert("RGB"))
        files, _ = decouple.decouple(image, parts.masks[sample.id], min(image.shape[:2]))
        Image.fromarray(files.get("cdp-0.npy", np.zeros((8, 8, 4), np.uint8))).save(folder / f"{index}.cdp.png")
        Image.fromarray(files.get("cip.npy", image)).save(folder / f"{index}.cip.png")


def runner(stores: Path) -> Runner:
    """Offline work on the CPU."""
    return Runner(pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), stores)


def measure(make: Callable[[], Any], count: int, result: Any) -> None:
    """In a fresh process: images per second over one epoch, and memory at its end in MiB."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    data = make()
    for index in range(min(20, count)):
        data[0, index, True]
    started = time.process_time()
    for index in range(count):
        data[1, index, True]
    speed = count / (time.process_time() - started)
    result.put((speed, psutil.Process().memory_info().rss / 2**20))


def vanilla_view(dataset: CUB, crop: ResizeCrop, count: int) -> ImageDataset:
    real = RealImages(dataset.splits()["train"][:count], len(dataset.classes))
    return ImageDataset(real, nn.Sequential(crop.train()), seed=0)


def deda_view(dataset: CUB, crop: ResizeCrop, count: int, stores: Path, p_aug: float) -> ImageDataset:
    samples = dataset.splits()["train"][:count]
    parts = Decouple(GrabCut()).make(samples, dataset, stores, crop.side, runner(stores))
    combined = OnlineCombination(p_aug=p_aug)(RealImages(samples, len(dataset.classes)), parts)
    return ImageDataset(combined, nn.Sequential(crop.train()), seed=0)


def compare(root: str, size: int, count: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Medians of all views at one image size."""
    dataset, crop = CUB(root, image_size=size), ResizeCrop(size)
    decouple = Decouple(GrabCut())
    parts = decouple.make(dataset.splits()["train"][:count], dataset, folder, crop.side, runner(folder))
    write_pngs(dataset, decouple, parts, folder / "png", count)
    views: dict[str, Callable[[], Any]] = {"vanilla": partial(vanilla_view, dataset, crop, count)}
    for p_aug, name in ((0.5, ""), (1.0, " p_aug=1")):
        views[f"deda{name}"] = partial(deda_view, dataset, crop, count, folder, p_aug)
        views[f"plain{name}"] = partial(PlainCombination, dataset, folder / "png", crop.side, size, count, p_aug)
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in views}
    context = multiprocessing.get_context("spawn")
    for _ in range(rounds):
        for name, make in views.items():
            result = context.Queue()
            process = context.Process(target=measure, args=(make, count, result))
            process.start()
            runs[name].append(result.get())
            process.join()
    return [
        {
            "size": size,
            "view": name,
            "images/s": round(statistics.median(speed for speed, _ in values), 1),
            "MiB": round(max(memory for _, memory in values)),
            "x vanilla": ratio(values, runs["vanilla"]),
            "x plain": ratio(values, runs["plain p_aug=1" if "p_aug=1" in name else "plain"]),
        }
        for name, values in runs.items()
    ]


def ratio(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> float:
    """Median over rounds of the ratio of neighbours in time: the machine's drift cancels."""
    return round(statistics.median(one[0] / other[0] for one, other in zip(a, b, strict=True)), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="../shared/data/cub40", help="a folder in CUB-200-2011's layout")
    parser.add_argument("--count", type=int, default=300, help="photographs in an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 448])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for size in asked.sizes
            for row in compare(asked.root, size, asked.count, asked.rounds, Path(folder) / str(size))
        ]
    table = Table(title=f"{asked.count} photographs, one thread, median of {asked.rounds} rounds", title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
