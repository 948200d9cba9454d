"""Gradients along the way from the mean colour to the image (Sundararajan et al., 2017), by captum."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from genaug.explaining.base import Explainer


class IntegratedGradients(Explainer):
    """Shares out what the image's logit has more than the baseline's among the pixels.

    The baseline is zero in what the network is fed: the mean colour, or black where the recipe does not normalise. A
    pixel's value is the sum of its channels' absolute attributions, the reduction that PAIR's ``saliency`` package
    shows (``VisualizeImageGrayscale``); it forgets the sign. `Axiomatic Attribution for Deep Networks
    <https://arxiv.org/abs/1703.01365>`_.

    Args:
        n_steps: Points of the Gauss-Legendre integration, each a forward and a backward pass. The paper finds 20 to
            300 enough.
        internal_batch_size: How many images the network sees at once; at least one point of each image of the batch.

    Raises:
        ValueError: A number below 1.
    """

    def __init__(self, n_steps: int = 50, internal_batch_size: int = 16) -> None:
        for name, value in (("n_steps", n_steps), ("internal_batch_size", internal_batch_size)):
            if value < 1:
                raise ValueError(f"{name}: expected 1 or more, came {value}")
        self.n_steps, self.internal_batch_size = n_steps, internal_batch_size

    def explain(self, model: nn.Module, images: Tensor, classes: Tensor, seeds: Sequence[int]) -> Tensor:
        """See :meth:`Explainer.explain`."""
        from captum import attr

        attributions = attr.IntegratedGradients(model).attribute(
            images,
            baselines=0.0,
            target=classes,
            n_steps=self.n_steps,
            internal_batch_size=max(self.internal_batch_size, len(images)),
        )
        return attributions.abs().sum(dim=1)
