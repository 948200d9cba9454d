"""The contract of a saliency map, and what several of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from genaug.mixing.base import Context


class Saliency(ABC):
    """Finds where each image of a batch shows what it is about.

    A mixer calls it when it mixes and not otherwise, so a saliency costs nothing in a batch that stays as it is. It
    leaves the network as it was: weights, gradients, statistics of batch normalisation, and the mode of every module.

    Attributes:
        needs_masks: Whether ``context.masks`` must be there; the data loader reads masks only when it is so.
    """

    needs_masks: bool = False

    @abstractmethod
    def __call__(self, images: Tensor, targets: Tensor, context: Context) -> Tensor:
        """Compute the maps of a batch.

        Args:
            images: ``(B, C, H, W)``, floating point, normalised as the network sees them.
            targets: ``(B, K)``, floating point: one-hot, multi-hot or soft rows, NaN for a class that is unknown.
            context: Network, loss and masks of the batch.

        Returns:
            ``(B, H, W)`` float32 on the images' device: finite, 0 or more, without gradient, and on a scale of its
            own. A map may be 0 everywhere.

        Raises:
            ValueError: The context lacks what the saliency needs.
        """


@contextmanager
def measured(name: str, device: torch.device) -> Iterator[None]:
    """Inside, torch's and Lightning's profilers count the time as ``saliency/<name>``, and autocast rounds nothing."""
    with torch.profiler.record_function(f"saliency/{name}"), torch.autocast(device.type, enabled=False):
        yield
