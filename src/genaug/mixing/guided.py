"""GuidedMixup (Kang & Kim, 2023): Guided-SR and Guided-AP, by the saliency they are given."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from genaug.functional.maps import blur, gaussian_kernel, sum_to_one
from genaug.mixing.base import PAIRINGS, Context, Mixer, Pairing, check_batch, draw_pairing, mix_targets
from genaug.saliency.base import Saliency

#: What saliency maps are blurred with.
BLUR = gaussian_kernel(7, 3.0)


class GuidedMix(Mixer):
    """Mixes two images pixel by pixel, each pixel in proportion to how salient it is in either.

    Saliency maps are blurred (7 pixels, sigma 3) and divided by their sums; a pixel of an image has the weight
    ``s / (s + s of the partner)``, one half where neither is salient, and a label the mean weight of its image's
    pixels. There is no ``lam``. Greedy pairing brings images together whose salient regions lie apart, so that both
    survive; the distances travel to the CPU at once.

    Args:
        saliency: Spectral residual makes it Guided-SR, the gradient's Guided-AP.
        pairing: ``greedy``, see :func:`greedy_cycle`, or one of :func:`genaug.mixing.base.draw_pairing`.
        p: Probability that a batch is mixed.

    Raises:
        ValueError: ``p`` is no probability or ``pairing`` unknown.

    >>> from genaug.saliency.spectral_residual import SpectralResidual
    >>> mixer = GuidedMix(SpectralResidual())
    >>> images, targets = mixer(torch.rand(4, 3, 8, 8), torch.eye(4), torch.Generator().manual_seed(0), Context())
    >>> (targets > 0).sum(dim=1)
    tensor([2, 2, 2, 2])
    """

    def __init__(self, saliency: Saliency, pairing: Literal["greedy"] | Pairing = "greedy", p: float = 1.0) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p is the probability of mixing: expected a number in [0, 1], came {p}")
        if pairing not in ("greedy", *PAIRINGS):
            raise ValueError(f"pairing: expected one of greedy, {', '.join(PAIRINGS)}, came {pairing!r}")
        self.saliency: Saliency = saliency
        self.pairing, self.p = pairing, p

    def __call__(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch, see :class:`genaug.mixing.base.Mixer`."""
        check_batch(images, targets)
        pairing = None if self.pairing == "greedy" else draw_pairing(self.pairing, len(images), generator)
        if torch.rand((), generator=generator) >= self.p:
            return images, targets
        maps = sum_to_one(blur(self.saliency(images, targets, context), BLUR))
        if pairing is None:
            pairing = greedy_cycle(squared_distances(maps).cpu())
        partners = pairing.to(images.device, non_blocking=True)
        own = pixel_weights(maps, partners)
        context.note(partners=pairing, own=own)
        return guided(images, targets, partners, own)


def squared_distances(maps: Tensor) -> Tensor:
    """Squared Euclidean distances ``(B, B)`` between maps ``(B, H, W)``.

    By inner products, which takes a tenth of the time that differences do. The maps' mean is taken off first: it
    cancels out of every distance, and what is left is exact to about the last digits of single precision.

    >>> squared_distances(torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]]))
    tensor([[ 0., 25.],
            [25.,  0.]])
    """
    with torch.autocast(maps.device.type, enabled=False):
        flat = maps.flatten(1)
        flat = flat - flat.mean(dim=0)
        inner = flat @ flat.T
    square = inner.diagonal()
    return (square[:, None] + square - 2 * inner).clamp_(min=0)


def greedy_cycle(distances: Tensor) -> Tensor:
    """Pair each sample with the next one on a tour that always goes to the farthest sample not yet visited.

    It starts with the two samples that are farthest apart and ends where it started:
    everybody is a partner once, and nobody its own unless it is alone.

    Args:
        distances: ``(B, B)`` on the CPU, symmetric.

    Returns:
        ``(B,)`` indices of the partners.

    >>> on_a_line = torch.tensor([0.0, 1.0, 5.0, 9.0])
    >>> greedy_cycle((on_a_line[:, None] - on_a_line).abs())  # 0 -> 3 -> 1 -> 2 -> 0
    tensor([3, 2, 0, 1])
    """
    size = len(distances)
    away = distances.numpy().astype(np.float64)
    np.fill_diagonal(away, -1)
    start = here = int(away.argmax()) // size
    pairing = np.full(size, start)
    for _ in range(size - 1):
        away[:, here] = -1  # nobody comes here again
        pairing[here] = int(away[here].argmax())
        here = pairing[here]
    return torch.from_numpy(pairing)


def pixel_weights(maps: Tensor, pairing: Tensor) -> Tensor:
    """Weight of each image's own pixels, ``s / (s + s[pairing])``, and one half where both are 0.

    Args:
        maps: ``(B, H, W)``, 0 or more.
        pairing: ``(B,)`` indices on the maps' device.

    >>> pixel_weights(torch.tensor([[[0.0, 1.0]], [[0.0, 3.0]]]), torch.tensor([1, 0]))
    tensor([[[0.5000, 0.2500]],
    <BLANKLINE>
            [[0.5000, 0.7500]]])
    """
    both = maps.index_select(0, pairing).add_(maps)
    return torch.div(maps, both, out=both).nan_to_num_(nan=0.5)


def guided(images: Tensor, targets: Tensor, pairing: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ``own * x + (1 - own) * x[pairing]``, and the labels by the mean of ``own``.

    Args:
        images: ``(B, C, H, W)``.
        targets: ``(B, K)``.
        pairing: ``(B,)`` indices on the images' device.
        own: ``(B, H, W)`` in ``[0, 1]``, float32.
    """
    weights = own[:, None].to(images.dtype)
    mixed = images.index_select(0, pairing).lerp_(images, weights)
    return mixed, mix_targets(targets, pairing, own.mean(dim=(1, 2)))
