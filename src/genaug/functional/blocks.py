"""Images as grids of blocks: pooling maps to the grid, and building images out of blocks of others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pool_blocks(maps: Tensor, blocks: int) -> Tensor:
    """Average maps ``(B, H, W)`` over a grid of ``blocks`` x ``blocks``: ``(B, blocks, blocks)``.

    >>> pool_blocks(torch.arange(16.0).view(1, 4, 4), 2).tolist()
    [[[2.5, 4.5], [10.5, 12.5]]]
    """
    height, width = maps.shape[-2:]
    return F.avg_pool2d(maps[:, None], (height // blocks, width // blocks))[:, 0]


def mix_blocks(images: Tensor, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Build images block by block: ``share * first + (1 - share) * second``.

    A block is named by one number, ``image * n * n + row * n + column`` for a grid of n x n. Where the share is 0 or 1,
    or both are the same block, pixels are copied as they are.

    Args:
        images: ``(B, C, H, W)``, sides divisible by n.
        first: ``(N, n, n)`` names of blocks, on the CPU.
        second: ``(N, n, n)`` names of blocks, on the CPU.
        share: ``(N, n, n)`` in ``[0, 1]``, on the CPU: what is mixed is known without asking the images' device.

    Returns:
        ``(N, C, H, W)``.

    >>> images = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    >>> first, second = torch.tensor([[[3, 2], [1, 0]]]), torch.tensor([[[0, 0], [0, 0]]])
    >>> mix_blocks(images, first, second, torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])).view(2, 2)
    tensor([[4., 2.],
            [1., 1.]])
    """
    channels, height, width = images.shape[1:]
    size, blocks = first.shape[:2]
    # A row of a block is contiguous in memory, so one pass copies all blocks to their places.
    rows = images.reshape(-1, width // blocks)
    names = _rows_of(torch.where(share > 0, first, second), channels, height, images.device)
    mixed = rows.index_select(0, names.permute(0, 3, 1, 4, 2).reshape(-1))
    soft = (share > 0) & (share < 1) & (first != second)
    if soft.any():
        places = torch.arange(size * blocks * blocks).view_as(first)
        to, one, other = (
            _rows_of(names[soft], channels, height, images.device, blocks) for names in (places, first, second)
        )
        weight = share[soft].to(images, non_blocking=True).view(-1, 1, 1, 1).expand(*to.shape, 1).reshape(-1, 1)
        blend = rows.index_select(0, other.reshape(-1)).lerp_(rows.index_select(0, one.reshape(-1)), weight)
        mixed.index_copy_(0, to.reshape(-1), blend)
    return mixed.view(size, channels, height, width)


def _rows_of(names: Tensor, channels: int, height: int, device: torch.device, blocks: int | None = None) -> Tensor:
    """Where the rows of blocks ``(...)`` lie among all rows of all images: ``(..., C, rows of a block)``."""
    blocks = blocks or names.shape[-1]
    side = height // blocks
    image, row, column = names // blocks**2, names // blocks % blocks, names % blocks
    starts = ((image * channels * height + row * side) * blocks + column).to(device, non_blocking=True)
    channel = torch.arange(channels, device=device)[:, None] * (height * blocks)
    return starts[..., None, None] + channel + torch.arange(side, device=device) * blocks
