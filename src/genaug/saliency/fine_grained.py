"""Fine-grained saliency (Montabone & Soto, 2010), SaliencyMix's default, without OpenCV's contributed modules."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genaug.functional.maps import blur, gaussian_kernel, grey
from genaug.mixing.base import Context
from genaug.saliency.base import Saliency, measured

#: A contrast that is not seen, in standard deviations of ImageNet's pixels: a twentieth of one step of a byte. An even
#: image, whose contrast is rounding alone, is not stretched to full saliency.
UNSEEN = 1e-3

#: A Gaussian of 3 pixels and OpenCV's sigma for that size, applied twice.
TWO_BLURS = np.convolve(gaussian_kernel(3, 0.8), gaussian_kernel(3, 0.8)).tolist()


class FineGrained(Saliency):
    """How much brighter or darker each pixel is than its surroundings, at several scales, for every pixel.

    At each scale a pixel (centre) is compared with the mean of the square around it without the pixel itself
    (surround), which an integral image gives in four look-ups whatever the scale is. Where the centre is brighter the
    difference counts for the *on* map, where it is darker for the *off* map; each is summed over the scales, and the
    two are added.

    The scales, and two blurs over 3 x 3 pixels before, are those of OpenCV's ``StaticSaliencyFineGrained``, which
    SaliencyMix's code calls. Unlike there, squares are centred on their pixel and nothing is rounded to bytes.

    Args:
        scales: Half sides of the squares in pixels; at the border a square is cut to the image.
        stretch: Divide on and off map each by its largest value before they are added, as OpenCV does. The darkest
            pixel is then as salient as the brightest, however faint it is: around a light on even ground, the ground.

    Raises:
        ValueError: There is no scale, or one below 1.

    >>> image = torch.zeros(1, 1, 16, 16)
    >>> image[0, 0, 5, 9] = 1
    >>> divmod(FineGrained()(image, torch.ones(1, 1), Context()).argmax().item(), 16)
    (5, 9)
    """

    def __init__(self, scales: Sequence[int] = (12, 24, 28, 48, 56, 112), stretch: bool = False) -> None:
        if not scales or min(scales) < 1:
            raise ValueError(f"scales: expected half sides of 1 pixel or more, came {list(scales)}")
        self.scales, self.stretch = tuple(scales), stretch

    def __call__(self, images: Tensor, targets: Tensor, context: Context) -> Tensor:
        """See :class:`genaug.saliency.base.Saliency`."""
        with measured("fine_grained", images.device), torch.no_grad():
            centre = blur(grey(images), TWO_BLURS)
            # Sums of small numbers are the more exact ones; the mean cancels out of every difference.
            centre.sub_(centre.mean(dim=(1, 2), keepdim=True))
            corners = F.pad(centre.cumsum(dim=2).cumsum(dim=1), (1, 0, 1, 0))
            on_and_off, on_less_off = torch.zeros_like(centre), torch.zeros_like(centre)
            for scale in self.scales:
                contrast = _contrast(centre, corners, scale)
                if self.stretch:
                    on_less_off.add_(contrast)
                on_and_off.add_(contrast.abs_())
            if not self.stretch:
                return on_and_off
            return _to_one(on_and_off + on_less_off).add_(_to_one(on_and_off - on_less_off))


def _contrast(centre: Tensor, corners: Tensor, scale: int) -> Tensor:
    """Each pixel less the mean of the square of half side ``scale`` around it, itself left out.

    Args:
        centre: ``(B, H, W)``.
        corners: ``(B, H + 1, W + 1)`` integral image: sums of all pixels above and left of each corner of the grid.
        scale: In pixels.
    """
    height, width = centre.shape[-2:]
    rows, columns = max(height - scale, 0), max(width - scale, 0)  # that are ``scale`` or more away from their end
    # Parts of the image, by where its border cuts the square: slices are read several times as fast as gathered.
    strips = torch.empty(len(centre), height, width + 1, device=centre.device)
    strips[:, :rows] = corners[:, height + 1 - rows :]
    strips[:, rows:] = corners[:, height:]
    strips[:, height - rows :] -= corners[:, :rows]
    less_sum = torch.empty_like(centre)
    torch.sub(centre[:, :, :columns], strips[:, :, width + 1 - columns :], out=less_sum[:, :, :columns])
    torch.sub(centre[:, :, columns:], strips[:, :, width:], out=less_sum[:, :, columns:])
    less_sum[:, :, width - columns :] += strips[:, :, :columns]
    # centre - (sum - centre) / others, with one pass over memory less.
    return torch.addcmul(centre, less_sum, _one_by_others(height, width, scale, centre.device), out=less_sum)


@lru_cache(maxsize=64)
def _one_by_others(height: int, width: int, scale: int, device: torch.device) -> Tensor:
    """One by the number of pixels that the square around each pixel has besides it, ``(H, W)``."""
    sides = [np.minimum(at + scale + 1, len(at)) - np.maximum(at - scale, 0) for at in map(np.arange, (height, width))]
    return torch.from_numpy(1 / np.maximum(np.outer(*sides) - 1, 1)).to(device, torch.float32)


def _to_one(maps: Tensor) -> Tensor:
    """Each map divided by its largest value."""
    return maps.div_(maps.amax(dim=(1, 2), keepdim=True).clamp_(min=UNSEEN)).clamp_(min=0)
