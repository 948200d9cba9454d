"""What the network answered for each test image, so that two networks can be compared image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from genaug.csv_files import csv_bytes
from genaug.synthesis.store import write_atomically

COLUMNS = ("split", "id", "label", "predicted", "confidence")


class Predictions(pl.Callback):
    """Writes ``predictions.csv`` at the test: split, id, label, predicted class and its probability of every image.

    Classes are written as their numbers. Images of several labels have no single answer: nothing is written for them.

    Args:
        path: The CSV file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.found: dict[tuple[int, int], tuple[int, int, float]] = {}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier test."""
        self.found.clear()

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep what was answered, by the place of the image in its split."""
        confidence, predicted = outputs["logits"].float().softmax(dim=1).max(dim=1)
        rows = (batch["index"], batch["target"].argmax(dim=1), predicted, confidence)
        for index, *answer in zip(*(row.tolist() for row in rows), strict=True):
            self.found[dataloader_idx, index] = (*answer,)  # repeated to even out processes: the same answer again

    def on_test_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Gather from all processes, and write the file."""
        data = trainer.datamodule
        if data.dataset.multilabel:
            return
        gathered: list[dict[tuple[int, int], tuple[int, int, float]]] = [self.found]
        if trainer.world_size > 1:
            gathered = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(gathered, self.found)
        if not trainer.is_global_zero:
            return
        rows = []
        for (loader, index), answer in sorted({place: row for part in gathered for place, row in part.items()}.items()):
            split = data.test_names[loader]
            label, predicted, confidence = answer
            values = (split, data.splits[split][index].id, label, predicted, round(confidence, 6))
            rows.append(dict(zip(COLUMNS, values, strict=True)))
        write_atomically(self.path, csv_bytes(rows))
