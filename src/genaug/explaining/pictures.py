"""Pictures of maps: laid over their images, and curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from genaug.explaining.judge import Look
from genaug.pictures import save_sheet
from genaug.synthesis.store import write_atomically


def overlay(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Lay a map over its image: red is most important, blue least.

    Args:
        image: ``(H, W, C)`` uint8.
        saliency: ``(H, W)``; a map that says nothing leaves the image grey.

    Returns:
        ``(H, W, 3)`` uint8, RGB.
    """
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    low, high = (float(saliency.min()), float(saliency.max())) if np.isfinite(saliency).all() else (0.0, 0.0)
    if low == high:
        return grey.astype(np.uint8)
    scaled = (255 * (saliency - low) / (high - low)).astype(np.uint8)
    colours = cv2.applyColorMap(scaled, cv2.COLORMAP_TURBO)[..., ::-1]
    return (0.5 * grey + 0.5 * colours).astype(np.uint8)


def describe(record: Mapping[str, Any], classes: Sequence[str]) -> str:
    """An image's line in a gallery: what it shows, and what the network said where that is something else."""
    labels = record["label"] if isinstance(record["label"], tuple | list) else [record["label"]]
    shown = ", ".join(classes[label] for label in labels)
    said = "right" if record["right"] else f"said {classes[record['predicted']]}"
    return f"{shown} + {said} {record['confidence']:.2f}" if record["right"] else f"{shown} + {said}"


def save_gallery(look: Look, classes: Sequence[str], path: Path) -> None:
    """Write each kept image beside its map, with what the network said of it."""
    tiles: list[np.ndarray] = []
    texts: list[str] = []
    for record, (image, saliency) in zip(look.records, look.pictures, strict=False):
        tiles += [image if image.shape[2] == 3 else image.repeat(3, axis=2), overlay(image, saliency)]
        lines = (("sic", "insertion"), ("energy",))
        numbers = [", ".join(f"{one} {record[one]:.2f}" for one in line if record[one] is not None) for line in lines]
        texts += [describe(record, classes), record["map"] or " + ".join(numbers)]
    if tiles:
        save_sheet(tiles, texts, path)


def save_curves(looks: Mapping[str, Look], path: Path) -> None:
    """Draw the mean AIC and SIC of every split against information."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("sic", "aic"), strict=True):
        for split, look in looks.items():
            if name in look.curves:
                curve, numbers = look.curves[name]["mean"], look.summary[name]
                axes.plot(
                    np.linspace(0, 1, len(curve)), curve, label=f"{split}: {numbers['mean']:.3f} (n={numbers['n']})"
                )
        axes.set(xlabel="information", ylabel=name.upper(), xlim=(0, 1), ylim=(0, 1.02))
        if axes.lines:
            axes.legend(fontsize=8, loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
