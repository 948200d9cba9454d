"""Where the network looks, judged while it trains and at the test."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from genaug.callbacks.cost import paused
from genaug.csv_files import csv_bytes
from genaug.explaining.judge import MEASURES, Judge, Look, Network, Share
from genaug.explaining.pictures import save_curves, save_gallery
from genaug.synthesis.store import write_atomically

log = logging.getLogger(__name__)

#: Points of a curve that ``results.json`` keeps; the files beside it have all.
KEPT_POINTS = 21


class Explain(pl.Callback):
    """Explains a fixed set of images of every test split, every few epochs and at the test.

    Scores go to the loggers as ``explain/<split>/<measure>``, and to ``results.json`` at the test; per image to
    ``<split>.csv``, curves to ``curves.csv`` and ``curves.png``, maps to ``<split>.png``, in a folder for each look.
    Training is not touched: what it draws, its weights and its clock are as without this.

    Args:
        judge: What is measured, and how.
        folder: Where the files go.
        every_n_epochs: Looks during training; None looks at the test alone.
        pictures: Images in the gallery of a split.

    Raises:
        ValueError: ``every_n_epochs`` or ``pictures`` cannot be used.
    """

    #: The name of this callback's part of ``results.json``.
    section = "explain"

    def __init__(self, judge: Judge, folder: str | Path, every_n_epochs: int | None = 5, pictures: int = 16) -> None:
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"every_n_epochs={every_n_epochs}: expected 1 or more, or null for the test alone.")
        if pictures < 0:
            raise ValueError(f"pictures={pictures}: expected 0 or more.")
        self.judge, self.folder, self.every_n_epochs, self.pictures = judge, Path(folder), every_n_epochs, pictures
        self.found: dict[str, Any] | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look, when it is time."""
        epoch = trainer.current_epoch + 1
        if self.every_n_epochs and epoch % self.every_n_epochs == 0:
            with paused(trainer):
                self._look(trainer, pl_module, f"epoch_{epoch:04d}")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the weights that count."""
        looks, seconds = self._look(trainer, pl_module, "final")
        self.found = {
            "settings": self.judge.settings(),
            "seconds": round(seconds, 3),
            "splits": {name: {**look.summary, "curves": thinned(look)} for name, look in looks.items()},
        }

    def report(self) -> dict[str, Any] | None:
        """What the last test found: settings, seconds, and the numbers of every split."""
        return self.found

    def _look(self, trainer: Any, pl_module: Any, when: str) -> tuple[dict[str, Look], float]:
        data, started = trainer.datamodule, time.monotonic()
        network = Network(pl_module.model, pl_module.normalize, data.dataset.multilabel)
        share = Share(trainer.global_rank, trainer.world_size)
        looks = {}
        with self.judge.pool(trainer.num_devices) as pool:
            for name in data.test_names:
                samples = self.judge.choose(data.splits[name])
                looks[name] = self.judge.look(network, samples, data.dataset, data.crop, pool, share, self.pictures)
                pl_module.log_dict(scores(name, looks[name]), sync_dist=False)
        seconds = time.monotonic() - started
        log.info("explained %s in %.0f s: %s", ", ".join(looks), seconds, self.folder / when)
        if trainer.is_global_zero:
            save(looks, data.dataset.classes, self.folder / when)
            show(trainer.loggers, looks, self.folder / when, when)
        return looks, seconds


def scores(split: str, look: Look) -> dict[str, float]:
    """The numbers for the loggers; a mean over nothing is left out."""
    found = {}
    for measure in MEASURES:
        if look.summary[measure]["mean"] is not None:
            found[f"explain/{split}/{measure}"] = float(look.summary[measure]["mean"])
        found[f"explain/{split}/{measure}_n"] = float(look.summary[measure]["n"])
    found[f"explain/{split}/degenerate"] = float(sum(look.summary["degenerate"].values()))
    return found


def thinned(look: Look) -> dict[str, dict[str, list[float]]]:
    """A few points of each curve, at equal steps of information from 0 to 1."""
    return {
        name: {
            kind: [round(float(curve[at]), 6) for at in np.linspace(0, len(curve) - 1, KEPT_POINTS).round().astype(int)]
            for kind, curve in curves.items()
        }
        for name, curves in look.curves.items()
    }


def save(looks: dict[str, Look], classes: Any, folder: Path) -> None:
    """Write tables, curves and galleries."""
    for name, look in looks.items():
        write_atomically(folder / f"{name}.csv", csv_bytes(look.records))
        save_gallery(look, classes, folder / f"{name}.png")
    curves = {
        f"{split}/{name}/{kind}": curve
        for split, look in looks.items()
        for name, both in look.curves.items()
        for kind, curve in both.items()
    }
    if curves:
        points = len(next(iter(curves.values())))
        rows = [
            {"information": x, **{name: curve[i] for name, curve in curves.items()}}
            for i, x in enumerate(np.linspace(0, 1, points))
        ]
        write_atomically(folder / "curves.csv", csv_bytes(rows))
        save_curves(looks, folder / "curves.png")


def show(loggers: Sequence[Any], looks: dict[str, Look], folder: Path, when: str) -> None:
    """Hand pictures and curves to the loggers that take some (Weights & Biases does)."""
    curves = {
        f"{split}/{name}/{kind}": points
        for split, look in looks.items()
        for name, both in thinned(look).items()
        for kind, points in both.items()
    }
    information = np.linspace(0, 1, KEPT_POINTS).round(6).tolist()
    rows = [list(row) for row in zip(information, *curves.values(), strict=True)] if curves else []
    for logger in loggers:
        if hasattr(logger, "log_image"):
            for picture in sorted(folder.glob("*.png")):
                logger.log_image(f"explain/{picture.stem}", [str(picture)], caption=[when])
        if hasattr(logger, "log_table") and rows:
            logger.log_table(f"explain/curves/{when}", columns=["information", *curves], data=rows)
