"""SnapMix (Huang et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genaug.functional.boxes import boxes_around, inside_boxes, share_outside
from genaug.functional.maps import sum_to_one
from genaug.mixing.base import (
    Context,
    Mixer,
    Pairing,
    add_targets,
    check_batch,
    check_mixing_arguments,
    draw_lam,
    draw_pairing,
)
from genaug.saliency.base import Saliency


class SnapMix(Mixer):
    """Pastes a box of another image, resized, into a box elsewhere, and weights labels by what the boxes showed.

    Both boxes are CutMix's, drawn independently. The semantic percent map of an image is its class activation map
    divided by its sum. The image's own label keeps the share of its map outside the box that was pasted over, and the
    partner's gets the share of its map inside the box that was cut out: the rows of targets do not sum to 1. Where two
    images have the same label it gets both shares. An image whose map is 0 everywhere counts by area instead, and so
    does its partner.

    With the default saliency the network needs a convolutional feature map, pooled before a linear head: no vision
    transformer, see :class:`genaug.saliency.cam.ClassActivation`. In multi-label data a class that both images show
    can get a weight above 1, which :class:`genaug.losses.SoftBCE` takes for 1.

    Args:
        saliency: Makes the semantic percent maps.
        alpha: Parameter of ``Beta(alpha, alpha)``, from which both boxes' areas are drawn.
        p: Probability that a batch is mixed, or with ``per_sample`` that a sample is. The paper takes 1 for pretrained
            networks and 0.5 from scratch.
        pairing: How partners are chosen, see :func:`genaug.mixing.base.draw_pairing`.
        per_sample: Draw the boxes for each sample; the paper's code draws one pair of them for the batch.
        double_same_class: Count both shares for the image's label and again for the partner's where the two are the
            same, as the published code does: such a sample weighs twice as much.

    Raises:
        ValueError: An argument is out of its range.

    >>> from genaug.saliency.spectral_residual import SpectralResidual
    >>> mixer = SnapMix(SpectralResidual())  # any saliency will do
    >>> images, targets = mixer(torch.rand(4, 3, 8, 8), torch.eye(4), torch.Generator().manual_seed(0), Context())
    >>> images.shape, targets.shape
    (torch.Size([4, 3, 8, 8]), torch.Size([4, 4]))
    """

    def __init__(
        self,
        saliency: Saliency,
        alpha: float = 5.0,
        p: float = 1.0,
        pairing: Pairing = "permutation",
        per_sample: bool = False,
        double_same_class: bool = False,
    ) -> None:
        check_mixing_arguments(alpha, p, pairing)
        self.saliency: Saliency = saliency
        self.alpha, self.p, self.pairing = alpha, p, pairing
        self.per_sample, self.double_same_class = per_sample, double_same_class

    def __call__(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch, see :class:`genaug.mixing.base.Mixer`."""
        check_batch(images, targets)
        height, width = images.shape[-2:]
        pairing, into, cut = self.draw(len(images), height, width, generator)
        if not bool(has_area(into).any()):
            return images, targets
        partners = pairing.to(images.device, non_blocking=True)
        maps = self.saliency(images, targets, context)
        context.note(partners=pairing, boxes=into)
        own, others = label_weights(maps, partners, into, cut)
        return paste_resized(images, partners, into, cut), self._mix_targets(targets, partners, own, others)

    def draw(
        self, batch_size: int, height: int, width: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the partners ``(B,)``, the boxes that are pasted into and those that are cut out, ``(N, 4)`` each.

        N is B with ``per_sample`` and 1 without. Where one of the two boxes has no pixel, the other has none either.
        """
        pairing = draw_pairing(self.pairing, batch_size, generator)
        size = batch_size if self.per_sample else 1
        lams = draw_lam(self.alpha, self.p, size, generator), draw_lam(self.alpha, 1.0, size, generator)
        into, cut = (boxes_around(draw_centres(size, height, width, generator), lam, height, width) for lam in lams)
        both = (has_area(into) & has_area(cut))[:, None]
        return pairing, into * both, cut * both

    def _mix_targets(self, targets: Tensor, pairing: Tensor, own: Tensor, others: Tensor) -> Tensor:
        partners = targets[pairing]
        if self.double_same_class:
            doubled = 1 + torch.isclose(targets, partners, rtol=0, atol=0, equal_nan=True).all(dim=1)
            own, others = own * doubled, others * doubled
        return add_targets(targets, own, partners, others)


def draw_centres(size: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw ``(size, 2)`` uniform positions y, x in pixels."""
    y = torch.randint(height, (size,), generator=generator)
    return torch.stack([y, torch.randint(width, (size,), generator=generator)], dim=1)


def has_area(boxes: Tensor) -> Tensor:
    """Whether each box ``(N, 4)`` has a pixel, ``(N,)``."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def label_weights(maps: Tensor, pairing: Tensor, into: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of each image's own label and of its partner's.

    Args:
        maps: ``(B, H, W)``, 0 or more.
        pairing: ``(B,)`` indices on the maps' device.
        into: ``(B, 4)`` or ``(1, 4)``, the boxes that are pasted over, on the CPU.
        cut: As ``into``, the boxes that are cut out of the partners.

    Returns:
        ``(B,)`` own and ``(B,)`` partner's weights, each in ``[0, 1]``, on the maps' device.

    >>> maps = torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]])
    >>> label_weights(maps, torch.tensor([1, 0]), torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 2]]))
    (tensor([0.7500, 0.5000]), tensor([0.5000, 0.7500]))
    """
    shares, (height, width) = sum_to_one(maps), maps.shape[-2:]
    own = 1 - share_inside(shares, into)
    others = share_inside(shares, cut)[pairing] if len(cut) == 1 else share_inside(shares[pairing], cut)
    outside = share_outside(into, height, width).to(maps)
    known = shares.sum(dim=(1, 2)) > 0
    known &= known[pairing]
    return torch.where(known, own, outside), torch.where(known, others, 1 - outside)


def share_inside(shares: Tensor, boxes: Tensor) -> Tensor:
    """Sum of each map ``(B, H, W)`` inside its box ``(B, 4)``, or inside one ``(1, 4)`` for all; ``(B,)``."""
    if len(boxes) == 1:
        y1, x1, y2, x2 = boxes[0].tolist()
        return shares[:, y1:y2, x1:x2].sum(dim=(1, 2))
    inside = inside_boxes(boxes.to(shares.device, non_blocking=True), *shares.shape[-2:])
    return (shares * inside).sum(dim=(1, 2))


def paste_resized(images: Tensor, pairing: Tensor, into: Tensor, cut: Tensor) -> Tensor:
    """Cut a box out of each partner, resize it (bilinear, corners on corners) and paste it into another box.

    Args:
        images: ``(B, C, H, W)``.
        pairing: ``(B,)`` indices on the images' device.
        into: ``(B, 4)`` or ``(1, 4)``, the boxes that are pasted over, on the CPU.
        cut: As ``into``, the boxes that are cut out of the partners; empty where those are.
    """
    if len(into) > 1:
        return _paste_each(images, pairing, into, cut)
    y1, x1, y2, x2 = into[0].tolist()
    top, left, bottom, right = cut[0].tolist()
    crops = images[:, :, top:bottom, left:right][pairing]
    mixed = images.clone()
    with torch.autocast(images.device.type, enabled=False):
        mixed[:, :, y1:y2, x1:x2] = F.interpolate(
            crops.float(), (y2 - y1, x2 - x1), mode="bilinear", align_corners=True
        )
    return mixed


def _paste_each(images: Tensor, pairing: Tensor, into: Tensor, cut: Tensor) -> Tensor:
    """Boxes of many sizes: every pixel of the image looks up where it comes from, and those outside do not use it."""
    height, width = images.shape[-2:]
    into, cut = into.to(images.device, non_blocking=True), cut.to(images.device, non_blocking=True)
    y, x = (_source(into, cut, axis, side) for axis, side in ((0, height), (1, width)))
    with torch.autocast(images.device.type, enabled=False):
        grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
        moved = F.grid_sample(images[pairing].float(), grid, padding_mode="border", align_corners=True)
    inside = inside_boxes(into, height, width)
    return torch.where(inside[:, None], moved.to(images.dtype), images)


def _source(into: Tensor, cut: Tensor, axis: int, side: int) -> Tensor:
    """Where each of ``side`` pixels along an axis comes from: ``(B, side)``, -1 the first and 1 the last pixel."""
    (first, last), (start, end) = ((box[:, axis, None], box[:, axis + 2, None] - 1) for box in (into, cut))
    scale = (end - start) / (last - first).clamp(min=1)
    at = start + (torch.arange(side, device=into.device) - first) * scale
    return at * (2 / max(side - 1, 1)) - 1
