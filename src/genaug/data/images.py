"""From samples to the tensors a network is fed, with every random choice named by (seed, epoch, index).

An image drawn in epoch 3 is the same whichever worker, process or batch it lands in, and the same again after a
resumed run. A sampler therefore hands out keys ``(epoch, index, valid)`` instead of bare indices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler
from torchvision import tv_tensors

from genaug.data.base import Sample
from genaug.data.decoded import DecodedImages
from genaug.data.packed import PackedSamples
from genaug.data.reading import read_image, read_mask
from genaug.seeding import derive, lent_generator

Key = tuple[int, int, bool]


class Source(Protocol):
    """Images to draw from: the real ones, or what a method's view makes of them."""

    samples: Sequence[Sample]
    num_classes: int

    def __len__(self) -> int:
        """Number of images in an epoch."""

    def draw(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Image ``index``: ``(H, W, C)`` uint8, and its soft label ``(K,)`` float32, see :func:`target_of`."""


@runtime_checkable
class MaskedSource(Source, Protocol):
    """A source that knows the ground-truth masks of the images it gives."""

    def mask(self, index: int) -> np.ndarray:
        """Mask of image ``index``: ``(H, W)`` bool."""


def one_hot(label: int | tuple[int, ...], num_classes: int) -> np.ndarray:
    """A class index, or the indices of all classes present, as a ``(K,)`` float32 row.

    >>> one_hot((0, 2), 3).tolist()
    [1.0, 0.0, 1.0]
    """
    row = np.zeros(num_classes, dtype=np.float32)
    row[list(label) if isinstance(label, tuple) else label] = 1
    return row


def target_of(sample: Sample, num_classes: int) -> np.ndarray:
    """What a sample shows, as a ``(K,)`` float32 row: its soft label where it has one; NaN where nobody knows.

    >>> from pathlib import Path
    >>> target_of(Sample("a.jpg", Path("a.jpg"), (0,), unknown=(2,)), 3).tolist()
    [1.0, 0.0, nan]
    """
    row = one_hot(() if sample.soft_label else sample.label, num_classes)
    for label, weight in sample.soft_label:
        row[label] = weight
    row[list(sample.unknown)] = np.nan
    return row


class RealImages:
    """The photographs as they are.

    Args:
        samples: Which.
        num_classes: K.
        channels: 3 for RGB, 1 for grey.
        decoded: Where decoded images are kept; None decodes each file every time.
    """

    def __init__(
        self, samples: Sequence[Sample], num_classes: int, channels: int = 3, decoded: DecodedImages | None = None
    ) -> None:
        self.samples: Sequence[Sample] = PackedSamples(samples)
        self.num_classes, self.channels = num_classes, channels
        self.decoded = decoded

    def __len__(self) -> int:
        return len(self.samples)

    def draw(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Source.draw`; ``rng`` is not needed."""
        sample = self.samples[index]
        image = self.decoded.read(sample.path) if self.decoded else read_image(sample.path, self.channels)
        return image, target_of(sample, self.num_classes)

    def mask(self, index: int) -> np.ndarray:
        """See :meth:`MaskedSource.mask`."""
        sample = self.samples[index]
        assert sample.mask is not None
        mask = read_mask(sample.mask, sample.mask_values)
        return self.decoded.mask(mask) if self.decoded else mask


def check_masks(samples: Sequence[Sample], transform: nn.Module) -> None:
    """Refuse what has no masks to go with its images.

    Raises:
        ValueError: a sample has no mask, or the transform moves pixels of an image that it would not move in a mask.
    """
    without = [sample.id for sample in samples if sample.mask is None]
    if without:
        raise ValueError(
            f"The mixer looks at ground-truth masks, and {len(without)} of {len(samples)} training images have none "
            f"({without[0]}). Choose another saliency, such as saliency=spectral_residual."
        )
    probe = tv_tensors.Image(torch.zeros(3, 16, 16, dtype=torch.uint8)), tv_tensors.Mask(torch.zeros(1, 16, 16))
    try:
        with lent_generator(0):
            transform(probe)
    except TypeError as error:
        raise ValueError(
            f"The mixer looks at ground-truth masks, which the transform cannot move as it moves the image: {error} "
            "Choose transform=standard or another saliency."
        ) from error


class ImageDataset(TorchDataset):
    """Draws an image, transforms it, and says what it is.

    Args:
        source: Where images come from.
        transform: Applied to a ``uint8`` tensor ``(C, H, W)``; may draw from torch's global generator.
        seed: Names all random choices together with epoch and index.
        masks: Give each image's ground-truth mask too, cropped and flipped with it.

    Raises:
        ValueError: masks are asked for, and the source does not know those of its images, or see :func:`check_masks`.
    """

    def __init__(self, source: Source, transform: nn.Module, seed: int, masks: bool = False) -> None:
        self.source, self.transform, self.seed = source, transform, seed
        self.masked = source if masks and isinstance(source, MaskedSource) else None
        if masks and self.masked is None:
            raise ValueError(
                f"The mixer looks at ground-truth masks, and {type(source).__name__} has none: the method makes new "
                "images for training. Choose a method that trains on the real ones, or another saliency."
            )
        if masks:
            check_masks(source.samples, transform)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        """``image`` (H, W, C) uint8, ``target`` (K,) of :func:`target_of`, ``group`` (-1 = none), ``valid``, ``index``.

        With masks also ``mask`` (H, W) bool.
        """
        epoch, index, valid = key
        seed = derive(self.seed, "image", epoch, index)
        image, target = self.source.draw(index, np.random.default_rng(seed))
        pixels, more = torch.from_numpy(image).permute(2, 0, 1), {}
        with lent_generator(seed):
            if self.masked is None:
                pixels = self.transform(pixels)
            else:
                pixels, more["mask"] = self._transform_both(pixels, self.masked.mask(index))
        group = self.source.samples[index].group
        return more | {
            "image": pixels.permute(1, 2, 0).contiguous(),  # rows of pixels as they lie in memory: nothing is shuffled
            "target": torch.from_numpy(target),
            "group": torch.tensor(-1 if group is None else group),
            "valid": torch.tensor(valid),
            "index": torch.tensor(index),
        }

    def _transform_both(self, pixels: Tensor, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """An image ``(C, H, W)`` and its mask ``(H, W)`` through one geometry."""
        if mask.shape != pixels.shape[1:]:
            raise ValueError(f"a mask of {mask.shape} pixels for an image of {tuple(pixels.shape[1:])}")
        # torchvision draws once for all that comes together, and resizes what is called a mask without blending.
        image, moved = self.transform((tv_tensors.Image(pixels), tv_tensors.Mask(torch.from_numpy(mask)[None])))
        return image.as_subclass(Tensor), moved.as_subclass(Tensor)[0]


class KeySampler(Sampler[Key]):
    """The keys of one epoch, shared out so that the images of a global batch do not depend on the number of processes.

    Args:
        length: Number of images.
        seed: Names the order; ``None`` keeps the images in theirs (evaluation).
        rank: This process among ``world``.
        world: Number of processes. A last round that does not fill up repeats images marked ``valid=False``.
        count: Only the first so many of the order; ``None`` takes all.
        epoch: The first to be drawn.

    Example:
        >>> [index for _, index, _ in KeySampler(3, seed=None)]
        [0, 1, 2]
        >>> list(KeySampler(3, seed=None, rank=1, world=2))
        [(0, 1, True), (0, 0, False)]
    """

    def __init__(
        self, length: int, seed: int | None, rank: int = 0, world: int = 1, count: int | None = None, epoch: int = 0
    ) -> None:
        self.length, self.seed, self.rank, self.world = length, seed, rank, world
        self.count = length if count is None else count
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, with the right number after a resume too."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // self.world)

    def __iter__(self) -> Iterator[Key]:
        order = np.arange(self.length)
        if self.seed is not None:
            order = np.random.default_rng(derive(self.seed, "order", self.epoch)).permutation(order)
        for position in range(self.rank, len(self) * self.world, self.world):
            yield self.epoch, int(order[position % self.length]), position < self.count
