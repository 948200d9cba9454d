"""A picture of what the network was really fed: after the method's view, the transform and the mixer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from genaug.pictures import label_text, save_sheet


class ContactSheet(pl.Callback):
    """Saves the first images of the first training batches, with their soft labels, to ``contact_sheet.png``.

    Args:
        path: The PNG file.
        count: How many images.
    """

    def __init__(self, path: str | Path, count: int = 32) -> None:
        self.path, self.count = Path(path), count
        self.tiles: list[Any] = []
        self.texts: list[str] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Collect until there are enough."""
        if not trainer.is_global_zero or len(self.tiles) >= self.count or self.path.exists():
            return
        classes = trainer.datamodule.dataset.classes
        images = pl_module.normalize.invert(outputs["images"][: self.count - len(self.tiles)])
        self.tiles += list(images.cpu().numpy())
        self.texts += [label_text(row, classes) for row in outputs["targets"][: len(images)].tolist()]
        if len(self.tiles) >= self.count:
            save_sheet(self.tiles, self.texts, self.path)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run shorter than the sheet still gets its picture."""
        if self.tiles and trainer.is_global_zero and not self.path.exists():
            save_sheet(self.tiles, self.texts, self.path)
