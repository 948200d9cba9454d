"""Milliseconds that mixing a batch takes, beside the published ways to compute it and beside other libraries.

    python benchmarks/mixing.py                          one thread
    OMP_WAIT_POLICY=passive python benchmarks/mixing.py --threads 2      threads that wait do not count as working
    python benchmarks/mixing.py --device cuda            also: share of a ResNet-50 training step at batch 64

``plain`` is each paper's formula computed as its published code does, written out here from descriptions: dense one-hot
transport (PuzzleMix), a product of all results by all images (Co-Mixup), differences of all pairs of maps and a loop
over pairs (GuidedMixup), a loop over samples (SnapMix and everything per sample), and OpenCV's saliency where
``cv2.saliency`` exists, elsewhere the same in NumPy (SaliencyMix). Both sides get the same draws, so that results can
be compared; the graph cuts, and Co-Mixup's rounds of them, are genaug's own on both. Libraries draw for themselves,
and timm mixes in place.

Images are smooth blobs and the given saliency maps have one object each: on noise some mixers have nothing to do.
Contenders take turns in one process. ``ms`` is processor time of all threads, so that other work on the machine counts
less (on a GPU: wall time); ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import count, islice

import cv2
import numpy as np
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from timm.data.mixup import Mixup as TimmMixup
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from genaug.functional.boxes import boxes_around, share_outside
from genaug.functional.graph_cut import minimise
from genaug.mixing.base import Context, Mixer, draw_lam, draw_pairing
from genaug.mixing.comixup import CoMixup
from genaug.mixing.cutmix import CutMix
from genaug.mixing.guided import GuidedMix
from genaug.mixing.mixup import MixUp
from genaug.mixing.puzzlemix import PuzzleMix, largest_patch, mask_energy
from genaug.mixing.saliencymix import SaliencyMix
from genaug.mixing.snapmix import SnapMix
from genaug.saliency.base import Saliency
from genaug.saliency.fine_grained import FineGrained
from genaug.saliency.spectral_residual import SpectralResidual

CLASSES = 200
#: Calls of a contender in a round, and milliseconds after which there is no further one.
CALLS, ENOUGH = 20, 500.0
#: The images' normalisation (ImageNet's).
MEAN, STD = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
#: Bytes that copies of a transport plan may take at a time.
MOST_BYTES = 4e9

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Batch:
    """What is mixed.

    Attributes:
        images: ``(B, 3, H, W)``, normalised.
        labels: ``(B,)`` integers.
        maps: ``(B, H, W)`` saliency, for mixers that are given it.
    """

    images: Tensor
    labels: Tensor
    maps: Tensor

    @property
    def targets(self) -> Tensor:
        """One-hot rows."""
        return F.one_hot(self.labels, CLASSES).float()


class Given(Saliency):
    """Maps that are there already."""

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps

    def __call__(self, images: Tensor, targets: Tensor, context: Context) -> Tensor:
        """Return them."""
        return self.maps


def make_batch(size: int, batch: int, device: str) -> Batch:
    """Smooth blobs with a little noise, and maps of one Gaussian object each."""
    numbers = torch.Generator().manual_seed(0)
    blobs = F.interpolate(torch.randn(batch, 3, 7, 7, generator=numbers), (size, size), mode="bicubic")
    images = blobs + 0.02 * torch.randn(batch, 3, size, size, generator=numbers)
    y, x = (torch.rand(2, batch, 1, 1, generator=numbers) * 0.8 + 0.1) * size
    at = torch.arange(size)
    maps = torch.exp(-((at[:, None] - y) ** 2 + (at - x) ** 2) / (2 * (size / 8) ** 2))
    maps += 0.02 * torch.rand(maps.shape, generator=numbers)
    labels = torch.randint(CLASSES, (batch,), generator=numbers)
    return Batch(images.to(device), labels.to(device), maps.to(device))


def plain_mixup(mixer: MixUp, batch: Batch, generator: torch.Generator) -> Pair:
    pairing, lam = mixer.draw(len(batch.images), generator)
    weight = lam.to(batch.images).view(-1, 1, 1, 1)
    mixed = weight * batch.images + (1 - weight) * batch.images[pairing]
    return mixed, plain_targets(batch.targets, pairing, lam)


def plain_targets(targets: Tensor, pairing: Tensor, lam: Tensor) -> Tensor:
    lam = lam.to(targets).view(-1, 1)
    return lam * targets + (1 - lam) * targets[pairing]


def plain_cutmix(mixer: CutMix, batch: Batch, generator: torch.Generator) -> Pair:
    height, width = batch.images.shape[-2:]
    pairing, lam, centres = mixer.draw(len(batch.images), height, width, generator)
    return plain_pasted(batch, pairing, boxes_around(centres, lam, height, width))


def plain_pasted(batch: Batch, pairing: Tensor, boxes: Tensor) -> Pair:
    """Paste one box into all images, or into each its own."""
    mixed = batch.images.clone()
    if len(boxes) == 1:
        y1, x1, y2, x2 = boxes[0].tolist()
        mixed[:, :, y1:y2, x1:x2] = batch.images[pairing][:, :, y1:y2, x1:x2]
    else:
        for i, (y1, x1, y2, x2) in enumerate(boxes.tolist()):
            mixed[i, :, y1:y2, x1:x2] = batch.images[pairing[i], :, y1:y2, x1:x2]
    return mixed, plain_targets(batch.targets, pairing, share_outside(boxes, *mixed.shape[-2:]))


def plain_saliencymix(mixer: SaliencyMix, batch: Batch, generator: torch.Generator) -> Pair:
    """A map of one image at a time, of the first partner alone or of all."""
    size, (height, width) = len(batch.images), batch.images.shape[-2:]
    pairing = draw_pairing(mixer.pairing, size, generator)
    lam = draw_lam(mixer.alpha, mixer.p, size if mixer.per_sample else 1, generator)
    looked_at = pairing[:1] if mixer.saliency_of == "first" else pairing
    if isinstance(mixer.saliency, FineGrained):
        maps = [fine_grained(batch.images[i], mixer.saliency) for i in looked_at]
    else:
        maps = [batch.maps[i].cpu().numpy() for i in looked_at]
    centres = torch.tensor(np.array([np.unravel_index(one.argmax(), one.shape) for one in maps]))
    return plain_pasted(batch, pairing, boxes_around(centres, lam, height, width))


def fine_grained(image: Tensor, like: FineGrained) -> np.ndarray:
    """OpenCV's map of one normalised image, as SaliencyMix's code asks for it; without it, the formula in NumPy."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    if hasattr(cv2, "saliency"):
        _, found = cv2.saliency.StaticSaliencyFineGrained_create().computeSaliency(pixels)
        return (found * 255).astype(np.uint8)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    for _ in range(2):
        grey = cv2.GaussianBlur(grey, (3, 3), 0)
    sums, on, off = cv2.integral(grey), np.zeros(grey.shape), np.zeros(grey.shape)
    at_y, at_x = np.arange(grey.shape[0])[:, None], np.arange(grey.shape[1])
    for scale in like.scales:
        top, bottom = np.maximum(at_y - scale, 0), np.minimum(at_y + scale + 1, grey.shape[0])
        left, right = np.maximum(at_x - scale, 0), np.minimum(at_x + scale + 1, grey.shape[1])
        total = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        contrast = grey - (total - grey) / ((bottom - top) * (right - left) - 1)
        on += np.maximum(contrast, 0)
        off += np.maximum(-contrast, 0)
    return on / on.max() + off / off.max() if like.stretch else on + off


def plain_snapmix(mixer: SnapMix, batch: Batch, generator: torch.Generator) -> Pair:
    """Crop, resize and paste sample by sample."""
    images, targets, size = batch.images, batch.targets, len(batch.images)
    pairing, into, cut = mixer.draw(size, *images.shape[-2:], generator)
    shares = batch.maps / batch.maps.sum(dim=(1, 2), keepdim=True)
    mixed, labels = images.clone(), []
    boxes = zip(into.expand(size, 4).tolist(), cut.expand(size, 4).tolist(), strict=True)
    for i, ((y1, x1, y2, x2), (top, left, bottom, right)) in enumerate(boxes):
        j = pairing[i]
        if y2 > y1 and x2 > x1:
            crop = images[j : j + 1, :, top:bottom, left:right]
            resized = F.interpolate(crop, (y2 - y1, x2 - x1), mode="bilinear", align_corners=True)
            mixed[i, :, y1:y2, x1:x2] = resized[0]
        own, other = 1 - shares[i, y1:y2, x1:x2].sum(), shares[j, top:bottom, left:right].sum()
        labels.append(own * targets[i] + other * targets[j])
    return mixed, torch.stack(labels)


def plain_guided(mixer: GuidedMix, batch: Batch, generator: torch.Generator) -> Pair:
    """Differences of all pairs of maps at once; images mixed pair by pair."""
    images, targets = batch.images, batch.targets
    maps = spectral_residual(images) if isinstance(mixer.saliency, SpectralResidual) else batch.maps
    maps = v2.functional.gaussian_blur(maps[:, None], [7, 7], [3.0, 3.0])[:, 0]
    maps = maps / maps.sum(dim=(1, 2), keepdim=True)
    distances = (maps[:, None] - maps[None]).square().sum(dim=(2, 3)).sqrt()
    mixed, labels = torch.empty_like(images), torch.empty_like(targets)
    for i, j in tour(distances.cpu()):
        own = maps[i] / (maps[i] + maps[j])
        mixed[i] = own * images[i] + (1 - own) * images[j]
        labels[i] = own.mean() * targets[i] + (1 - own).mean() * targets[j]
    return mixed, labels


def tour(distances: Tensor) -> Iterable[tuple[int, int]]:
    """From the two that are farthest apart always on to the farthest not yet visited, and back to the start."""
    size = len(distances)
    start = here = int(distances.argmax()) // size
    left = set(range(size)) - {start}
    while left:
        best = max(left, key=lambda other: float(distances[here, other]))
        yield here, best
        left.remove(best)
        here = best
    yield here, start


def spectral_residual(images: Tensor) -> Tensor:
    """Grey, at most 128 pixels, logarithm of the spectrum less its mean over 3 x 3, back, blurred, resized."""
    size = images.shape[-2:]
    grey = v2.functional.rgb_to_grayscale(images)
    if max(size) > 128:
        grey = v2.functional.resize(grey, [128, 128], antialias=True)
    spectrum = torch.fft.fft2(grey)
    level, phase = spectrum.abs().log(), spectrum.angle()
    box = torch.full((1, 1, 3, 3), 1 / 9, device=images.device)
    level = level - F.conv2d(F.pad(level, (1, 1, 1, 1), mode="replicate"), box)
    maps = torch.fft.ifft2(torch.exp(level + 1j * phase)).abs()
    maps = v2.functional.gaussian_blur(maps, [7, 7], [3.0, 3.0])
    return v2.functional.resize(maps, list(size), antialias=True)[:, 0]


def plain_puzzlemix(mixer: PuzzleMix, batch: Batch, generator: torch.Generator) -> Pair:
    """A cut an image; blocks moved by one-hot matrices."""
    images, size = batch.images, len(batch.images)
    pairing, lam, blocks = mixer.draw(images.shape, generator)
    side = images.shape[2] // blocks
    shares = F.avg_pool2d(batch.maps[:, None], side)[:, 0]
    shares = shares / shares.sum(dim=(1, 2), keepdim=True)
    seams = [seam.cpu().double().numpy() for seam in plain_seams(mixer, images, images[pairing], blocks)]
    table, weights = shares.cpu().double().numpy(), (mixer.n_labels, mixer.eta, mixer.beta, mixer.gamma)
    masks = []
    for i, j in enumerate(pairing):
        down, right = (seam[:, :, i : i + 1] for seam in seams)
        energy = mask_energy(table[i : i + 1], table[j : j + 1], down, right, lam, *weights)
        masks.append(1 - minimise(energy, mixer.solver) / (mixer.n_labels - 1))
    mask = torch.from_numpy(np.concatenate(masks)).to(images)
    first = transported(images, shares, mask > 0, mixer.t_eps)
    second = transported(images[pairing], shares[pairing], mask < 1, mixer.t_eps)
    own = mask.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, None]
    return own * first + (1 - own) * second, plain_targets(batch.targets, pairing, mask.reshape(size, -1).mean(dim=1))


def plain_seams(mixer: PuzzleMix, own: Tensor, other: Tensor, blocks: int) -> list[Tensor]:
    """Colour differences across borders for each choice of the two images, of images pooled as wholes."""
    side = own.shape[2] // blocks
    patch = largest_patch(side, side, mixer.neigh_size)
    pooled = [F.avg_pool2d(one * STD.to(one) + MEAN.to(one), patch) for one in (other, own)]
    found = []
    for turned in (pooled, [one.transpose(2, 3) for one in pooled]):
        step = side // patch
        pairs = [
            [(near[:, :, step - 1 : -1 : step] - far[:, :, step::step]).abs().mean(dim=1) for far in turned]
            for near in turned
        ]
        seam = torch.stack([torch.stack(row) for row in pairs])  # (2, 2, B, n - 1, W in patches)
        found.append(seam.unflatten(4, (blocks, step)).mean(dim=5))
    return [found[0], found[1].transpose(3, 4)]


def transported(images: Tensor, shares: Tensor, shown: Tensor, t_eps: float) -> Tensor:
    """Move blocks: tables of all blocks by all places, n rounds, and a matrix by vector for each pixel of a block."""
    size, blocks, sites = len(images), shares.shape[1], shares.shape[1] ** 2
    at = torch.stack(torch.meshgrid(*[torch.arange(blocks, device=images.device)] * 2, indexing="ij"), -1).view(-1, 2)
    distance = (at[:, None] - at).square().sum(dim=2) / (blocks - 1) ** 2
    cost = t_eps * distance - shares.reshape(size, sites, 1) * shown.reshape(size, 1, sites)
    for _ in range(blocks):
        asks = F.one_hot(cost.argmin(dim=2), sites)
        best = F.one_hot(torch.where(asks > 0, cost, torch.inf).argmin(dim=1), sites).transpose(1, 2)
        plan = asks * best
        cost = torch.where(asks > plan, torch.inf, cost)
    side = images.shape[2] // blocks
    pixels = (
        images.reshape(size, 3, blocks, side, blocks, side).permute(0, 1, 3, 5, 2, 4).reshape(size, 3, -1, sites, 1)
    )
    plan = plan.to(images).transpose(1, 2)[:, None, None]
    some = max(1, int(MOST_BYTES / (4 * plan[0].numel() * pixels[0, :, :, 0].numel())))
    moved = torch.cat([torch.matmul(*both) for both in zip(plan.split(some), pixels.split(some), strict=True)])
    moved = moved.view(size, 3, side, side, blocks, blocks).permute(0, 1, 4, 2, 5, 3)
    return moved.reshape(images.shape)


def plain_comixup(mixer: CoMixup, batch: Batch, generator: torch.Generator) -> Pair:
    """Weights of all images at all pixels of all results, times the images."""
    images, blocks = batch.images, mixer.block_num
    side = images.shape[2] // blocks
    _, draws = mixer.draw(len(images), generator)
    shares = F.avg_pool2d(batch.maps[:, None], side)[:, 0]
    shares = shares / shares.sum(dim=(1, 2), keepdim=True)
    window = torch.ones(1, 1, mixer.window, mixer.window, device=images.device)
    sums = F.conv2d(batch.maps[:, None], window)[:, 0]
    best = sums.flatten(1).argmax(dim=1)
    corners = torch.stack([best // sums.shape[2], best % sums.shape[2]], dim=1)
    first, second = mixer.choose(shares.cpu().double().numpy(), corners.cpu().double().numpy(), draws)
    shown = sum(F.one_hot(torch.from_numpy(chosen), len(images)) for chosen in (first, second)) / 2
    weights = shown.to(images).permute(0, 3, 1, 2)  # (results, images, n, n)
    pixels = weights.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return (pixels[:, :, None] * images[None]).sum(dim=1), weights.mean(dim=(2, 3)) @ batch.targets


@dataclass(frozen=True)
class Case:
    """A mixer and what it is compared with.

    Attributes:
        mixer: Of the library.
        plain: The same as its published code computes it.
        goal: Milliseconds at 224 px, batch 16, on one thread of a CPU; ``inf``: as fast as torchvision.
        libraries: By name, what takes images and labels.
    """

    mixer: Mixer
    plain: Callable[..., Pair]
    goal: float | None = None
    libraries: dict[str, Callable[[Tensor, Tensor], object]] = field(default_factory=dict)


def make_cases(batch: Batch, solver: str) -> dict[str, Case]:
    """All of them, for a batch."""
    given = Given(batch.maps)
    cases = {
        "MixUp": Case(MixUp(), plain_mixup, float("inf"), libraries("MixUp")),
        "CutMix": Case(CutMix(), plain_cutmix, float("inf"), libraries("CutMix")),
        "MixUp, per sample": Case(MixUp(per_sample=True), plain_mixup, None, libraries("MixUp", per_sample=True)),
        "CutMix, per sample": Case(CutMix(per_sample=True), plain_cutmix, None, libraries("CutMix", per_sample=True)),
        "SaliencyMix": Case(SaliencyMix(FineGrained()), plain_saliencymix, 10),
        "SaliencyMix, one box": Case(
            SaliencyMix(FineGrained(stretch=True), per_sample=False, saliency_of="first"), plain_saliencymix, 10
        ),
        "SaliencyMix, maps given": Case(SaliencyMix(given), plain_saliencymix),
        "SnapMix, maps given": Case(SnapMix(given), plain_snapmix),
        "Guided-SR": Case(GuidedMix(SpectralResidual()), plain_guided, 25),
        "Guided-AP, maps given": Case(GuidedMix(given), plain_guided, 15),
    }
    for blocks, goal in ((2, None), (4, 30), (8, None), (16, 80)):
        mixer = PuzzleMix(given, block_nums=[blocks], solver=solver)
        cases[f"PuzzleMix {blocks}x{blocks}, maps given"] = Case(mixer, plain_puzzlemix, goal)
    for blocks, goal in ((4, 40), (16, 60)):
        mixer = CoMixup(given, block_num=blocks, solver=solver)
        cases[f"Co-Mixup {blocks}x{blocks}, maps given"] = Case(mixer, plain_comixup, goal)
    return cases


def libraries(name: str, per_sample: bool = False) -> dict[str, Callable[[Tensor, Tensor], object]]:
    """MixUp or CutMix of torchvision, which has none per sample, of timm, and of kornia, which has no other."""
    alphas = {"mixup_alpha": float(name == "MixUp"), "cutmix_alpha": float(name == "CutMix")}
    mode = "elem" if per_sample else "batch"
    found: dict[str, Callable[[Tensor, Tensor], object]] = {}
    if not per_sample:
        found["torchvision"] = getattr(v2, name)(alpha=1.0, num_classes=CLASSES)
    found["timm"] = TimmMixup(**alphas, mode=mode, label_smoothing=0.0, num_classes=CLASSES)
    if per_sample and find_spec("kornia"):
        from kornia import augmentation

        settings = {"use_correct_lambda": True} if name == "CutMix" else {}
        found["kornia"] = getattr(augmentation, f"Random{name}V2")(p=1.0, data_keys=["input", "class"], **settings)
    return found


@dataclass(frozen=True)
class Clock:
    """Times calls.

    Attributes:
        device: A GPU is waited for, before and after.
    """

    device: str

    def __call__(self, act: Callable[[int], object], seeds: Iterable[int]) -> tuple[float, float]:
        """Mean milliseconds of processor (on a GPU: wall) time, and of wall time, of calls until it is enough."""
        spent = []
        for seed in seeds:
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            self.wait()
            started = time.process_time(), time.perf_counter()
            act(seed)
            self.wait()
            spent.append((time.process_time() - started[0], time.perf_counter() - started[1]))
            if 1e3 * sum(wall for _, wall in spent) > ENOUGH:
                break
        processor, wall = (1e3 * statistics.mean(times) for times in zip(*spent, strict=True))
        return (processor if self.device == "cpu" else wall), wall

    def wait(self) -> None:
        """Until a GPU has done what it was told."""
        if self.device != "cpu":
            torch.accelerator.synchronize()


def contenders(case: Case, batch: Batch) -> dict[str, Callable[[int], object]]:
    """What takes turns, by name; each takes a seed."""
    targets, scratch = batch.targets, batch.images.clone()

    def ours(seed: int) -> Pair:
        return case.mixer(batch.images, targets, torch.Generator().manual_seed(seed), Context())

    def plain(seed: int) -> Pair:
        return case.plain(case.mixer, batch, torch.Generator().manual_seed(seed))

    def library(mix: Callable[[Tensor, Tensor], object], seed: int) -> object:
        return mix(scratch, batch.labels)

    others = {name: partial(library, mix) for name, mix in case.libraries.items()}
    return {"genaug": ours, "plain": plain, **others}


def difference(ours: Callable[[int], Pair], plain: Callable[[int], Pair]) -> float:
    """The largest one, in pixels and targets, over several mixtures."""
    started, largest = time.perf_counter(), 0.0
    for seed in range(5):
        for one, other in zip(ours(seed), plain(seed), strict=True):
            largest = max(largest, float((one - other).abs().max()))
        if time.perf_counter() - started > 2:
            break
    return largest


@dataclass(frozen=True)
class Row:
    """What was measured of a case: of each contender milliseconds, of wall time too, and its ratio to genaug's."""

    times: dict[str, float]
    wall: dict[str, float]
    ratios: dict[str, float]
    difference: float


def compare(case: Case, batch: Batch, rounds: int, clock: Clock) -> Row:
    """Medians over rounds."""
    acts = contenders(case, batch)
    apart = difference(acts["genaug"], acts["plain"])  # warms up, too
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in acts}
    for done in range(rounds):
        for name, act in acts.items():
            runs[name].append(clock(act, islice(count(done * CALLS), CALLS)))
    times, wall = ({name: statistics.median(one[k] for one in run) for name, run in runs.items()} for k in (0, 1))
    ratios = {
        name: statistics.median(other[0] / own[0] for other, own in zip(run, runs["genaug"], strict=True))
        for name, run in runs.items()
    }
    return Row(times, wall, ratios, apart)


def verdict(goal: float | None, row: Row) -> str:
    if goal is None:
        return ""
    if goal == float("inf"):
        ratio = row.ratios["torchvision"]
        return f"torchvision's: {'met' if ratio >= 1 else f'missed, {1 / ratio:.2f} x'}"
    ours = row.times["genaug"]
    return f"{goal:g}: {'met' if ours <= goal else f'missed by {ours - goal:.1f}'}"


def tell(rows: dict[str, Row], goals: dict[str, float | None], title: str, console: Console) -> None:
    """Print both tables."""
    columns = ("", "ms", "wall", "plain, ms", "plain, wall", "x plain", "largest difference", *["goal"][: len(goals)])
    table = make_table(title, columns)
    for name, row in rows.items():
        numbers = [row.times["genaug"], row.wall["genaug"], row.times["plain"], row.wall["plain"]]
        cells = [*(f"{number:.1f}" for number in numbers), f"{row.ratios['plain']:.2f}", f"{row.difference:.1g}"]
        table.add_row(name, *cells, *([verdict(goals[name], row)] if goals else []))
    console.print(table)
    rows = {name: row for name, row in rows.items() if len(row.times) > 2}
    names = list(dict.fromkeys(name for row in rows.values() for name in list(row.times)[2:]))
    table = make_table("the same: ms (x genaug)", ("", "genaug", *names))
    for name, row in rows.items():
        cells = [f"{row.times[one]:.1f} ({row.ratios[one]:.2f})" if one in row.times else "" for one in names]
        table.add_row(name, f"{row.times['genaug']:.1f}", *cells)
    if rows:
        console.print(table)


def make_table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right" if name else "left")
    return table


def training_step(device: str, bfloat16: bool) -> Callable[[Tensor, Tensor], None]:
    """A ResNet-50 and SGD."""
    model = torchvision.models.resnet50(num_classes=CLASSES).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(images: Tensor, targets: Tensor) -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def tell_shares(asked: argparse.Namespace, size: int, clock: Clock, console: Console, steps: int = 20) -> None:
    """Print what each mixer adds to a training step, steps in a row without waiting in between, as in training."""
    batch = make_batch(size, asked.step_batch, asked.device)
    step, targets = training_step(asked.device, asked.bfloat16), batch.targets

    def alone(seed: int) -> None:
        for _ in range(steps):
            step(batch.images, targets)

    def mixed(mixer: Mixer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            step(*mixer(batch.images, targets, generator, Context()))

    alone(0)
    title = f"Of a ResNet-50 step, batch {asked.step_batch}, {size} px, {'bfloat16' if asked.bfloat16 else 'float32'}"
    title += "; the network's saliency pass apart (goal: 5 %)"
    table = make_table(title, ("", "step, ms", "mixing alone, ms", "added to the step, %"))
    for name, case in chosen_cases(asked, batch).items():
        act, itself = partial(mixed, case.mixer), contenders(case, batch)["genaug"]
        act(0)
        runs = [(clock(alone, [i])[1], clock(act, [i])[1], clock(itself, range(CALLS))[1]) for i in range(asked.rounds)]
        base, own = (statistics.median(run[k] for run in runs) for k in (0, 2))
        share = statistics.median(with_it / without - 1 for without, with_it, _ in runs)
        table.add_row(name, f"{base / steps:.1f}", f"{own:.2f}", f"{100 * share:.1f}")
    console.print(table)


def chosen_cases(asked: argparse.Namespace, batch: Batch) -> dict[str, Case]:
    """Those that ``--only`` names."""
    cases = make_cases(batch, asked.solver)
    return {name: case for name, case in cases.items() if any(part in name.lower() for part in asked.only)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[224, 448], help="pixels along a side")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--only", type=str.lower, nargs="+", default=[""], help="mixers with one of these in their name"
    )
    parser.add_argument(
        "--solver", choices=("vectorised", "gco"), default="vectorised", help="of the cuts on both sides"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--step-batch", type=int, default=64, help="of the training step, on a GPU")
    parser.add_argument("--bfloat16", action="store_true", help="autocast in the training step")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    cv2.setNumThreads(asked.threads)
    console, clock = Console(width=160), Clock(asked.device)
    saliency = "OpenCV's saliency" if hasattr(cv2, "saliency") else "saliency in NumPy"
    console.print(f"Plain versions with {saliency} and cuts by {asked.solver}.")
    for size in asked.size:
        batch = make_batch(size, asked.batch, asked.device)
        cases = chosen_cases(asked, batch)
        rows = {name: compare(case, batch, asked.rounds, clock) for name, case in cases.items()}
        with_goal = (asked.device, asked.threads, size, asked.batch) == ("cpu", 1, 224, 16)
        goals = {name: case.goal for name, case in cases.items()} if with_goal else {}
        on = f"{asked.threads} thread{'s'[: asked.threads - 1]}" if asked.device == "cpu" else asked.device
        tell(rows, goals, f"{size} px, batch {asked.batch}, {on}, median of {asked.rounds} rounds", console)
        if asked.device != "cpu":
            tell_shares(asked, size, clock, console)


if __name__ == "__main__":
    main()
