"""Devices and their memory."""

from __future__ import annotations

import gc

import torch


def release_memory() -> None:
    """Give the memory of networks that nobody refers to any more back to the device."""
    gc.collect()  # a pipeline and its parts refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def best_device() -> str:
    """The machine's accelerator where there is one, for work that no trainer places."""
    return str(torch.accelerator.current_accelerator() or "cpu")
