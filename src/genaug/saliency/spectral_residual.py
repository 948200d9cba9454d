"""Spectral residual (Hou & Zhang, 2007) as GuidedMixup uses it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genaug.functional.maps import blur, gaussian_kernel, grey
from genaug.mixing.base import Context
from genaug.saliency.base import Saliency, measured

#: What a magnitude of 0 counts as, relative to the largest of its image: a logarithm needs more than 0.
SMALLEST = 1e-7

BLUR = gaussian_kernel(7, 3.0)


class SpectralResidual(Saliency):
    """What is unexpected in an image's spectrum, put back in its place; needs no network.

    The log magnitudes of the grey image's Fourier transform, less their mean over 3 x 3 neighbours, are transformed
    back with the old phases: regular texture vanishes and what stands out stays. As in
    GuidedMixup the image is shrunk to ``side`` pixels at most, the result is a magnitude and not its square, and the
    blur is one of 7 pixels and sigma 3.

    Args:
        side: Longest side in pixels at which it is computed.

    Raises:
        ValueError: ``side`` is too small.

    >>> stripes = torch.arange(32.0).sin().expand(1, 3, 32, 32).clone()
    >>> stripes[:, :, 10, 20] = 3
    >>> divmod(SpectralResidual()(stripes, torch.ones(1, 1), Context()).argmax().item(), 32)
    (10, 20)
    """

    def __init__(self, side: int = 128) -> None:
        if side < 8:
            raise ValueError(f"side: expected 8 pixels or more, came {side}")
        self.side = side

    def __call__(self, images: Tensor, targets: Tensor, context: Context) -> Tensor:
        """See :class:`genaug.saliency.base.Saliency`."""
        height, width = images.shape[-2:]
        shrink = min(1.0, self.side / max(height, width))
        small = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        with measured("spectral_residual", images.device), torch.no_grad():
            maps = blur(spectral_residual(_resize(grey(images), small)), BLUR)
            return _resize(maps, (height, width))


def spectral_residual(maps: Tensor) -> Tensor:
    """Compute ``|IFFT(exp(L - mean(L) + i P))|`` of log magnitude L and phase P, before the blur.

    Args:
        maps: ``(B, H, W)`` grey values, float32.

    Returns:
        ``(B, H, W)``, 0 or more.
    """
    spectrum = torch.fft.fft2(maps)
    magnitude = spectrum.abs()
    floor = magnitude.amax(dim=(1, 2), keepdim=True).mul_(SMALLEST).clamp_(min=torch.finfo(maps.dtype).tiny)
    # exp(L - mean(L) + i P) is the spectrum times exp(-mean(L)): the phase need not be known.
    return torch.fft.ifft2(spectrum.mul_(_box_mean(magnitude.maximum(floor).log_()).neg_().exp_())).abs()


def _box_mean(maps: Tensor) -> Tensor:
    """Mean over 3 x 3 neighbours; the border is repeated."""
    padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
    rows = (padded[:, :-2] + padded[:, 1:-1]).add_(padded[:, 2:])
    return (rows[:, :, :-2] + rows[:, :, 1:-1]).add_(rows[:, :, 2:]).div_(9)


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear; where it shrinks, every pixel counts."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    shrinks = size[0] < maps.shape[-2]
    return F.interpolate(maps[:, None], size, mode="bilinear", antialias=shrinks)[:, 0]
