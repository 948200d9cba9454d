"""What is recorded of a run: ``results.json``, and the seconds that its stages took."""

from __future__ import annotations

import contextlib
import json
import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig

from genaug.launch import chosen, config_hash, task_overrides
from genaug.synthesis.store import write_atomically

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from genaug.callbacks.cost import Cost
    from genaug.classifier import Classifier
    from genaug.data.datamodule import DataModule
    from genaug.experiment import Pieces
    from genaug.methods.base import Made

log = logging.getLogger(__name__)

RESULTS, SELECTION, STAGES = "results.json", "selection.json", "stages.json"


@dataclass
class Clock:
    """Seconds each stage took, added up over the sessions of a run; a stage that was killed counts when it is done.

    Attributes:
        file: Where they are kept from one session to the next.
    """

    file: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file.exists():
            self.seconds = json.loads(self.file.read_text())

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and say that it begins."""
        log.info("%s", name)
        started = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 3)
        write_atomically(self.file, json.dumps(self.seconds).encode())


def collect(
    cfg: DictConfig,
    pieces: Pieces,
    data: DataModule,
    trainer: pl.Trainer,
    classifier: Classifier,
    made: Made | None,
    clock: Clock,
    cost: Cost,
    steps: int,
) -> dict[str, Any]:
    """All that is recorded of a run of ``steps``: scores with their n, what it was, what it cost, what it ran on."""
    folder = Path(cfg.paths.output)
    # What an earlier session reported and this one does not, as the cost of training that it found done, stays.
    earlier: dict[str, Any] = json.loads((folder / RESULTS).read_text()) if (folder / RESULTS).exists() else {}
    return earlier | {
        "dataset": pieces.dataset.name,
        "method": pieces.method.name,
        "scale": pieces.method.scale,
        "experiment": chosen("experiment"),
        "overrides": task_overrides(),
        "seed": cfg.seed,
        "config": config_hash(cfg),
        "comparison": config_hash(cfg, without=("seed",)),
        "selection": {
            "protocol": cfg.protocol,
            "weights": {"heldout": "best on held-out part", "last": "last", "paper": "best on test"}[cfg.protocol],
            "score": json.loads((folder / SELECTION).read_text())["score"] if (folder / SELECTION).exists() else None,
        },
        "scores": {name: named(values, pieces.dataset.groups) for name, values in classifier.results().items()},
        "images": {name: len(samples) for name, samples in data.splits.items()},
        "train_images": len(data.train_source),
        "classes": len(pieces.dataset.classes),
        "steps": steps,
        "batch_size": cfg.recipe.batch_size,
        "parameters": sum(parameter.numel() for parameter in pieces.model.parameters()),
        "made": made.report() if made else None,
        "stage_seconds": clock.seconds,
        "cost": cost.report() if cost.seconds or not earlier else earlier["cost"],
        "device": device_name(trainer),
        "versions": versions(),
        **{
            callback.section: callback.report()
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            if hasattr(callback, "section")
        },
    }


def named(values: Mapping[str, Any], groups: Sequence[str]) -> dict[str, Any]:
    """What a metric computed, its groups by name."""
    if "group_score" not in values:
        return dict(values)
    by_group = {
        name: {"score": score, "n": n}
        for name, score, n in zip(groups, values["group_score"], values["group_n"], strict=True)
    }
    rest = {key: value for key, value in values.items() if key not in ("group_score", "group_n", "worst_group")}
    worst = values["worst_group"]
    return {**rest, "worst_group": None if worst is None else groups[worst], "groups": by_group}


def device_name(trainer: pl.Trainer) -> str:
    """What the training ran on, as "1 x cpu" or "4 x NVIDIA ..."."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{trainer.world_size} x {name}"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("genaug", "torch", "torchvision", "pytorch-lightning", "timm", "numpy", "opencv-python-headless")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
