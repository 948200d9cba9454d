"""Callbacks that tests put into a run from the command line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig


class Spy(pl.Callback):
    """Each process writes down each training it takes part in, as ``<folder>/<process>-<configuration>.json``.

    Args:
        folder: For the notes.
        config: Name of the configuration as this process composed it.
    """

    def __init__(self, folder: str, config: str) -> None:
        self.folder, self.config = Path(folder), config

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what is really trained, not only what was asked for."""
        note = {
            "config": self.config,
            "rank": trainer.global_rank,
            "world": trainer.world_size,
            "process": os.getpid(),
            "mode": HydraConfig.get().mode.name,
            "folder": trainer.default_root_dir,
            "seed": pl_module.seed,
            "lr": trainer.optimizers[0].param_groups[0]["initial_lr"],
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{os.getpid()}-{self.config}.json").write_text(json.dumps(note))


class Killer(pl.Callback):
    """Ends training after given steps, each once: another start of the same run goes past it.

    Args:
        folder: Where it is noted that a step has been used.
        steps: Optimizer steps after which to end.
        violently: By a signal to this process; else by an exception.
        sign: Name of the signal.
        seed: Only a run of this seed; None for any.
    """

    def __init__(
        self, folder: str, steps: list[int], violently: bool = True, sign: str = "SIGKILL", seed: int | None = None
    ) -> None:
        self.folder, self.steps, self.violently = Path(folder), steps, violently
        self.sign, self.seed = signal.Signals[sign], seed

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """End, if this is the step."""
        step = trainer.global_step
        mark = self.folder / f"killed-at-{step}"
        if step not in self.steps or mark.exists() or self.seed not in (None, pl_module.seed):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
        if self.violently:
            os.kill(os.getpid(), self.sign)
            return
        raise InterruptedError(f"ended at step {step}")


class TwoPartsError(RuntimeError):
    """An exception that another process cannot be sent: Python rebuilds exceptions from their message alone."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} is broken at {where}")


class Breaker(pl.Callback):
    """Breaks the jobs of one seed.

    Args:
        seed: Of these jobs.
        rank: The process that breaks, or all.
    """

    def __init__(self, seed: int, rank: int | None = None) -> None:
        self.seed, self.rank = seed, rank

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Break, if this is the seed."""
        if pl_module.seed == self.seed and self.rank in (None, trainer.global_rank):
            raise TwoPartsError("the job", f"seed {self.seed}")
