"""SaliencyMix (Uddin et al., 2021)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from genaug.functional.boxes import boxes_around, paste_boxes, share_outside
from genaug.functional.maps import peaks
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
from genaug.saliency.base import Saliency

SaliencyOf = Literal["partner", "first"]


class SaliencyMix(Mixer):
    """Pastes a box around the most salient pixel of another image at the same place.

    The box is CutMix's, with sides ``sqrt(1 - lam)`` of the image's and clipped at the border, and labels are weighted
    by the area that is left; only its centre is no longer left to chance. The centres travel from the images' device to
    the CPU, all at once.

    Args:
        saliency: Finds the most salient pixel; the first of several.
        alpha: Parameter of ``Beta(alpha, alpha)``, from which ``lam`` is drawn; 1 is uniform.
        p: Probability that a batch is mixed, or with ``per_sample`` that a sample is.
        pairing: How partners are chosen, see :func:`genaug.mixing.base.draw_pairing`.
        per_sample: Draw ``lam`` for each sample; the paper's code draws one for the batch.
        saliency_of: ``partner``: each box lies around the most salient pixel of the image it is cut from (the paper).
            ``first``: every box lies around that of the first sample's partner (the paper's code).

    Raises:
        ValueError: An argument is out of its range.

    >>> from genaug.saliency.spectral_residual import SpectralResidual
    >>> mixer = SaliencyMix(SpectralResidual())
    >>> images, targets = mixer(torch.rand(4, 3, 8, 8), torch.eye(4), torch.Generator().manual_seed(0), Context())
    >>> targets.sum(dim=1)
    tensor([1., 1., 1., 1.])
    """

    def __init__(
        self,
        saliency: Saliency,
        alpha: float = 1.0,
        p: float = 1.0,
        pairing: Pairing = "permutation",
        per_sample: bool = True,
        saliency_of: SaliencyOf = "partner",
    ) -> None:
        check_mixing_arguments(alpha, p, pairing)
        if saliency_of not in get_args(SaliencyOf):
            raise ValueError(f"saliency_of: expected partner or first, came {saliency_of!r}")
        self.saliency: Saliency = saliency
        self.alpha, self.p, self.pairing = alpha, p, pairing
        self.per_sample, self.saliency_of = per_sample, saliency_of

    def __call__(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch, see :class:`genaug.mixing.base.Mixer`."""
        check_batch(images, targets)
        pairing = draw_pairing(self.pairing, len(images), generator)
        lam = draw_lam(self.alpha, self.p, len(images) if self.per_sample else 1, generator)
        if bool((lam == 1).all()):
            return images, targets
        height, width = images.shape[-2:]
        boxes = boxes_around(self.centres(images, targets, pairing, context), lam, height, width)
        context.note(partners=pairing, boxes=boxes)
        partners = pairing.to(targets.device, non_blocking=True)
        return paste_boxes(images, pairing, boxes), mix_targets(targets, partners, share_outside(boxes, height, width))

    def centres(self, images: Tensor, targets: Tensor, pairing: Tensor, context: Context) -> Tensor:
        """Find the boxes' centres ``(B, 2)``, or ``(1, 2)`` for all, as y, x in pixels on the CPU."""
        if self.saliency_of == "partner":
            return peaks(self.saliency(images, targets, context)).cpu()[pairing]
        first = pairing[:1].to(images.device, non_blocking=True)
        return peaks(self.saliency(images[first], targets[first], context.of(first))).cpu()
