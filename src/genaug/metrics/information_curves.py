"""Performance information curves: how soon a network is right again when an image is told in the order of a map.

SIC follows the softmax value of a class, AIC whether that class is the network's answer, both against the information
in the image (Kapishnikov et al. 2019, section 4.1). Computed as PAIR's ``pic.py`` does, both from one pass.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import Executor
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genaug.metrics.reconstruction import THRESHOLDS, Blurred, Revealed, random_mask, reveal
from genaug.metrics.rows import RowMetric
from genaug.metrics.saliency_maps import DEGENERATE, counted, degenerate

#: Images ``(N, H, W, C)`` uint8 to probabilities ``(N, K)``.
Predict = Callable[[Tensor], Tensor]

#: Why an image has no curve, in the order in which it is asked.
SKIPPED = ("low prediction", "blurring keeps the information", "blurring keeps the prediction")

#: Points of a curve before the one at 1.
POINTS = 1000


def skip_reason(entropies: np.ndarray, predictions: np.ndarray, min_prediction: float = 0.5) -> str | None:
    """Why an image has no curve: one of :data:`SKIPPED`, or None where it has one.

    Args:
        entropies: ``(T + 2,)``: fully blurred, T thresholds, original.
        predictions: The network's, for the same images: softmax values for SIC, 1 or 0 for AIC.
        min_prediction: Least prediction for the original. 0.5 as in PAIR's notebook; its function's default is 0.8.
    """
    if predictions[-1] < min_prediction:
        return SKIPPED[0]
    if entropies[0] >= entropies[-1]:
        return SKIPPED[1]
    return SKIPPED[2] if predictions[0] >= predictions[-1] else None


def information_curve(
    entropies: np.ndarray, predictions: np.ndarray, monotone: bool = True, points: int = POINTS
) -> np.ndarray:
    """Prediction against information, both scaled so that the fully blurred image is 0 and the original 1.

    Args:
        entropies: ``(T + 2,)``: fully blurred, T thresholds, original.
        predictions: The network's, for the same images, where :func:`skip_reason` is None.
        monotone: The curve never falls with a rising threshold (the paper's way).
        points: Points before the one at 1.

    Returns:
        ``(points + 1,)`` values in [0, 1] at equal steps of information from 0 to 1; the last is 1.

    >>> information_curve(np.array([10, 20, 30]), np.array([0.0, 1.0, 1.0]), points=4).tolist()
    [0.0, 0.5, 1.0, 1.0, 1.0]
    """
    scaled = [
        np.clip((values - values[0]) / (values[-1] - values[0]), 0.0, 1.0)[1:-1]
        for values in (np.asarray(entropies, dtype=np.float64), np.asarray(predictions, dtype=np.float64))
    ]
    heights = np.maximum.accumulate(scaled[1]) if monotone else scaled[1]
    # The ends come last: among points of equal information the last one counts.
    x, y = np.append(scaled[0], [0.0, 1.0]), np.append(heights, [0.0, 1.0])
    order = np.argsort(x, kind="stable")
    at = np.linspace(0.0, 1.0, points, endpoint=False)
    return np.append(np.interp(at, x[order], y[order]), 1.0)


def area(curve: np.ndarray) -> float:
    """Area under a curve over [0, 1] by trapezoids.

    >>> area(np.array([0.0, 0.5, 1.0]))
    0.5
    """
    return float(np.trapezoid(curve, np.linspace(0.0, 1.0, len(curve))))


def predictions_told(
    predict: Predict,
    revealed: Iterator[Revealed],
    classes: Sequence[int],
    batch_size: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Ask a network about images that are told bit by bit.

    Args:
        predict: The network. It moves the images to its device.
        revealed: One for each image.
        classes: The class whose prediction is followed, for each image.
        batch_size: Most images a call.

    Yields:
        ``(T + 2,)`` each: entropies, the softmax values of the class, and whether it is the network's answer. What a
        network that broke down says (NaN) is a value of 0 and no answer.
    """
    for told, label in zip(revealed, classes, strict=True):
        images = torch.from_numpy(told.images)
        probabilities = torch.cat([predict(part).cpu() for part in images.split(batch_size)])
        hits = (probabilities.argmax(dim=1) == label) & ~probabilities.isnan().any(dim=1)
        yield told.entropies, probabilities[:, label].double().nan_to_num(0.0).numpy(), hits.numpy()


class InformationCurves(RowMetric):
    """AIC and SIC over images: the mean of their areas, and the area of their median curve.

    The states are what was measured (bytes, predictions); curves and skips follow from them when computed, so that
    several processes give the numbers of one.

    Args:
        thresholds: Shares of the pixels that are told.
        min_prediction: See :func:`skip_reason`.
        monotone: See :func:`information_curve`.
        exact: See :func:`genaug.metrics.reconstruction.reconstruct`.
        fraction: Of the random mask.
        batch_size: Most images a call of the network.
        known: What does not depend on maps and networks is kept here by image and mask; share it among metrics that
            see the same images. It grows by a blurred image for each.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> noise = torch.randint(256, (1, 16, 16, 1), generator=generator, dtype=torch.uint8)
        >>> def sharp(images):  # says class 0 to the degree that neighbours differ
        ...     change = (images[:, :, 1:] - images[:, :, :-1].float()).abs().mean(dim=(1, 2, 3)) / 85
        ...     return torch.stack([change, 1 - change], dim=1)
        >>> metric = InformationCurves()
        >>> metric.update(sharp, noise, torch.rand(1, 16, 16, generator=generator), classes=[0], seeds=[0])
        >>> result = metric.compute()
        >>> result["sic"]["n"], result["aic"]["n"], 0 < result["sic"]["mean"] < 1
        (1, 1, True)
    """

    higher_is_better = True
    degenerate: Tensor

    def __init__(
        self,
        thresholds: Sequence[float] = THRESHOLDS,
        min_prediction: float = 0.5,
        monotone: bool = True,
        exact: bool = True,
        fraction: float = 0.01,
        batch_size: int = 4,
        known: MutableMapping[str, Blurred] | None = None,
    ) -> None:
        super().__init__()
        if list(thresholds) != sorted(set(thresholds)) or not all(0 < one < 1 for one in thresholds):
            raise ValueError(f"thresholds are shares of the pixels, rising, between 0 and 1; came {list(thresholds)}")
        self.thresholds, self.min_prediction, self.monotone = tuple(thresholds), min_prediction, monotone
        self.exact, self.fraction, self.batch_size = exact, fraction, batch_size
        self.known = {} if known is None else known
        shape = (len(self.thresholds) + 2,)
        self.add_rows("entropies", shape, torch.long)
        self.add_rows("confidences", shape, torch.double)
        self.add_rows("hits", shape, torch.uint8)
        self.add_state("degenerate", torch.zeros(len(DEGENERATE), dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self,
        predict: Predict,
        images: Tensor,
        saliency: Tensor,
        classes: Sequence[int],
        seeds: Sequence[int],
        index: Sequence[int] | None = None,
        pool: Executor | None = None,
    ) -> None:
        """Judge maps by a network; a map that says nothing (see :func:`degenerate`) is counted and left out.

        Args:
            predict: ``(N, H, W, C)`` uint8 to probabilities ``(N, K)``; moves them to its device itself.
            images: ``(B, H, W, C)`` uint8.
            saliency: ``(B, H, W)``.
            classes: The class each map speaks for.
            seeds: Name the random mask of each image.
            index: A number for each image, its place in the results; counted on where there is none.
            pool: Does the CPU's part (see :func:`genaug.metrics.reconstruction.processes`); None does it here.
        """
        kinds = degenerate(saliency).tolist()
        places = self.numbers(index, len(kinds), self.degenerate)
        self.degenerate = self.degenerate + counted(kinds).to(self.degenerate)
        kept = [number for number, kind in enumerate(kinds) if kind < 0]
        pixels, maps = images.cpu().numpy(), saliency.cpu().numpy()
        revealed = self._reveal([pixels[i] for i in kept], [maps[i] for i in kept], [seeds[i] for i in kept], pool)
        found = list(predictions_told(predict, revealed, [int(classes[i]) for i in kept], self.batch_size))
        if found:
            entropies, confidences, hits = (torch.from_numpy(np.stack(rows)) for rows in zip(*found, strict=True))
            self.append(places[kept], entropies=entropies, confidences=confidences, hits=hits)

    def _reveal(
        self, images: Sequence[np.ndarray], maps: Sequence[np.ndarray], seeds: Sequence[int], pool: Executor | None
    ) -> Iterator[Revealed]:
        """Tell every image, several at once where there is a pool."""
        keys = [
            hashlib.blake2b(image.tobytes() + f"{image.shape} {seed} {self.fraction} {self.exact}".encode()).hexdigest()
            for image, seed in zip(images, seeds, strict=True)
        ]
        told = (map if pool is None else pool.map)(
            reveal,
            images,
            maps,
            [
                random_mask(image.shape[0], image.shape[1], seed, self.fraction)
                for image, seed in zip(images, seeds, strict=True)
            ],
            repeat(self.thresholds, len(images)),
            repeat(self.exact, len(images)),
            [self.known.get(key) for key in keys],
        )
        for key, one in zip(keys, told, strict=True):
            self.known.setdefault(key, one.blurred)
            yield one

    def compute(self) -> dict[str, Any]:
        """Compute the areas.

        Returns:
            ``sic`` and ``aic``, each with ``mean`` (of the areas), ``median_curve`` (area of the median curve; PAIR's
            default), ``n`` images used, ``skipped`` (how many by reason), ``curves`` (``mean`` and ``median``, arrays;
            None where n is 0) and ``per_image`` (areas, None where skipped); the ``index`` of the images; and
            ``degenerate``, how many maps said nothing by reason.
        """
        entropies, confidences, hits = (self.rows(name).numpy() for name in ("entropies", "confidences", "hits"))
        return {
            "sic": self._summary(entropies, confidences),
            "aic": self._summary(entropies, hits.astype(np.float64)),
            "index": self.rows("index").tolist(),
            "degenerate": dict(zip(DEGENERATE, self.degenerate.tolist(), strict=True)),
        }

    def _summary(self, entropies: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
        pairs = list(zip(entropies, predictions, strict=True))
        reasons = [skip_reason(*pair, self.min_prediction) for pair in pairs]
        curves = [
            None if reason else information_curve(*pair, self.monotone)
            for pair, reason in zip(pairs, reasons, strict=True)
        ]
        counted = Counter(reason for reason in reasons if reason)
        return {
            **summarize_curves([curve for curve in curves if curve is not None]),
            "skipped": {reason: counted[reason] for reason in SKIPPED},
            "per_image": [None if curve is None else area(curve) for curve in curves],
        }


def summarize_curves(curves: Sequence[np.ndarray]) -> dict[str, Any]:
    """``n`` curves of equal length as one: ``mean`` area, area of the ``median_curve``, and the two ``curves``.

    The mean of areas is the area of the mean curve; that of the median curve is another number.

    >>> three = [np.array([0.0, 0.0]), np.array([0.0, 1.0]), np.array([1.0, 1.0])]
    >>> found = summarize_curves(three)
    >>> found["n"], round(found["mean"], 3), found["median_curve"]
    (3, 0.5, 0.5)
    """
    if not curves:
        return {"n": 0, "mean": None, "median_curve": None, "curves": None}
    both = {"mean": np.mean(curves, axis=0), "median": np.median(curves, axis=0)}
    return {"n": len(curves), "mean": area(both["mean"]), "median_curve": area(both["median"]), "curves": both}
