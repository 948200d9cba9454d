"""Gradients of the logit with respect to the pixels (Simonyan et al., 2014), by captum."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from genaug.explaining.base import Explainer


class Saliency(Explainer):
    """How steeply the class's logit reacts to each pixel.

    A pixel's value is the largest absolute gradient among its channels, as in section 3.1 of `Deep Inside
    Convolutional Networks <https://arxiv.org/abs/1312.6034>`_. One forward and one backward pass.
    """

    def explain(self, model: nn.Module, images: Tensor, classes: Tensor, seeds: Sequence[int]) -> Tensor:
        """See :meth:`Explainer.explain`."""
        from captum import attr

        return attr.Saliency(model).attribute(images.requires_grad_(), target=classes, abs=True).amax(dim=1)
