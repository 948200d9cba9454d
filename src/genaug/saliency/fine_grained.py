"""Fine-grained saliency (Montabone & Soto, 2010), SaliencyMix's default, without OpenCV's contributed modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genaug.functional.maps import blur, grey
from genaug.mixing.base import Context
from genaug.saliency.base import Saliency, measured

#: A contrast that is not seen, in standard deviations of ImageNet's pixels: a twentieth of one step of a byte. An even
#: image, whose contrast is rounding alone, is not stretched to full saliency.
UNSEEN = 1e-3

#: What OpenCV takes for a Gaussian of 3 pixels if it is told no sigma, applied twice.
TWO_BLURS = np.convolve([0.25, 0.5, 0.25], [0.25, 0.5, 0.25]).tolist()

#: Pixels that a CPU looks at together, so that their maps stay in its cache: those of 8 images of 224 px.
FEW = 8 * 224**2


class FineGrained(Saliency):
    """How much brighter or darker each pixel is than its surroundings, at several scales, for every pixel.

    At each scale a pixel (centre) is compared with the mean of the square around it without the pixel itself
    (surround), which an integral image gives in four look-ups whatever the scale is. Where the centre is brighter the
    difference counts for the *on* map, where it is darker for the *off* map; each is summed over the scales, and the
    two are added.

    The scales, and two blurs over 3 x 3 pixels before, are those of OpenCV's ``StaticSaliencyFineGrained``, which
    SaliencyMix's code calls. Unlike there, squares are centred on their pixel and nothing is rounded to bytes. Nor are
    floats read as if they were bytes: OpenCV does so with the normalised images that SaliencyMix's code hands it, and
    its map, made of the bytes of each row's left quarter, does not correlate with the right one.

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
            if images.device.type != "cpu":
                return self._maps(images)
            few = max(FEW // images[0, 0].numel(), 1)
            return torch.cat([self._maps(some) for some in images.split(few)])

    def _maps(self, images: Tensor) -> Tensor:
        centre = blur(grey(images), TWO_BLURS)
        # Sums of small numbers are the more exact ones; the mean cancels out of every difference.
        centre.sub_(centre.mean(dim=(1, 2), keepdim=True))
        on_and_off = torch.zeros_like(centre)
        on_less_off = torch.zeros_like(centre) if self.stretch else None
        for contrast in _contrasts(centre, self.scales):
            if on_less_off is not None:
                on_less_off.add_(contrast)
            on_and_off.add_(contrast.abs_())
        if on_less_off is None:
            return on_and_off
        return _to_one(on_and_off + on_less_off).add_(_to_one(on_and_off - on_less_off))


def _contrasts(centre: Tensor, scales: Sequence[int]) -> Iterator[Tensor]:
    """Each pixel less the mean of the square around it, itself left out: of each scale, written over the one before.

    Args:
        centre: ``(B, H, W)``.
        scales: Half sides of the squares in pixels.
    """
    size, height, width = centre.shape
    corners = _integral(centre)
    strips, contrast = centre.new_empty(size, height, width + 1), torch.empty_like(centre)
    for scale in scales:
        _sums_around(corners, scale, 1, out=strips)
        _sums_around(strips, scale, 2, out=contrast)
        # centre - (sum - centre) / others, in one pass over memory.
        yield torch.lerp(centre, contrast, _less_by_others(height, width, scale, centre.device), out=contrast)


def _integral(maps: Tensor) -> Tensor:
    """Integral image ``(B, H + 1, W + 1)``: sums of all pixels above and left of each corner of the grid."""
    if maps.device.type != "cpu":
        return F.pad(maps.cumsum(dim=2).cumsum(dim=1), (1, 0, 1, 0))
    sums = maps.new_empty(len(maps), maps.shape[1] + 1, maps.shape[2] + 1)
    for one, into in zip(maps.numpy(), sums.numpy(), strict=True):
        into[:] = cv2.integral(one, sdepth=cv2.CV_64F)  # half the time, and as exact
    return sums


def _sums_around(running: Tensor, scale: int, dim: int, out: Tensor) -> None:
    """Sums from ``scale`` before each place to ``scale`` behind it, cut at both ends, of running sums that begin at 0.

    Parts by which end cuts the sum, since slices are read several times as fast as gathered.
    """
    side = out.shape[dim]
    scale = min(scale, side)
    near, far = sorted((scale, side - scale))
    total, between = running.narrow(dim, side, 1), far - near
    out.narrow(dim, 0, near).copy_(running.narrow(dim, scale + 1, near))
    if near == scale:
        middle = out.narrow(dim, near, between)
        torch.sub(running.narrow(dim, 2 * scale + 1, between), running.narrow(dim, 0, between), out=middle)
    else:
        out.narrow(dim, near, between).copy_(total)
    torch.sub(total, running.narrow(dim, far - scale, near), out=out.narrow(dim, far, near))


@lru_cache(maxsize=64)
def _less_by_others(height: int, width: int, scale: int, device: torch.device) -> Tensor:
    """Minus one by the number of pixels that the square around each pixel has besides it, ``(H, W)``."""
    sides = [np.minimum(at + scale + 1, len(at)) - np.maximum(at - scale, 0) for at in map(np.arange, (height, width))]
    return torch.from_numpy(-1 / np.maximum(np.outer(*sides) - 1, 1)).to(device, torch.float32)


def _to_one(maps: Tensor) -> Tensor:
    """Each map divided by its largest value."""
    return maps.div_(maps.amax(dim=(1, 2), keepdim=True).clamp_(min=UNSEEN)).clamp_(min=0)
