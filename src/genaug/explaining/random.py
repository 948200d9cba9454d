"""Noise: the control that every map must beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genaug.explaining.base import Explainer


class RandomMap(Explainer):
    """Draws each pixel from [0, 1), whatever the network and the image.

    The numbers come from a CPU generator seeded by the image's seed: the same seed gives the same map on any device.
    """

    def explain(self, model: nn.Module, images: Tensor, classes: Tensor, seeds: Sequence[int]) -> Tensor:
        """See :meth:`Explainer.explain`."""
        size = images.shape[2:]
        maps = [torch.rand(size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(maps).to(images.device)
