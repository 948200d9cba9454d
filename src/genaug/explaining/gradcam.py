"""Grad-CAM (Selvaraju et al., 2017): the feature maps of one layer, weighted by how much the class wants them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaug.explaining.base import Explainer
from genaug.explaining.layers import as_maps, default_layer


class GradCAM(Explainer):
    """Sum of a layer's channels, each weighted by the mean gradient of the class's logit with respect to it.

    The gradient goes back to the layer and no further, which makes a map little dearer than a prediction. `Grad-CAM
    <https://arxiv.org/abs/1610.02391>`_, equations 1 and 2, enlarged to the image bilinearly (half-pixel centres).

    Args:
        layer: Name of the module whose output is used (``model.named_modules()``), called once in a forward pass; its
            output is a feature map or tokens, see :func:`genaug.explaining.layers.as_maps`. None takes
            :func:`genaug.explaining.layers.default_layer`.
        relu: Drop what speaks against the class, as the paper does. Then a map can be zero everywhere.
    """

    def __init__(self, layer: str | None = None, relu: bool = True) -> None:
        self.layer, self.relu = layer, relu
        self._defaults: WeakKeyDictionary[nn.Module, dict[torch.Size, str]] = WeakKeyDictionary()

    def explain(self, model: nn.Module, images: Tensor, classes: Tensor, seeds: Sequence[int]) -> Tensor:
        """See :meth:`Explainer.explain`.

        Raises:
            ValueError: The layer is not known, is not called exactly once, has another output than a feature map or
                tokens, or the logits do not depend on it.
        """
        name = self.layer if self.layer is not None else self._default(model, images)
        features, gradients = features_and_gradients(model, name, images, classes)
        size = images.shape[2:]
        # Half precision is enough for a network, not for a sum over a thousand channels.
        features, gradients = (as_maps(model, name, tensor.float(), size) for tensor in (features, gradients))
        maps = (gradients.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1, keepdim=True)
        if self.relu:
            maps = maps.relu()
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)[:, 0]

    def _default(self, model: nn.Module, images: Tensor) -> str:
        # By size, too: where a feature map has one place left is a matter of the image's.
        known = self._defaults.setdefault(model, {})
        size = images.shape[2:]
        if size not in known:
            known[size] = default_layer(model, images)
        return known[size]


def features_and_gradients(model: nn.Module, layer: str, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer returns, and the gradient of each image's logit with respect to it.

    To be called :func:`genaug.explaining.base.undisturbed`: as no parameter requires a gradient there, the graph
    begins at the layer, and what lies below it is a mere prediction.

    Args:
        model: Maps ``(B, C, H, W)`` to logits ``(B, K)``.
        layer: Name of a module.
        images: ``(B, C, H, W)`` floats.
        classes: ``(B,)`` integers in [0, K).

    Returns:
        Two tensors of the shape of the layer's output.

    Raises:
        ValueError: The layer is not known, is not called exactly once, returns something else than one tensor, or the
            logits do not depend on it; or there is no such class.
    """
    found: list[Tensor] = []

    def cut(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(f"layer: expected one that returns a tensor, came {type(output).__name__} from {layer!r}")
        # Also where the network itself has switched gradients off below its head; its own context ends this again.
        torch.set_grad_enabled(True)
        found.append(output.detach().requires_grad_())
        # What follows may work in place: on a copy.
        return found[-1].clone()

    handle = _find(model, layer).register_forward_hook(cut)
    try:
        logits = model(images)
    finally:
        handle.remove()
    if len(found) != 1:
        raise ValueError(
            f"layer: expected a module that is called once in a forward pass, but {layer!r} was called {len(found)} "
            "times; name one around its calls, or leave layer out for the default (activations are often shared)"
        )
    if logits.ndim != 2 or int(classes.max()) >= logits.shape[1]:
        raise ValueError(
            f"classes: expected logits (B, K) with K above every class, came {tuple(logits.shape)} and class "
            f"{int(classes.max())}; explain the network that was trained on these classes"
        )
    score = logits.gather(1, classes[:, None]).sum()
    gradients = torch.autograd.grad(score, found, allow_unused=True) if score.requires_grad else (None,)
    if gradients[0] is None:
        raise ValueError(f"layer: the logits do not depend on {layer!r}; name one on the way to them")
    return found[0].detach(), gradients[0]


def _find(model: nn.Module, layer: str) -> nn.Module:
    modules = dict(model.named_modules(remove_duplicate=False))
    modules.pop("")
    if layer not in modules:
        close = difflib.get_close_matches(layer, modules, n=5)
        hint = f"did you mean {', '.join(close)}?" if close else "model.named_modules() lists them"
        raise ValueError(f"layer: expected a module of {type(model).__name__}, came {layer!r}; {hint}")
    return modules[layer]
