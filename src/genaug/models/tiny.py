"""A small residual network for small images: the demo, the tests and anything that must train on a laptop."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a shortcut (He et al., 2016, basic block)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``."""
        out = F.relu(self.norm1(self.conv1(x)))
        # The same as a 1x1 convolution of this stride, whose gradient oneDNN (of torch 2.15) writes out of bounds when
        # the activations are channels-last and narrow: the process crashes.
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x[:, :, :: self.stride, :: self.stride]))


class Tiny(nn.Module):
    """A stem that halves the image, three residual stages, average pooling and a linear head.

    The last feature map is an eighth of the image: 8 x 8 for 64 pixels, enough for Grad-CAM to point at something.

    Args:
        num_classes: Number of outputs.
        channels: Of the images.
        width: Channels of the first stage; each later stage has twice as many. 24 makes 0.38 million parameters.
    """

    def __init__(self, num_classes: int, channels: int = 3, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.features = nn.Sequential(
            Block(width, width, stride=1),
            Block(width, 2 * width, stride=2),
            Block(2 * width, 2 * width, stride=1),
            Block(2 * width, 4 * width, stride=2),
            Block(4 * width, 4 * width, stride=1),
        )
        self.head = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, channels, H, W)`` to logits ``(B, num_classes)``."""
        # Channels-last activations halve the time of a step on a CPU at this width.
        x = images.contiguous(memory_format=torch.channels_last)
        return self.head(self.features(self.stem(x)).mean(dim=(2, 3)))


def tiny(num_classes: int, image_size: int = 64, channels: int = 3, width: int = 24) -> Tiny:
    """Build a :class:`Tiny`.

    Args:
        num_classes: Number of outputs.
        image_size: Side of the images in pixels; any size from 16 on fits the same network.
        channels: Of the images.
        width: Channels of the first stage.

    Raises:
        ValueError: The image is too small for three halvings.

    >>> tiny(num_classes=7)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 7])
    """
    if image_size < 16:
        raise ValueError(f"image_size: tiny expects 16 pixels or more, came {image_size}; use larger images")
    return Tiny(num_classes, channels, width)
