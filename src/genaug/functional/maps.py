"""Maps ``(B, H, W)`` of images: grey values, blur, and what makes a map a distribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

#: Shares of red, green and blue in brightness (ITU-R BT.601, as OpenCV's grey).
LUMA = (0.299, 0.587, 0.114)


def grey(images: Tensor) -> Tensor:
    """Brightness of images ``(B, C, H, W)`` as ``(B, H, W)`` float32; without three channels their mean.

    >>> grey(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1))
    tensor([[[0.2990]]])
    """
    if images.shape[1] != len(LUMA):
        return images.float().mean(dim=1)
    red, green, blue = images.float().unbind(dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def gaussian_kernel(size: int, sigma: float) -> list[float]:
    """Weights of a Gaussian at ``size`` whole numbers around its centre, with the sum 1.

    >>> [round(weight, 3) for weight in gaussian_kernel(3, 0.8)]
    [0.239, 0.522, 0.239]
    """
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return torch.softmax(-(x**2) / (2 * sigma**2), dim=0).tolist()


def blur(maps: Tensor, kernel: Sequence[float]) -> Tensor:
    """Blur maps ``(B, H, W)`` with the same symmetric weights along rows and columns.

    The border is mirrored, as torchvision's GaussianBlur does; where a side is too short to be mirrored, its last pixel
    is repeated.

    Args:
        maps: ``(B, H, W)``, floating point.
        kernel: An odd number of weights.

    >>> blur(torch.tensor([[[0.0, 1.0, 0.0]]]), gaussian_kernel(3, 0.8))
    tensor([[[0.4780, 0.5220, 0.4780]]])
    """
    return _blur_along(_blur_along(maps, kernel, dim=-1), kernel, dim=-2)


def _blur_along(maps: Tensor, kernel: Sequence[float], dim: int) -> Tensor:
    radius, length = len(kernel) // 2, maps.shape[dim]
    if radius < length:
        padded = _mirrored(maps, radius, dim)
    else:
        padded = F.pad(maps, (radius, radius) if dim == -1 else (0, 0, radius, radius), mode="replicate")
    # Shifted views, added up: a convolution of a single channel takes several times as long on a CPU.
    blurred = padded.narrow(dim, radius, length) * kernel[radius]
    for i in range(radius):
        blurred.add_(padded.narrow(dim, i, length), alpha=kernel[i])
        blurred.add_(padded.narrow(dim, 2 * radius - i, length), alpha=kernel[i])
    return blurred


def _mirrored(maps: Tensor, radius: int, dim: int) -> Tensor:
    """Pad along a dimension; :func:`torch.nn.functional.pad` does the same in five times the time along rows."""
    before, after = maps.narrow(dim, 1, radius), maps.narrow(dim, maps.shape[dim] - radius - 1, radius)
    return torch.cat([before.flip(dim), maps, after.flip(dim)], dim)


def peaks(maps: Tensor) -> Tensor:
    """Position y, x of the largest value of each map ``(B, H, W)``, the first where there are several, as ``(B, 2)``.

    >>> peaks(torch.tensor([[[0.0, 1.0, 3.0], [2.0, 3.0, 0.0]]]))
    tensor([[0, 2]])
    """
    flat = maps.detach().flatten(1)
    # NumPy finds it in a tenth of the time.
    at = torch.from_numpy(flat.numpy().argmax(axis=1)) if flat.device.type == "cpu" else flat.argmax(dim=1)
    return torch.stack([at // maps.shape[2], at % maps.shape[2]], dim=1)


def sum_to_one(maps: Tensor) -> Tensor:
    """Divide each map ``(B, H, W)`` of numbers from 0 on by its sum; a map of zeros stays one.

    >>> sum_to_one(torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]])).tolist()
    [[[0.25, 0.75]], [[0.0, 0.0]]]
    """
    total = maps.sum(dim=(1, 2), keepdim=True)
    # A sum below the smallest normal number has an infinite reciprocal: to such a map nothing stands out.
    return maps / torch.where(total < torch.finfo(total.dtype).tiny, torch.inf, total)
