"""Memory of devices."""

from __future__ import annotations

import gc

import torch


def release_memory() -> None:
    """Give the memory of networks that nobody refers to any more back to the device."""
    gc.collect()  # a pipeline and its parts refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
