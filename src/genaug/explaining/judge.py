"""Where a network looks, judged: maps of a fixed set of images, and every measure of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import MutableMapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

import numpy as np
import torch
from PIL import features
from torch import Tensor, nn

from genaug.data.base import Dataset, Sample
from genaug.data.datamodule import cores
from genaug.data.images import target_of
from genaug.data.reading import read_image, read_mask
from genaug.data.transforms import Crop
from genaug.explaining.base import Explainer, undisturbed
from genaug.metrics.information_curves import InformationCurves
from genaug.metrics.insertion_deletion import InsertionDeletion
from genaug.metrics.reconstruction import THRESHOLDS, Blurred, processes
from genaug.metrics.saliency_maps import DEGENERATE, MapEnergy, degenerate
from genaug.seeding import derive

Target = Literal["label", "predicted"]
TARGETS = ("label", "predicted")

#: Images that are explained together. Processes share such groups, so that each image has the same companions, and the
#: same rounding, however many processes there are.
GROUP = 8

#: The measures of an image, as they are named in tables, with whether more is better (None: neither).
MEASURES = {"aic": True, "sic": True, "insertion": True, "deletion": False, "energy": True}


@dataclass
class Look:
    """What was found on one set of images.

    Attributes:
        summary: Plain numbers for ``results.json``.
        curves: AIC and SIC against information: ``{"sic": {"mean": (1001,), "median": (1001,)}, ...}``.
        records: One dictionary an image, in order.
        pictures: For the first images: ``(image, map)`` as ``(H, W, C)`` uint8 and ``(H, W)`` float32.
    """

    summary: dict[str, Any]
    curves: dict[str, dict[str, np.ndarray]]
    records: list[dict[str, Any]]
    pictures: list[tuple[np.ndarray, np.ndarray]]


@dataclass
class Share:
    """One process's part of the work: every ``world``-th group from ``rank`` on."""

    rank: int = 0
    world: int = 1

    def of(self, count: int) -> list[list[int]]:
        """Positions of this process's images among ``count``, group by group.

        >>> Share(rank=1, world=2).of(20)
        [[8, 9, 10, 11, 12, 13, 14, 15]]
        """
        starts = range(self.rank * GROUP, count, self.world * GROUP)
        return [list(range(start, min(start + GROUP, count))) for start in starts]

    def gather(self, mine: list[Any]) -> list[Any]:
        """The lists of all processes, one after the other."""
        if self.world == 1:
            return mine
        parts: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(parts, mine)
        return [one for part in parts for one in part]


@dataclass
class Network:
    """A classifier as the measures need it.

    Attributes:
        model: ``(N, C, H, W)`` to logits ``(N, K)``.
        normalize: ``(N, H, W, C)`` uint8 to what ``model`` takes.
        multilabel: Whether several classes can be right: confidence is then a sigmoid, not a softmax.
    """

    model: nn.Module
    normalize: nn.Module
    multilabel: bool = False

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def of_normalized(self, images: Tensor) -> Tensor:
        """Probabilities ``(N, K)`` of images ``(N, C, H, W)``."""
        # The order in which convolutions on a CPU, and Tensor Cores, read: a fifth less time for small batches.
        logits = self.model(images.to(self.device, memory_format=torch.channels_last)).float()
        return logits.sigmoid() if self.multilabel else logits.softmax(dim=1)

    @torch.no_grad()
    def of_pixels(self, images: Tensor) -> Tensor:
        """Probabilities ``(N, K)`` of images ``(N, H, W, C)`` uint8."""
        return self.of_normalized(self.normalize(images.to(self.device)))


@dataclass
class Judge:
    """Judges the maps of an explainer on a fixed, class-balanced set of images.

    Args:
        explainer: Makes the maps.
        images: How many of each split.
        target: The class that is explained and followed: the image's ``label`` (of several, the one the network
            believes most) or what the network ``predicted``.
        seed: Names the choice of images, and the random masks.
        min_prediction: See :func:`genaug.metrics.information_curves.skip_reason`.
        monotone: See :func:`genaug.metrics.information_curves.information_curve`.
        exact: See :func:`genaug.metrics.reconstruction.reconstruct`.
        thresholds: Shares of the pixels told; None takes PAIR's thirteen.
        tolerance: Of the areas of insertion and deletion, see
            :func:`genaug.metrics.insertion_deletion.causal_curve`; None measures every step.
        batch_size: Images a call of the network; None chooses for the device.
        workers: Processes for the CPU's part; None takes as many as there are processors.

    Raises:
        ValueError: an argument that cannot be used.
    """

    explainer: Explainer
    images: int = 32
    target: Target = "label"
    seed: int = 0
    min_prediction: float = 0.5
    monotone: bool = True
    exact: bool = True
    thresholds: Sequence[float] | None = None
    tolerance: float | None = 0.01
    batch_size: int | None = None
    workers: int | None = None
    #: Blurred images of earlier looks, which do not depend on the network.
    known: MutableMapping[str, Blurred] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"explain.target={self.target!r} is not known: choose one of {', '.join(TARGETS)}.")
        if self.images < 1:
            raise ValueError(f"explain.images={self.images}: at least one image is needed.")
        self._measures(torch.device("cpu"), Share())  # refuses the rest

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, for the record."""
        return {
            "explainer": type(self.explainer).__name__,
            "images": self.images,
            "target": self.target,
            "seed": self.seed,
            "min_prediction": self.min_prediction,
            "monotone": self.monotone,
            "exact": self.exact,
            "thresholds": list(self.thresholds or THRESHOLDS),
            "tolerance": self.tolerance,
            "libwebp": features.version("webp"),
            "scipy": metadata.version("scipy"),
        }

    def choose(self, samples: Sequence[Sample]) -> list[Sample]:
        """The images that are judged: drawn by the seed, the classes in turn; more images contain fewer.

        An image of several classes stands for the first; one of none has nothing to explain, and is left out.
        """
        by_class: dict[int, list[Sample]] = defaultdict(list)
        there = (sample for sample in samples if sample.label != ())
        for sample in sorted(there, key=lambda one: derive(self.seed, "explain", one.id)):
            by_class[sample.label[0] if isinstance(sample.label, tuple) else sample.label].append(sample)
        turns = sorted(by_class, key=lambda label: derive(self.seed, "turn", label))
        rounds = range(max(map(len, by_class.values()), default=0))
        return [by_class[label][turn] for turn in rounds for label in turns if turn < len(by_class[label])][
            : self.images
        ]

    def pool(self, sharing: int = 1) -> AbstractContextManager[Executor | None]:
        """The processes for the CPU's part, to be passed to :meth:`look`; ``sharing`` programs share the machine."""
        return processes(self.workers if self.workers is not None else max(1, cores() // sharing))

    def look(
        self,
        network: Network,
        samples: Sequence[Sample],
        dataset: Dataset,
        crop: Crop,
        pool: Executor | None = None,
        share: Share | None = None,
        pictures: int = 0,
    ) -> Look:
        """Explain the network's answers on ``samples``, and judge the maps.

        The network is left as it was. Every process of a distributed run must call this with its share.

        Args:
            network: The classifier.
            samples: From :meth:`choose`.
            dataset: For channels and the number of classes.
            crop: Brings images to the network's size; masks go the same way.
            pool: From :meth:`pool`.
            share: This process's part.
            pictures: How many images and maps to keep for a gallery.
        """
        share = share or Share()
        measures = self._measures(network.device, share)
        records: list[dict[str, Any]] = []
        kept: list[tuple[int, np.ndarray, np.ndarray]] = []
        with undisturbed(network.model):
            for group in share.of(len(samples)):
                part = _read([samples[i] for i in group], dataset, crop)
                maps = self._judge_group(network, part, group, measures, records, pool)
                kept += [
                    (i, part.pixels[k].numpy(), maps[k].cpu().numpy()) for k, i in enumerate(group) if i < pictures
                ]
        found = {name: measure.compute() for name, measure in measures.items()}
        records = sorted(share.gather(records), key=lambda one: one["index"])
        _add_areas(records, found)
        return Look(
            summary=_summary(records, found),
            curves={name: found["curves"][name]["curves"] for name in ("sic", "aic") if found["curves"][name]["n"]},
            records=records,
            pictures=[pair for _, *pair in sorted(share.gather(kept), key=lambda one: one[0])],
        )

    def _measures(self, device: torch.device, share: Share) -> dict[str, Any]:
        """New measures; with several processes on the device, where what they hold is exchanged."""
        batch = self.batch_size or (4 if device.type == "cpu" else 64)  # larger ones do not fit a CPU's cache
        measures = {
            "curves": InformationCurves(
                self.thresholds or THRESHOLDS,
                self.min_prediction,
                self.monotone,
                self.exact,
                batch_size=batch,
                known=self.known,
            ),
            "insertion": InsertionDeletion("insertion", self.tolerance, batch),
            "deletion": InsertionDeletion("deletion", self.tolerance, batch),
            "energy": MapEnergy(),
        }
        return {name: measure.to(device) if share.world > 1 else measure for name, measure in measures.items()}

    def _judge_group(
        self,
        network: Network,
        part: _Images,
        group: Sequence[int],
        measures: dict[str, Any],
        records: list[dict[str, Any]],
        pool: Executor | None,
    ) -> Tensor:
        """Explain one group and feed the measures; returns the maps ``(B, H, W)``."""
        images = network.normalize(part.pixels.to(network.device))
        probabilities = network.of_normalized(images)
        targets = part.targets.to(network.device)
        # An answer that nobody can call right or wrong is none: the next one counts.
        predicted = torch.where(targets.isnan(), -1, probabilities).argmax(dim=1)
        likeliest = torch.where(targets > 0, probabilities, -1).argmax(dim=1)
        classes = likeliest if self.target == "label" else predicted
        seeds = [derive(self.seed, "explain", sample.id) for sample in part.samples]
        maps = self.explainer(network.model, images, classes, seeds)
        kinds = degenerate(maps).tolist()
        says = [k for k, kind in enumerate(kinds) if kind < 0]
        index, labels = [group[k] for k in says], classes[says].tolist()
        measures["curves"].update(
            network.of_pixels, part.pixels[says], maps[says], labels, [seeds[k] for k in says], index, pool
        )
        for mode in ("insertion", "deletion"):
            measures[mode].update(network.of_normalized, images[says], maps[says], labels, index)
        seen = [k for k in says if part.has_mask[k]]
        measures["energy"].update(maps[seen].cpu(), part.masks[seen], [group[k] for k in seen])
        records += [
            {
                "index": group[k],
                "id": sample.id,
                "label": sample.label,
                "predicted": int(predicted[k]),
                "right": bool(part.targets[k, predicted[k]] > 0 and not probabilities[k].isnan().any()),
                "explained": int(classes[k]),
                "confidence": float(probabilities[k, classes[k]]),
                "map": "" if kinds[k] < 0 else DEGENERATE[kinds[k]],
            }
            for k, sample in enumerate(part.samples)
        ]
        return maps


@dataclass
class _Images:
    """A group of images as the network sees them.

    Attributes:
        samples: Where they come from.
        pixels: ``(B, H, W, C)`` uint8.
        targets: ``(B, K)``, NaN where nobody knows.
        masks: ``(B, H, W)`` bool, false where there is none.
        has_mask: For each image, whether the data has a mask for it.
    """

    samples: Sequence[Sample]
    pixels: Tensor
    targets: Tensor
    masks: Tensor
    has_mask: list[bool]


def _read(samples: Sequence[Sample], dataset: Dataset, crop: Crop) -> _Images:
    transform, pixels, masks = crop.eval(), [], []
    for sample in samples:
        image = torch.from_numpy(read_image(sample.path, dataset.channels)).permute(2, 0, 1)
        pixels.append(transform(image).permute(1, 2, 0).contiguous())
        mask = torch.zeros_like(image[:1])
        if sample.mask is not None:
            mask = torch.from_numpy(read_mask(sample.mask, sample.mask_values)).to(torch.uint8)[None] * 255
        masks.append(transform(mask)[0] > 127)
    targets = [torch.from_numpy(target_of(sample, len(dataset.classes))) for sample in samples]
    return _Images(
        samples,
        torch.stack(pixels),
        torch.stack(targets),
        torch.stack(masks),
        [sample.mask is not None for sample in samples],
    )


def _add_areas(records: Sequence[dict[str, Any]], found: dict[str, Any]) -> None:
    """Write each image's areas into its record; None where a measure has none for it."""
    curves = found["curves"]
    sources = {
        "aic": (curves["index"], curves["aic"]["per_image"]),
        "sic": (curves["index"], curves["sic"]["per_image"]),
        **{name: (found[name]["index"], found[name]["per_image"]) for name in ("insertion", "deletion", "energy")},
    }
    for name, (index, values) in sources.items():
        by_index = dict(zip(index, values, strict=True))
        for record in records:
            value = by_index.get(record["index"])
            record[name] = None if value is None or math.isnan(value) else value


def _summary(records: Sequence[dict[str, Any]], found: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a split as they stand in ``results.json``."""
    curves = {
        name: {key: found["curves"][name][key] for key in ("mean", "median_curve", "n", "skipped")}
        for name in ("aic", "sic")
    }
    causal = {
        name: {key: found[name][key] for key in ("mean", "n", "bound", "measured")}
        for name in ("insertion", "deletion")
    }
    return {
        "images": len(records),
        "right": sum(record["right"] for record in records),
        **curves,
        **causal,
        "energy": {key: found["energy"][key] for key in ("mean", "coverage", "n")},
        "degenerate": {reason: sum(record["map"] == reason for record in records) for reason in DEGENERATE},
    }
