"""Loggers that need more than a constructor call."""

from __future__ import annotations

import os
from typing import Any


def wandb_logger(project: str, group: str, save_dir: str) -> Any:
    """A Weights & Biases logger, offline unless a key is set; the run is closed when its job ends.

    Raises:
        ModuleNotFoundError: wandb is not installed.
    """
    try:
        import wandb  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("logger=wandb needs the wandb extra: pip install 'genaug[wandb]'.") from error
    from pytorch_lightning.loggers import WandbLogger

    return WandbLogger(project=project, group=group, save_dir=save_dir, offline="WANDB_API_KEY" not in os.environ)
