"""MixUp (Zhang et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from genaug.mixing.base import (
    Context,
    Mixer,
    Pairing,
    check_batch,
    check_mixing_arguments,
    draw_lam,
    draw_pairing,
    mix_targets,
)


class MixUp(Mixer):
    """Adds to each image a share of another one: ``lam * x + (1 - lam) * x[partner]`` (section 2 of the paper).

    Args:
        alpha: Parameter of ``Beta(alpha, alpha)``, from which ``lam`` is drawn; 1 is uniform.
        p: Probability that a batch is mixed, or with ``per_sample`` that a sample is.
        pairing: How partners are chosen, see :func:`genaug.mixing.base.draw_pairing`.
        per_sample: Draw ``lam`` for each sample; the paper's code draws one for the batch.

    >>> mixer = MixUp(alpha=0.2)
    >>> images, targets = mixer(torch.rand(4, 3, 8, 8), torch.eye(4), torch.Generator().manual_seed(0), Context())
    >>> targets.sum(dim=1)
    tensor([1., 1., 1., 1.])
    """

    def __init__(
        self, alpha: float = 1.0, p: float = 1.0, pairing: Pairing = "permutation", per_sample: bool = False
    ) -> None:
        check_mixing_arguments(alpha, p, pairing)
        self.alpha = alpha
        self.p = p
        self.pairing = pairing
        self.per_sample = per_sample

    def __call__(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch, see :class:`genaug.mixing.base.Mixer`."""
        check_batch(images, targets)
        pairing, lam = self.draw(len(images), generator)
        if bool((lam == 1).all()):
            return images, targets
        context.note(partners=pairing, own=lam.float().view(-1, 1, 1).expand(len(images), *images.shape[-2:]))
        return mixup(images, targets, pairing.to(images.device, non_blocking=True), lam)

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the partners ``(B,)`` and the shares ``lam``, ``(B,)`` with ``per_sample`` and ``(1,)`` without."""
        pairing = draw_pairing(self.pairing, batch_size, generator)
        return pairing, draw_lam(self.alpha, self.p, batch_size if self.per_sample else 1, generator)


def mixup(images: Tensor, targets: Tensor, pairing: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ``lam * x + (1 - lam) * x[pairing]`` for images and targets.

    Args:
        images: ``(B, C, H, W)``.
        targets: ``(B, K)``.
        pairing: ``(B,)`` indices on the images' device.
        lam: ``(B,)``, or ``(1,)`` for one share for all, in ``[0, 1]``, on any device.

    >>> images = torch.tensor([0.0, 4.0]).view(2, 1, 1, 1)
    >>> mixup(images, torch.eye(2), torch.tensor([1, 0]), torch.tensor([0.75]))[0].flatten()
    tensor([1., 3.])
    """
    # lerp with weight 1 is exact, so a sample that is not mixed comes out bit for bit.
    weight = lam.to(images, non_blocking=True).view(-1, 1, 1, 1)
    return images.index_select(0, pairing).lerp_(images, weight), mix_targets(targets, pairing, lam)
