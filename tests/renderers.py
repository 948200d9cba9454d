"""Small renderers that tests run real plans with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl

from genaug.synthesis.jobs import Job
from genaug.synthesis.runner import Runner


def runner_in(folder: Path, retries: int = 2) -> Runner:
    """A runner on one CPU; ``folder`` is where speeds are kept."""
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    return Runner(trainer, folder, retries)


class Noise:
    """Coloured noise that follows from the seed: ``slow`` seconds an image; some seeds give what cannot be used."""

    speed_key = "noise"

    def __init__(self, batch_size: int = 4, slow: float = 0.0, bad: dict[int, str] | None = None) -> None:
        self.batch_size, self.slow, self.bad = batch_size, slow, bad or {}
        self.batches: list[list[int]] = []
        self.loaded: list[str] = []

    def load(self, device: str) -> None:
        self.loaded.append(device)

    def unload(self) -> None:
        self.loaded.append("nowhere")

    def render(self, jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        self.batches.append(list(seeds))
        time.sleep(self.slow * len(jobs))
        return [self._one(seed) for seed in seeds]

    def _one(self, seed: int) -> np.ndarray | None:
        kind = self.bad.get(seed)
        if kind == "not finite":
            return None
        if kind in ("black", "constant"):
            return np.full((8, 8, 3), {"black": 0, "constant": 77}[kind], np.uint8)
        return np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)

    def verdict(self, job: Job, image: np.ndarray) -> str:
        return "ugly" if self.bad.get(job.seed) == "ugly" else "ok"


def noise_jobs(count: int, copies: int = 1) -> list[Job]:
    """A plan of ``count`` sources with ``copies`` images each; labels alternate between two classes."""
    return [
        Job("noise", seed=100 * copy + source, copy=copy, label=source % 2, sources=(f"s{source:03d}",), prompt="noise")
        for copy in range(1, copies + 1)
        for source in range(count)
    ]
