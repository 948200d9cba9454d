"""Seconds an image of judging where a network looks, beside the programs that the measures were published with.

    python benchmarks/explain.py                     all of it, on one thread
    python benchmarks/explain.py --only gradcam --device cuda

EfficientNet-Lite0 with its ImageNet weights explains what it predicts on photographs of scikit-image at 224 px, with
Grad-CAM. What is compared takes turns, several rounds; ratios are taken round by round. Wall time and processor time
(of all processes) are both given: on a machine that others use, the second says more about the work, the first about
what several processes bring. Starting processes and loading is not counted.

* ``pic``: AIC and SIC. ``plain`` follows PAIR's ``pic.py`` step by step: one metric a pass, each channel interpolated
  by ``griddata``, the network called with one image, 1,000 interpolations of one number for the curve. ``genaug`` is
  ``InformationCurves``, in one process and with its work done by two others.
* ``insertion``: ``plain`` follows RISE's ``evaluation.py``: one image a call, each step's pixels copied into it. The
  others are ``causal_curve``, at all points or at as few as a tolerance of 0.01 needs.
* ``gradcam``: ``plain`` is pytorch-grad-cam (package ``grad-cam``).
* ``look``: what ``callbacks=explain`` costs, by parts, with the settings of ``conf/explain/default.yaml``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from scipy import interpolate, stats
from torch import Tensor, nn
from torch.nn import functional

from genaug.classifier import Normalize
from genaug.data.base import Dataset, Sample
from genaug.data.reading import read_image
from genaug.data.toybirds import ToyBirds
from genaug.data.transforms import Crop, ResizeCrop
from genaug.explaining.base import Explainer
from genaug.explaining.gradcam import GradCAM
from genaug.explaining.judge import Judge, Network
from genaug.metrics.information_curves import InformationCurves
from genaug.metrics.insertion_deletion import InsertionDeletion, blur, causal_curve, rank_pixels
from genaug.metrics.reconstruction import THRESHOLDS, entropy, processes, random_mask
from genaug.models.tiny import tiny

sys.path.append(str(Path(__file__).resolve().parents[1] / "experiments" / "explain_check"))
from photographs import crop, lite0, read, skimage_photographs  # noqa: E402

LEAST, TOLERANCE, BATCH = 0.5, 0.01, 16
CONSOLE = Console(width=120)


@dataclass(frozen=True)
class Took:
    """Seconds of one round."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Task:
    """What is explained.

    Attributes:
        network: The classifier.
        pixels: ``(N, H, W, 3)`` uint8.
        classes: ``(N,)`` predicted.
        maps: ``(N, H, W)`` of Grad-CAM.
    """

    network: Network
    pixels: Tensor
    classes: Tensor
    maps: Tensor

    @property
    def images(self) -> Tensor:
        """``(N, 3, H, W)``, normalised, on the network's device."""
        return self.network.normalize(self.pixels.to(self.network.device))


def make_task(asked: argparse.Namespace) -> Task:
    """The photographs of which the network is sure: ``plain`` leaves early where it is not."""
    network = lite0(asked.device)
    pixels = torch.from_numpy(read(skimage_photographs().splits()["test"]))
    confidence, classes = network.of_pixels(pixels).max(dim=1)
    sure = (confidence >= LEAST).nonzero().flatten()[: asked.images]
    pixels, classes = pixels[sure.cpu()], classes[sure]
    images = network.normalize(pixels.to(network.device))
    return Task(network, pixels, classes, GradCAM()(network.model, images, classes, range(len(pixels))))


def default_batch(asked: argparse.Namespace) -> int:
    """Images a call of the network: what was asked for, or as many as ``Judge`` takes."""
    return asked.batch or (4 if asked.device == "cpu" else 64)


def processor_seconds() -> float:
    """Of this process and its children, so far."""
    this = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (this, *this.children(recursive=True)))


def take(work: Callable[[], Any], device: str) -> tuple[Any, Took]:
    """Do some work, and time it."""
    if device != "cpu":
        torch.cuda.synchronize()
    wall, processor = time.monotonic(), processor_seconds()
    found = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return found, Took(time.monotonic() - wall, processor_seconds() - processor)


def compare(ways: dict[str, Callable[[], Any]], asked: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Do the same in several ways, in turn: what each found at last, and its rounds."""
    found: dict[str, Any] = {}
    rounds: dict[str, list[Took]] = {name: [] for name in ways}
    for _ in range(asked.rounds):
        for name, work in ways.items():
            found[name], took = take(work, asked.device)
            rounds[name].append(took)
    return found, rounds


def tabulate(title: str, rounds: dict[str, list[Took]], count: int, goals: dict[str, float]) -> None:
    """Print medians, and ratios to the first way."""
    table = Table(title=title, title_justify="left")
    for column in ("", "s/image", "x plain", "s/image of processor time", "x plain", "goal"):
        table.add_column(column, justify="right")
    base = next(iter(rounds.values()))
    for name, all_took in rounds.items():
        cells = []
        for clock in ("wall", "processor"):
            seconds = statistics.median(getattr(one, clock) for one in all_took) / count
            pairs = zip(base, all_took, strict=True)
            ratio = statistics.median(getattr(first, clock) / getattr(one, clock) for first, one in pairs)
            cells += [f"{seconds:.3f}", f"{ratio:.2f}"]
        table.add_row(name, *cells, f"{goals[name]:g}" if name in goals else "")
    CONSOLE.print(table)


# --- AIC and SIC ------------------------------------------------------------------------------------------------------


def plain_reconstruction(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill in what the mask does not tell, channel by channel."""
    known = mask.copy()
    known[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    if known.all():
        return image
    filled = image * known[..., None].astype(np.float32)
    for channel in range(image.shape[2]):
        values, there, missing = image[..., channel], np.argwhere(known), np.argwhere(~known)
        told = interpolate.griddata(there, values[known], missing, method="linear", fill_value=values.mean())
        filled[..., channel][~known] = told
    return np.round(filled).astype(np.uint8)


@torch.no_grad()
def plain_predict(network: Network, image: np.ndarray) -> Tensor:
    """``(1, K)`` probabilities of one image."""
    pixels = torch.from_numpy(image)[None].to(network.device)
    return network.model(network.normalize(pixels)).softmax(dim=1)


def plain_area(
    image: np.ndarray, saliency: np.ndarray, mask: np.ndarray, predict: Callable[[np.ndarray], float]
) -> float | None:
    """Area under one curve of one image, or None where it is skipped."""
    whole, base = entropy(image), plain_reconstruction(image, mask)
    least, best, worst = entropy(base), predict(image), predict(base)
    if best < LEAST or least >= whole or worst >= best:
        return None
    points, highest = [], 0.0
    for threshold in THRESHOLDS:
        told = plain_reconstruction(image, (saliency >= np.quantile(saliency, 1 - threshold)) | mask)
        information = np.clip((entropy(told) - least) / (whole - least), 0, 1)
        highest = max(highest, np.clip((predict(told) - worst) / (best - worst), 0, 1))
        points.append((information, highest))
    curve = interpolate.interp1d(*zip(*points, (0.0, 0.0), (1.0, 1.0), strict=True))
    at = np.linspace(0, 1, 1000, endpoint=False)
    return float(np.trapezoid([*(curve(x) for x in at), 1.0], [*at, 1.0]))


def plain_pic(task: Task) -> dict[str, list[float | None]]:
    """Both metrics one after the other, as the reference program has to be called."""
    areas: dict[str, list[float | None]] = {"sic": [], "aic": []}
    for number, (pixels, label) in enumerate(zip(task.pixels, task.classes.tolist(), strict=True)):

        def confidence(image: np.ndarray, label: int = label) -> float:
            return float(plain_predict(task.network, image)[0, label])

        def right(image: np.ndarray, label: int = label) -> float:
            return float(plain_predict(task.network, image)[0].argmax() == label)

        image, saliency = pixels.numpy(), task.maps[number].cpu().numpy()
        mask = random_mask(*image.shape[:2], seed=number)
        areas["sic"].append(plain_area(image, saliency, mask, confidence))
        areas["aic"].append(plain_area(image, saliency, mask, right))
    return areas


def genaug_pic(task: Task, exact: bool, batch: int, pool: Executor | None) -> dict[str, list[float | None]]:
    """Both metrics from one pass; nothing is known of the images before."""
    metric = InformationCurves(min_prediction=LEAST, exact=exact, batch_size=batch)
    seeds = range(len(task.pixels))
    metric.update(task.network.of_pixels, task.pixels, task.maps, task.classes.tolist(), seeds, pool=pool)
    found = metric.compute()
    return {name: found[name]["per_image"] for name in ("sic", "aic")}


def compare_pic(asked: argparse.Namespace) -> None:
    task, batch = make_task(asked), default_batch(asked)
    with processes(2) as pool:
        _, start = take(lambda: genaug_pic(task, False, batch, pool), asked.device)
        ways: dict[str, Callable[[], Any]] = {"plain": lambda: plain_pic(task)}
        for exact in (True, False):
            name = "exact" if exact else "fast"
            ways[f"genaug, {name}"] = partial(genaug_pic, task, exact, batch, None)
            ways[f"genaug, {name}, 2 workers"] = partial(genaug_pic, task, exact, batch, pool)
        found, rounds = compare(ways, asked)
    title = f"AIC and SIC, {len(task.pixels)} photographs, {asked.device}, median of {asked.rounds} rounds"
    goals = {"exact": 4, "exact, 2 workers": 8, "fast": 9, "fast, 2 workers": 14}
    tabulate(title, rounds, len(task.pixels), {f"genaug, {name}": goal for name, goal in goals.items()})
    for name in list(ways)[1:]:
        both = [
            abs(one - other)
            for metric in ("sic", "aic")
            for one, other in zip(found[name][metric], found["plain"][metric], strict=True)
            if one is not None
        ]
        CONSOLE.print(f"{name}: {len(both)} areas differ by {max(both):.1e} at most, {np.mean(both):.1e} in the mean")
    CONSOLE.print(f"the first call with 2 workers, which starts them: {start.wall:.1f} s")


# --- Insertion --------------------------------------------------------------------------------------------------------


def plain_insertion(task: Task) -> list[float]:
    """One image a call, and each step's pixels copied on the CPU."""
    areas = []
    for image, saliency, label in zip(task.images.cpu(), task.maps, task.classes.tolist(), strict=True):
        shown, finish = blur(image[None])[0].flatten(1).numpy(), image.flatten(1).numpy()
        order, step = rank_pixels(saliency.cpu()).flatten().argsort().numpy(), image.shape[-1]
        scores = []
        for start in range(0, len(order) + 1, step):
            with torch.no_grad():
                now = torch.from_numpy(shown).view(1, *image.shape).to(task.network.device)
                predicted = task.network.model(now).softmax(dim=1)
            torch.topk(predicted, 2)
            scores.append(float(predicted[0, label]))
            told = order[start : start + step]
            shown[:, told] = finish[:, told]
        areas.append(float(np.trapezoid(scores) / (len(scores) - 1)))
    return areas


def genaug_insertion(
    task: Task, tolerance: float | None, batch: int, numbers: Sequence[int] | None = None
) -> list[tuple[float, int, float]]:
    """Area, points measured and bound of each image."""
    images, curves = task.images, []
    for i in range(len(images)) if numbers is None else numbers:
        ranks, label = rank_pixels(task.maps[i]), int(task.classes[i])
        curves.append(
            causal_curve(
                task.network.of_normalized, images[i], ranks, label, "insertion", tolerance=tolerance, batch_size=batch
            )
        )
    return [(curve.area, curve.measured, curve.bound) for curve in curves]


_in_worker: list[Task] = []


def start_worker(asked: argparse.Namespace) -> None:
    """Load the network, once a process."""
    torch.set_num_threads(1)
    _in_worker.append(make_task(asked))


def work(tolerance: float | None, batch: int, numbers: Sequence[int]) -> list[tuple[float, int, float]]:
    """A worker's part of the images."""
    return genaug_insertion(_in_worker[0], tolerance, batch, numbers)


def in_two(pool: Executor, tolerance: float | None, batch: int, count: int) -> list[tuple[float, int, float]]:
    """Every second image in one process, the others in another."""
    parts = [range(first, count, 2) for first in range(2)]
    found = list(pool.map(partial(work, tolerance, batch), parts))
    return [found[number % 2][number // 2] for number in range(count)]


def compare_insertion(asked: argparse.Namespace) -> None:
    task, batch = make_task(asked), default_batch(asked)
    ways: dict[str, Callable[[], Any]] = {"plain": lambda: [(area, 0, 0.0) for area in plain_insertion(task)]}
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=start_worker, initargs=(asked,)) as pool:
        if asked.device == "cpu":
            in_two(pool, TOLERANCE, batch, len(task.pixels))  # starts them
        for name, tolerance in (("all points", None), (f"tolerance {TOLERANCE}", TOLERANCE)):
            ways[f"genaug, {name}"] = partial(genaug_insertion, task, tolerance, batch)
            if asked.device == "cpu":
                ways[f"genaug, {name}, 2 processes"] = partial(in_two, pool, tolerance, batch, len(task.pixels))
        found, rounds = compare(ways, asked)
    title = f"Insertion, {len(task.pixels)} photographs, {asked.device}, median of {asked.rounds} rounds"
    goals = {"genaug, all points": 1.4 if asked.device == "cpu" else 10, f"genaug, tolerance {TOLERANCE}": 4}
    tabulate(title, rounds, len(task.pixels), goals)
    for name in list(ways)[1:]:
        errors = [abs(one[0] - other[0]) for one, other in zip(found[name], found["plain"], strict=True)]
        points = np.mean([one[1] for one in found[name]])
        bound = max(one[2] for one in found[name])
        CONSOLE.print(
            f"{name}: {points:.0f} points, area differs by {np.mean(errors):.1e} in the mean, {max(errors):.1e} at most"
            + (f", largest bound {bound:.4f}" if bound else "")
        )


# --- Grad-CAM ---------------------------------------------------------------------------------------------------------


def compare_gradcam(asked: argparse.Namespace) -> None:
    try:
        from pytorch_grad_cam import GradCAM as PlainCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as missing:
        CONSOLE.print(f"Grad-CAM is not compared: {missing}; pip install '.[bench]' brings pytorch-grad-cam")
        return

    task, ours = make_task(asked), GradCAM()
    model, repeats = task.network.model, -(-BATCH // len(task.pixels))
    images, classes = task.images.repeat(repeats, 1, 1, 1)[:BATCH], task.classes.repeat(repeats)[:BATCH]

    def plain(batch: int) -> np.ndarray:
        maps = []
        with PlainCAM(model=model, target_layers=[model.features]) as cam:
            for part, labels in zip(images.split(batch), classes.split(batch), strict=True):
                maps.append(cam(part, [ClassifierOutputTarget(label) for label in labels.tolist()]))
        return np.concatenate(maps)

    def genaug(batch: int, layout: torch.memory_format = torch.contiguous_format) -> np.ndarray:
        parts = zip(images.contiguous(memory_format=layout).split(batch), classes.split(batch), strict=True)
        return np.concatenate([ours(model, part, labels, [0] * len(part)).cpu().numpy() for part, labels in parts])

    for batch in (1, BATCH):
        ways = {
            "plain": partial(plain, batch),
            "genaug": partial(genaug, batch),
            "genaug, channels last": partial(genaug, batch, torch.channels_last),
        }
        for work in ways.values():
            work()  # finds the layer, and warms up
        found, rounds = compare(ways, asked)
        title = f"Grad-CAM, {batch} image{'s' * (batch > 1)} a call, {asked.device}, median of {asked.rounds} rounds"
        tabulate(title, rounds, BATCH, {"genaug": 4})
        pairs = zip(found["plain"][: len(task.pixels)], found["genaug"], strict=False)
        alike = [stats.spearmanr(one.ravel(), other.ravel()).statistic for one, other in pairs]
        CONSOLE.print(f"rank correlation of the maps: {np.mean(alike):.5f} in the mean, {min(alike):.5f} at least")


# --- A look of the callback -------------------------------------------------------------------------------------------


@contextmanager
def stopwatch(device: str) -> Iterator[dict[str, float]]:
    """Seconds of processor time within the explainer and each measure, from now on."""
    seconds: dict[str, float] = {}

    def timed(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(self: Any, *given: Any, **named: Any) -> Any:
            found, took = take(lambda: call(self, *given, **named), device)
            part = getattr(self, "mode", name)
            seconds[part] = seconds.get(part, 0.0) + took.processor
            return found

        return wrapped

    with (
        mock.patch.object(Explainer, "__call__", timed(Explainer.__call__, "maps")),
        mock.patch.object(InformationCurves, "update", timed(InformationCurves.update, "AIC and SIC")),
        mock.patch.object(InsertionDeletion, "update", timed(InsertionDeletion.update, "")),
    ):
        yield seconds


def trained_tiny(dataset: ToyBirds, shown: Crop, steps: int = 150) -> nn.Module:
    """A network that has learned something, so that its curves are not flat."""
    samples = dataset.splits()["train"]
    view = shown.eval()
    pixels = torch.stack([view(torch.from_numpy(read_image(one.path)).permute(2, 0, 1)) for one in samples])
    pixels, labels = pixels.permute(0, 2, 3, 1), torch.tensor([one.label for one in samples])
    torch.manual_seed(0)
    model, normalize = tiny(num_classes=len(dataset.classes), image_size=64), Normalize(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        chosen = torch.randint(len(samples), (32,))
        loss = functional.cross_entropy(model(normalize(pixels[chosen])), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def looks(asked: argparse.Namespace) -> Iterator[tuple[str, Network, Sequence[Sample], Dataset, Crop]]:
    """What is looked at."""
    photographs = skimage_photographs()
    yield "Lite0, 224 px", lite0(asked.device), photographs.splits()["test"][: asked.images], photographs, crop()
    birds, shown = ToyBirds(asked.cache, image_size=64), ResizeCrop(64)
    network = Network(trained_tiny(birds, shown).to(asked.device), Normalize(3).to(asked.device))
    yield "tiny, 64 px", network, birds.splits()["test"], birds, shown


def measure_look(asked: argparse.Namespace) -> None:
    title = f"A look, {asked.device}, median of {asked.rounds} rounds: seconds of processor time an image"
    table = Table(title=title, title_justify="left")
    parts = ("maps", "AIC and SIC", "insertion", "deletion", "rest", "all")
    for column in ("", "workers", "images", *parts, "wall time"):
        table.add_column(column, justify="right")
    forecasts = []
    for name, network, samples, dataset, shown in looks(asked):
        for workers in (1, 2):
            judge = Judge(GradCAM(), images=32, target="predicted", workers=workers)
            chosen = judge.choose(samples) if isinstance(dataset, ToyBirds) else samples
            rounds: list[dict[str, float]] = []
            with judge.pool() as pool:
                look = partial(judge.look, network, chosen, dataset, shown, pool)
                look()  # starts the workers; blurred images are known from now on
                for _ in range(asked.rounds):
                    with stopwatch(asked.device) as seconds:
                        _, took = take(look, asked.device)
                    rest = took.processor - sum(seconds.values())
                    rounds.append({**seconds, "rest": rest, "all": took.processor, "wall": took.wall})
            cost = {one: statistics.median(each[one] for each in rounds) / len(chosen) for one in rounds[0]}
            cells = [f"{cost[one]:.3f}" for one in (*parts, "wall")]
            table.add_row(name, str(workers), str(len(chosen)), *cells)
            forecasts.append(
                f"32 images every 5 epochs, {name}, {workers} worker{'s' * (workers > 1)}: {32 * cost['all']:.0f} s of "
                f"processor time a look, {32 * cost['all'] / 5:.1f} s an epoch; {32 * cost['wall']:.0f} s of wall time"
            )
    CONSOLE.print(table)
    for forecast in forecasts:
        CONSOLE.print(forecast)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"pic": compare_pic, "insertion": compare_insertion, "gradcam": compare_gradcam, "look": measure_look}
    parser.add_argument("--only", choices=parts)
    parser.add_argument("--images", type=int, default=4, help="photographs at most, of those the network is sure of")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, help="images a call of the network; default: 4 on a CPU, 64 on a GPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the network on a CPU")
    parser.add_argument("--cache", type=Path, default=Path("cache/toybirds"), help="of drawn birds, for the look")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for name, part in parts.items():
        if asked.only in (None, name):
            part(asked)


if __name__ == "__main__":
    main()
