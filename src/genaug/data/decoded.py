"""Decoded images kept on disk: an epoch then reads pixels where it would decode files."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision import tv_tensors

from genaug.data.base import Sample
from genaug.data.reading import image_size, read_image
from genaug.synthesis.store import content_key, encode_array, read_array, write_atomically

#: Raise it with every change of what is kept.
VERSION = "decoded-1"

#: So many images tell how much room all of them need.
_PROBED = 50


class DecodedImages:
    """Images as :func:`genaug.data.reading.read_image` gives them, each decoded once.

    What the crop does first to every image, such as bringing its short side to 256 pixels, is done before an image is
    kept: the crop finds it done, and what it gives is the same to the last bit.

    Args:
        folder: Where; images of each first step have a folder of their own in it.
        first: The step, of a crop that has one (:meth:`genaug.data.transforms.Crop.first`).
        channels: 3 for RGB, 1 for grey.
    """

    def __init__(self, folder: str | Path, first: nn.Module | None, channels: int = 3) -> None:
        self.first, self.channels = first, channels
        self.root = Path(folder) / content_key(VERSION, torchvision.__version__, str(first), str(channels))

    def read(self, path: Path) -> np.ndarray:
        """The image at ``path``, ``(H, W, C)`` uint8, the caller's to write to; kept from now on."""
        file = self._file(path)
        if file.exists():
            return read_array(file)
        image = read_image(path, self.channels)
        if self.first is not None:
            pixels: torch.Tensor = self.first(torch.from_numpy(image).permute(2, 0, 1))
            image = pixels.permute(1, 2, 0).contiguous().numpy()
        write_atomically(file, encode_array(image))
        return image

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask ``(H, W)`` bool of an image as that image is kept."""
        if self.first is None:
            return mask
        moved: torch.Tensor = self.first(tv_tensors.Mask(torch.from_numpy(mask)[None]))
        return moved.as_subclass(torch.Tensor)[0].numpy()

    def _file(self, path: Path) -> Path:
        state = path.stat()  # a file that was replaced is another image
        key = content_key(str(path.absolute()), str(state.st_size), str(state.st_mtime_ns))
        return self.root / key[:2] / f"{key}.npy"

    def check_room(self, samples: Sequence[Sample]) -> None:
        """Refuse to begin what the disk cannot hold.

        Raises:
            ValueError: says how much is needed and how much there is.
        """
        probed = samples[:: max(1, len(samples) // _PROBED)]
        each = sum(self._bytes(sample.path) for sample in probed) / max(1, len(probed))
        missing = sum(not self._file(sample.path).exists() for sample in samples)
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if missing * each > free:
            raise ValueError(
                f"loader.cache=true would write about {missing * each / 1e9:.1f} GB to {self.root.parent}, where "
                f"{free / 1e9:.1f} GB are free: give another disk with paths.cache=..., or set loader.cache=false."
            )

    def _bytes(self, path: Path) -> int:
        height, width = image_size(path)
        if self.first is not None:
            height, width = self.first(torch.empty(1, height, width, dtype=torch.uint8)).shape[1:]
        return height * width * self.channels
