"""Ground-truth masks as saliency: what a perfect segmenter would tell a mixer."""

from __future__ import annotations

from torch import Tensor

from genaug.mixing.base import Context
from genaug.saliency.base import Saliency, measured


class StoredMask(Saliency):
    """1 on the object and 0 elsewhere, from the masks of the data set; they follow the image's crop and flip.

    Needs a data set with masks, a method that trains on the real images, and a transform that moves no pixel after
    the crop: anything else is refused before training.

    >>> import torch
    >>> masks = torch.tensor([[[False, True]]])
    >>> StoredMask()(torch.zeros(1, 3, 1, 2), torch.ones(1, 1), Context(masks=masks))
    tensor([[[0., 1.]]])
    """

    needs_masks = True

    def __call__(self, images: Tensor, targets: Tensor, context: Context) -> Tensor:
        """See :class:`genaug.saliency.base.Saliency`."""
        with measured("mask", images.device):
            masks, expected = context.masks, (len(images), *images.shape[-2:])
            if masks is None or tuple(masks.shape) != expected:
                came = "none" if masks is None else str(tuple(masks.shape))
                raise ValueError(
                    f"saliency=mask expects the masks of the batch in Context(masks=...), {expected}; came {came}"
                )
            return (masks != 0).to(images.device).float()
