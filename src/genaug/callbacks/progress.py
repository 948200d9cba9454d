"""One bar over all training steps, however many epochs they are."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl

from genaug.console import LINE_EVERY, bar

log = logging.getLogger(__name__)


class Progress(pl.Callback):
    """Step, loss, score on the held-out part, speed, time left; a line every ten seconds where there is no terminal."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar at the step a resumed run starts from."""
        self.total = int(trainer.estimated_stepping_batches)
        self.first_step, self.started = trainer.global_step, time.monotonic()
        self.last_line = self.started
        self.bar = bar()
        self.in_terminal = trainer.is_global_zero and self.bar.console.is_terminal
        if self.in_terminal:
            self.bar.start()
            self.task = self.bar.add_task("training", total=self.total, completed=self.first_step, note="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on, a few times a second at most."""
        now, step = time.monotonic(), trainer.global_step
        if not trainer.is_global_zero or (now - self.last_line < (0.2 if self.in_terminal else LINE_EVERY)):
            return
        self.last_line = now
        loss = float(outputs["loss"])
        score = trainer.callback_metrics.get("val/score")
        note = f"loss {loss:.3f}" + ("" if score is None else f", held-out {100 * float(score):.1f} %")
        if self.in_terminal:
            self.bar.update(self.task, completed=step, note=note)
        else:
            speed = (step - self.first_step) / max(now - self.started, 1e-9)
            left = (self.total - step) / max(speed, 1e-9)
            log.info("training: step %d/%d, %s, %.1f steps/s, %.0f s left", step, self.total, note, speed, left)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar at its end."""
        if self.in_terminal:
            self.bar.update(self.task, completed=trainer.global_step)
            self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the terminal usable."""
        if getattr(self, "in_terminal", False):
            self.bar.stop()
