"""Hide one window after the other, and see what the logit loses (Zeiler and Fergus, 2014), by captum."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from genaug.explaining.base import Explainer


class Occlusion(Explainer):
    """How much the class's logit falls when a window around the pixel is painted in the mean colour.

    All channels are hidden together; a pixel's value is the mean drop over the windows that cover it, with its sign:
    negative where the network does better without. The colour is zero in what the network is fed: the mean, or black
    where the recipe does not normalise. `Visualizing and Understanding Convolutional Networks
    <https://arxiv.org/abs/1311.2901>`_.

    Args:
        window: Sides of the window as a fraction of the image's, in (0, 1].
        stride: Step from window to window as a fraction of the image's sides, in (0, window]. Defaults of 0.25 and
            0.125 take 49 forward passes an image.
        batch_size: How many images the network sees at once; at least one window of each image of the batch.

    Raises:
        ValueError: A value out of its range.
    """

    def __init__(self, window: float = 0.25, stride: float = 0.125, batch_size: int = 16) -> None:
        if not 0 < stride <= window <= 1:
            raise ValueError(
                f"window, stride: expected fractions with 0 < stride <= window <= 1, came {window} and {stride}; "
                "a stride of half the window is usual"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size: expected 1 or more, came {batch_size}")
        self.window, self.stride, self.batch_size = window, stride, batch_size

    def explain(self, model: nn.Module, images: Tensor, classes: Tensor, seeds: Sequence[int]) -> Tensor:
        """See :meth:`Explainer.explain`."""
        from captum import attr

        channels, *size = images.shape[1:]
        attributions = attr.Occlusion(model).attribute(
            images,
            baselines=0.0,
            target=classes,
            sliding_window_shapes=(channels, *_pixels(self.window, size)),
            strides=(channels, *_pixels(self.stride, size)),
            perturbations_per_eval=max(1, self.batch_size // len(images)),
        )
        return attributions[:, 0]  # the same in every channel


def _pixels(fraction: float, size: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(1, round(fraction * side)) for side in size)
