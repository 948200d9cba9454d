"""CutMix (Yun et al., 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from genaug.functional.boxes import boxes_around, paste_boxes, share_outside
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


class CutMix(Mixer):
    """Pastes a box of another image at the same place (section 3.1 of the paper).

    The box's sides are ``sqrt(1 - lam)`` of the image's, its centre is uniform, and it is clipped at the border.

    Args:
        alpha: Parameter of ``Beta(alpha, alpha)``, from which ``lam`` is drawn; 1 is uniform.
        p: Probability that a batch is mixed, or with ``per_sample`` that a sample is.
        pairing: How partners are chosen, see :func:`genaug.mixing.base.draw_pairing`.
        per_sample: Draw ``lam`` and the box for each sample; the paper's code draws one for the batch.
        correct_lam: Weight the labels by the area left after clipping (the paper's code) instead of the ``lam`` drawn.

    >>> mixer = CutMix()
    >>> images, targets = mixer(torch.rand(4, 3, 8, 8), torch.eye(4), torch.Generator().manual_seed(0), Context())
    >>> targets.sum(dim=1)
    tensor([1., 1., 1., 1.])
    """

    def __init__(
        self,
        alpha: float = 1.0,
        p: float = 1.0,
        pairing: Pairing = "permutation",
        per_sample: bool = False,
        correct_lam: bool = True,
    ) -> None:
        check_mixing_arguments(alpha, p, pairing)
        self.alpha = alpha
        self.p = p
        self.pairing = pairing
        self.per_sample = per_sample
        self.correct_lam = correct_lam

    def __call__(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch, see :class:`genaug.mixing.base.Mixer`."""
        check_batch(images, targets)
        height, width = images.shape[-2:]
        pairing, lam, centres = self.draw(len(images), height, width, generator)
        if bool((lam == 1).all()):
            return images, targets
        boxes = boxes_around(centres, lam, height, width)
        if self.correct_lam:
            lam = share_outside(boxes, height, width)
        context.note(partners=pairing, boxes=boxes)
        return cutmix(images, targets, pairing, boxes, lam)

    def draw(
        self, batch_size: int, height: int, width: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the partners ``(B,)``, ``lam`` ``(N,)`` and the centres ``(N, 2)`` as y, x in pixels.

        N is B with ``per_sample`` and 1 without.
        """
        pairing = draw_pairing(self.pairing, batch_size, generator)
        size = batch_size if self.per_sample else 1
        lam = draw_lam(self.alpha, self.p, size, generator)
        y = torch.randint(height, (size,), generator=generator)
        x = torch.randint(width, (size,), generator=generator)
        return pairing, lam, torch.stack([y, x], dim=1)


def cutmix(images: Tensor, targets: Tensor, pairing: Tensor, boxes: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """Paste each partner's box and mix the targets by ``lam``.

    Args:
        images: ``(B, C, H, W)``.
        targets: ``(B, K)``.
        pairing: ``(B,)`` indices on the CPU.
        boxes: ``(B, 4)``, or ``(1, 4)`` for one box for all, integers y1, x1, y2, x2 on the CPU.
        lam: ``(B,)``, or ``(1,)``: weight of the image's own label, in ``[0, 1]``, on the CPU.
    """
    partners = pairing.to(targets.device, non_blocking=True)
    return paste_boxes(images, pairing, boxes), mix_targets(targets, partners, lam)
