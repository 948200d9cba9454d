"""The contract of everything that says which places of an image speak for a class."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class Explainer(ABC):
    """Makes one map an image: how much each pixel matters for one class.

    An explainer is a guest in a network that somebody else may be training: it can be called anywhere, within
    validation and test loops too, and leaves the network as it was (see :func:`undisturbed`). A map depends on nothing
    but the network, the image, the class and the seed; not on the other images of the batch, rounding apart.
    """

    def __call__(self, model: nn.Module, images: Tensor, classes: Tensor, seeds: Sequence[int]) -> Tensor:
        """Explain a batch.

        Args:
            model: Maps ``(B, C, H, W)`` to logits ``(B, K)``.
            images: ``(B, C, H, W)`` floats, normalised as the model expects, on the model's device. They are converted
                to the precision of the model's parameters.
            classes: ``(B,)`` integers in [0, K): the class that each image's map speaks for.
            seeds: One an image, for explainers that draw random numbers.

        Returns:
            ``(B, H, W)`` float32 on the images' device, larger = more important, without gradient. The scale is the
            explainer's own: compare ranks, or normalise each map.

        Raises:
            ValueError: The arguments do not fit each other or the model.
        """
        _check(images, classes, seeds)
        with undisturbed(model):
            maps = self.explain(model, fitted(images, model), classes.to(images.device, torch.long).clone(), seeds)
            expected = (images.shape[0], *images.shape[2:])
            if maps.shape != expected:
                raise ValueError(
                    f"{type(self).__name__}.explain: expected maps (B, H, W) = {expected}, came {tuple(maps.shape)}; "
                    "reduce the channels, and resize to the images"
                )
            return maps.detach().to(images.device, torch.float32)

    @abstractmethod
    def explain(self, model: nn.Module, images: Tensor, classes: Tensor, seeds: Sequence[int]) -> Tensor:
        """Make the maps ``(B, H, W)``; called :func:`undisturbed`, with checked arguments that may be changed."""


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Lend out a model for forward and backward passes, and give it back as it was.

    Inside, every module is in eval mode, no parameter requires a gradient (so none can receive one), gradients of
    inputs and activations can be computed even within ``torch.inference_mode`` or ``torch.no_grad``, and autocast is
    off. Afterwards, also after an exception, each module has its own training flag and each parameter its own
    ``requires_grad`` again; ``.grad`` and what only training changes (running statistics) were never touched.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout().eval())
    >>> with torch.no_grad(), undisturbed(model):
    ...     x = torch.ones(1, 2, requires_grad=True)
    ...     (gradient,) = torch.autograd.grad(model(x).sum(), x)
    >>> bool((gradient == model[0].weight.sum(dim=0)).all())
    True
    >>> [module.training for module in model], model[0].weight.requires_grad, model[0].weight.grad is None
    ([True, False], True, True)
    """
    training = [(module, module.training) for module in model.modules()]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {"cpu", *(parameter.device.type for parameter in model.parameters())}:
            if torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            # The flags themselves: model.eval() may be overridden to do more, which nothing here could undo.
            for module, _ in training:
                module.training = False
            for parameter in learning:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, flag in training:
                module.training = flag
            for parameter in learning:
                parameter.requires_grad_(True)


def fitted(images: Tensor, model: nn.Module) -> Tensor:
    """Copy images in the precision of the model's first parameter.

    Always a copy: a tensor made in inference mode can take no part in autograd, even after that mode has ended.
    """
    precision = next((one.dtype for one in model.parameters() if one.is_floating_point()), images.dtype)
    return images.detach().to(precision, copy=True)


def _check(images: Tensor, classes: Tensor, seeds: Sequence[int]) -> None:
    if images.ndim != 4 or not images.is_floating_point() or not images.numel():
        raise ValueError(
            f"images: expected floats (B, C, H, W), at least one, came {images.dtype} {tuple(images.shape)}; "
            "normalise uint8 images first, and give a single one as image[None]"
        )
    count = images.shape[0]
    if classes.shape != (count,) or classes.is_floating_point() or classes.dtype == torch.bool:
        raise ValueError(
            f"classes: expected {count} integers, one an image, came {classes.dtype} {tuple(classes.shape)}; "
            "logits.argmax(dim=1) gives the predicted ones"
        )
    if (lowest := int(classes.min())) < 0:
        raise ValueError(f"classes: expected numbers from 0 on, came {lowest}; leave images without a class out")
    if len(seeds) != count:
        raise ValueError(f"seeds: expected {count}, one an image, came {len(seeds)}; genaug.seeding.derive makes them")
