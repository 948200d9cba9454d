"""How an image becomes the square a network sees: the crops of the recipes, and what may follow a crop.

All of them take and return ``uint8`` tensors ``(C, H, W)``; normalisation happens on the device, in the classifier.
They draw from torch's generator, which the training set seeds for each image (see :mod:`genaug.data.images`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from torch import nn
from torchvision.transforms import v2


def resize_side(size: int, ratio: float) -> int:
    """Side to resize to before cropping ``size``, rounded up to a multiple of 8 as the published recipes do.

    >>> [resize_side(size, 8 / 7) for size in (224, 384, 448)]
    [256, 440, 512]
    """
    return max(size, 8 * math.ceil(round(size * ratio / 8, 6)))


class Crop(ABC):
    """The geometry of a recipe, in training and in evaluation.

    Attributes:
        side: The side images are brought to before the crop. Stored parts of images need no more pixels than that.
    """

    side: int

    def first(self) -> nn.Module | None:
        """What training and evaluation both do first, the same for every image; None where there is no such step."""
        return None

    @abstractmethod
    def train(self) -> nn.Module:
        """The random crop (and flip) of training."""

    @abstractmethod
    def eval(self) -> nn.Module:
        """The fixed crop of evaluation."""


class ResizeCrop(Crop):
    """Short side to ``ratio * size``, random square crop, flip; centre crop to evaluate (GuidedMixup's FGVC)."""

    def __init__(self, size: int, ratio: float = 8 / 7, flip: float = 0.5) -> None:
        self.size, self.flip, self.side = size, flip, resize_side(size, ratio)

    def first(self) -> nn.Module:
        """See :meth:`Crop.first`."""
        return v2.Resize(self.side, antialias=True)

    def train(self) -> nn.Module:
        """See :meth:`Crop.train`."""
        return v2.Compose([self.first(), v2.RandomCrop(self.size), v2.RandomHorizontalFlip(self.flip)])

    def eval(self) -> nn.Module:
        """See :meth:`Crop.eval`."""
        return v2.Compose([self.first(), v2.CenterCrop(self.size)])


class RandomResizedCrop(Crop):
    """Crop of random area and aspect, flip; centre crop in evaluation (torchvision's reference recipe)."""

    def __init__(self, size: int, scale: tuple[float, float] = (0.08, 1.0), flip: float = 0.5) -> None:
        self.size, self.scale, self.flip, self.side = size, tuple(scale), flip, resize_side(size, 8 / 7)

    def train(self) -> nn.Module:
        """See :meth:`Crop.train`."""
        return v2.Compose(
            [
                v2.RandomResizedCrop(self.size, scale=self.scale, antialias=True),
                v2.RandomHorizontalFlip(self.flip),
            ]
        )

    def eval(self) -> nn.Module:
        """See :meth:`Crop.eval`."""
        return v2.Compose([v2.Resize(self.side, antialias=True), v2.CenterCrop(self.size)])


class SquashCrop(Crop):
    """Resize to a square whatever the aspect, random crop of the padded square, flip (Diff-Mix; ALIA without crop)."""

    def __init__(
        self, size: int, ratio: float = 8 / 7, padding: int = 8, padding_mode: str = "constant", flip: float = 0.5
    ) -> None:
        self.size, self.padding, self.padding_mode, self.flip = size, padding, padding_mode, flip
        self.side = resize_side(size, ratio) if ratio > 1 else size

    def first(self) -> nn.Module:
        """See :meth:`Crop.first`."""
        return v2.Resize((self.side, self.side), antialias=True)

    def train(self) -> nn.Module:
        """See :meth:`Crop.train`."""
        return v2.Compose(
            [
                self.first(),
                v2.RandomCrop(self.size, padding=self.padding or None, padding_mode=self.padding_mode),
                v2.RandomHorizontalFlip(self.flip),
            ]
        )

    def eval(self) -> nn.Module:
        """See :meth:`Crop.eval`."""
        return v2.Compose([self.first(), v2.CenterCrop(self.size)])


class StripCrop(Crop):
    """Squashed to a square, freed of the strips that a camera trap writes into, squashed again (ALIA's iWildCam).

    Nothing is random. ALIA resizes tensors: with antialiasing, as here, since torchvision 0.17 only.

    Args:
        size: Side of the result.
        side: Of the first square.
        top: First of its rows that is kept.
        height: How many rows are kept.

    Raises:
        ValueError: the first square has no such rows.
    """

    def __init__(self, size: int, side: int = 448, top: int = 10, height: int = 400) -> None:
        if top < 0 or height < 1 or top + height > side:
            raise ValueError(f"top={top} and height={height} must name rows of a square of side={side}.")
        self.size, self.side, self.top, self.height = size, side, top, height

    def first(self) -> nn.Module:
        """See :meth:`Crop.first`."""
        return v2.Resize((self.side, self.side), antialias=True)

    def train(self) -> nn.Module:
        """See :meth:`Crop.train`."""
        return self.eval()

    def eval(self) -> nn.Module:
        """See :meth:`Crop.eval`."""
        last = v2.Resize((self.size, self.size), antialias=True)
        return v2.Compose([self.first(), _Rows(self.top, self.height), last])


class _Rows(v2.Transform):
    """Keeps some rows of an image and of its mask."""

    def __init__(self, top: int, height: int) -> None:
        super().__init__()
        self.top, self.height = top, height

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        width = v2.functional.get_size(inpt)[1]
        return v2.functional.crop(inpt, self.top, 0, self.height, width)


def standard() -> nn.Module:
    """Nothing beyond the recipe's crop."""
    return nn.Identity()


def randaugment(num_ops: int = 2, magnitude: int = 9) -> nn.Module:
    """RandAugment (Cubuk et al. 2020) with torchvision's fourteen operations, after the crop as in its preset."""
    return v2.RandAugment(num_ops=num_ops, magnitude=magnitude, interpolation=v2.InterpolationMode.BILINEAR)
