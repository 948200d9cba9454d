"""What training cost: images a second, and the memory it took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn

#: Seconds between two looks at the memory.
LOOK_EVERY = 2.0


class Cost(pl.Callback):
    """Measures training without its validation pauses; the experiment reads it when it is over."""

    def __init__(self) -> None:
        self.images, self.seconds, self.peak = 0, 0.0, 0
        self._looked = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._since is not None:
            self.seconds += time.monotonic() - self._since
        self._since = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.start()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop it while the held-out part is looked at."""
        self.stop()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """And go on, if it was a look during training."""
        if trainer.state.fn == TrainerFn.FITTING:
            self.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images, and look at the memory now and then."""
        self.images += len(batch["image"]) * trainer.world_size
        if time.monotonic() - self._looked >= LOOK_EVERY:
            self._looked = time.monotonic()
            self.peak = max(self.peak, host_memory())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.stop()

    def report(self) -> dict[str, Any]:
        """Images per second, and peak memory in MiB: of this process with its workers, and of the device."""
        return {
            "images_per_second": self.images / self.seconds if self.seconds else None,
            "training_seconds": self.seconds,
            "host_peak_memory_mib": self.peak / 2**20,
            "device_peak_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
        }


@contextlib.contextmanager
def paused(trainer: pl.Trainer) -> Iterator[None]:
    """Stop the clock of a trainer's :class:`Cost` while a callback does what is not training."""
    clocks = [one for one in trainer.callbacks if isinstance(one, Cost)]  # type: ignore[attr-defined]
    for clock in clocks:
        clock.stop()
    yield
    for clock in clocks:
        clock.start()


def host_memory() -> int:
    """Bytes resident in this process and its children; pages they share count for each."""
    process = psutil.Process()
    total = process.memory_info().rss
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended since it was listed
            total += child.memory_info().rss
    return total
