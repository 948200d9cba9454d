"""Boxes cut out of images, ``(N, 4)`` integers y1, x1, y2, x2; the second corner is not part of a box."""

from __future__ import annotations

import torch
from torch import Tensor


def boxes_around(centres: Tensor, lam: Tensor, height: int, width: int) -> Tensor:
    """Compute the boxes with sides ``sqrt(1 - lam)`` of the image's, rounded to pixels and clipped at the border.

    Args:
        centres: ``(N, 2)`` y, x in pixels.
        lam: ``(N,)`` in ``[0, 1]``, or ``(1,)`` for boxes of one size.
        height: Of the images, in pixels.
        width: Of the images, in pixels.

    Returns:
        ``(N, 4)`` integers y1, x1, y2, x2.

    >>> boxes_around(torch.tensor([[4, 1]]), torch.tensor([0.75]), 8, 8)
    tensor([[2, 0, 6, 3]])
    """
    image = torch.tensor([height, width])
    sides = ((1 - lam).sqrt()[:, None] * image).round().long()
    first = centres - sides // 2
    second = first + sides
    return torch.cat([first.clamp(min=0), torch.minimum(second, image)], dim=1)


def share_outside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Compute the share of the image's area that lies outside each box.

    Args:
        boxes: ``(N, 4)`` integers y1, x1, y2, x2.
        height: Of the images, in pixels.
        width: Of the images, in pixels.

    Returns:
        ``(N,)`` in ``[0, 1]``, double precision.

    >>> share_outside(torch.tensor([[2, 0, 6, 4]]), 8, 8)
    tensor([0.7500], dtype=torch.float64)
    """
    y1, x1, y2, x2 = boxes.unbind(dim=1)
    return 1 - ((y2 - y1) * (x2 - x1)).double() / (height * width)


def inside_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Compute which pixels lie inside each box.

    Args:
        boxes: ``(N, 4)`` integers y1, x1, y2, x2.
        height: Of the images, in pixels.
        width: Of the images, in pixels.

    Returns:
        ``(N, H, W)`` bool on the boxes' device.

    >>> inside_boxes(torch.tensor([[0, 1, 1, 3]]), 2, 3).int()
    tensor([[[0, 1, 1],
             [0, 0, 0]]], dtype=torch.int32)
    """
    y1, x1, y2, x2 = boxes.view(-1, 4, 1).unbind(dim=1)
    rows = torch.arange(height, device=boxes.device)
    columns = torch.arange(width, device=boxes.device)
    inside_rows = (rows >= y1) & (rows < y2)
    inside_columns = (columns >= x1) & (columns < x2)
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def paste_boxes(images: Tensor, pairing: Tensor, boxes: Tensor) -> Tensor:
    """Paste each partner's box at the same place.

    Args:
        images: ``(B, C, H, W)``.
        pairing: ``(B,)`` indices on the CPU.
        boxes: ``(B, 4)``, or ``(1, 4)`` for one box for all, integers y1, x1, y2, x2 on the CPU.
    """
    mixed = images.clone()
    if len(boxes) == 1:
        y1, x1, y2, x2 = boxes[0].tolist()
        crops = images[:, :, y1:y2, x1:x2].index_select(0, pairing.to(images.device, non_blocking=True))
        mixed[:, :, y1:y2, x1:x2] = crops
        return mixed
    # Where to copy from and to is known on the CPU: no copy waits for the device, and only the boxes are copied.
    for own, (partner, (y1, x1, y2, x2)) in enumerate(zip(pairing.tolist(), boxes.tolist(), strict=True)):
        mixed[own, :, y1:y2, x1:x2] = images[partner, :, y1:y2, x1:x2]
    return mixed
