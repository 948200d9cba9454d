"""Which layer of a network Grad-CAM looks at, and its output as a feature map, whatever the network's layout."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genaug.explaining.base import fitted, undisturbed

#: Tokens before the patches of a network that does not tell how many: a class token and four registers (DINOv2, v3).
#: With more, hardly a number of tokens would be left that forms no grid of the image's aspect ratio by chance.
_MAX_PREFIX = 5

#: What timm, torchvision, transformers and CLIP call the norm before a block's attention (or token mixing).
_FIRST_NORMS = ("norm1", "norm_1", "ln_1", "ln1", "layer_norm1", "layernorm_before", "attention_norm")

#: Where they leave more than one place, as in VGG, that is what they got, or what they got stretched.
_POOLING = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def default_layer(model: nn.Module, images: Tensor) -> str:
    """Find the layer that Grad-CAM usually takes, by one forward pass of one image.

    * Networks that end in transformer blocks of tokens ``(B, N, D)``: the last block's first norm, by its usual names.
      Where the head reads the class token alone, what the last block returns at the other tokens gets no gradient.
    * All others: the last module whose output is one feature map of more than one place, adaptive pooling aside. Where
      a module passes on what one inside it has made, the outermost name is given: ``layer4``, not ``layer4.1``.

    Only modules that are called once in a forward pass count.

    Args:
        model: Maps ``(B, C, H, W)`` to logits.
        images: ``(B, C, H, W)`` floats; the size matters, as small images may shrink to one place early.

    Raises:
        ValueError: There is no such layer.

    >>> from genaug.models.tiny import tiny
    >>> default_layer(tiny(num_classes=2), torch.zeros(1, 3, 64, 64))
    'features'
    """
    outputs = _probe(model, images[:1])
    norms = [one for one in outputs if one.ndim == 3 and one.places > 1 and _is_first_norm(one.name)]
    maps = [one for one in outputs if one.ndim == 4 and one.places > 1]
    if norms and (not maps or norms[-1].end > maps[-1].end):
        return norms[-1].name
    if not maps:
        raise ValueError(
            f"found no module of {type(model).__name__} that is called once and returns one feature map of more than "
            f"one place for images of {tuple(images.shape[2:])} pixels; name a layer, or use larger images"
        )
    same = [one for one in maps if one.key == maps[-1].key]
    return min(same, key=lambda one: (one.name.count("."), one.end)).name


def as_maps(model: nn.Module, layer: str, features: Tensor, size: Sequence[int]) -> Tensor:
    """View a layer's output, or its gradient, as ``(B, C, h, w)``.

    Of four dimensions, channels are the second, or the last where the others agree better with the image's aspect
    ratio (``(B, h, w, C)``, as in Swin). Of three, ``(B, N, D)``, tokens before the patches are dropped, and the others
    laid out row by row: on the grid that the network tells (``patch_embed.grid_size`` and ``num_prefix_tokens`` in
    timm), else on the largest one of the image's aspect ratio.

    Args:
        model: The network.
        layer: Name of the module in it.
        features: What it returned.
        size: Height and width of the images.

    Raises:
        ValueError: Neither a feature map nor tokens on a grid.

    >>> as_maps(nn.Identity(), "", torch.zeros(2, 1 + 3 * 6, 8), size=(96, 192)).shape  # one class token
    torch.Size([2, 8, 3, 6])
    >>> as_maps(nn.Identity(), "", torch.zeros(2, 7, 7, 768), size=(224, 224)).shape
    torch.Size([2, 768, 7, 7])
    """
    if features.ndim == 3:
        prefix, grid = _token_grid(model, layer, features.shape[1], size)
        return features[:, prefix:].transpose(1, 2).unflatten(2, grid)
    if features.ndim != 4:
        raise ValueError(
            f"layer: expected an output (B, C, h, w), (B, h, w, C) or (B, N, D), came {tuple(features.shape)} from "
            f"{layer!r}; name a layer before pooling"
        )
    return features.permute(0, 3, 1, 2) if _channels_last(features, size) else features


@dataclass(frozen=True, slots=True)
class _Output:
    """A module that was called once, and the tensor that it returned.

    Attributes:
        name: Of the module.
        key: The same for modules that pass on the very same tensor, unchanged in place.
        ndim: Number of dimensions.
        places: Height times width of a feature map, or number of tokens.
        end: Number of calls that ended before.
    """

    name: str
    key: tuple[int, int]
    ndim: int
    places: int
    end: int


def _probe(model: nn.Module, image: Tensor) -> list[_Output]:
    """All modules that are called once and return tokens or a feature map, in the order in which their calls end."""
    calls: list[tuple[str, Any, int]] = []  # with the tensors: none is freed, and so no two have the same id

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: calls.append((name, output, getattr(output, "_version", 0)))

    with undisturbed(model), torch.no_grad(), ExitStack() as hooks:
        for name, module in model.named_modules():
            if name and not isinstance(module, _POOLING):
                hooks.callback(module.register_forward_hook(note(name)).remove)
        model(fitted(image, model))
    times, size = Counter(name for name, _, _ in calls), image.shape[2:]
    # Within attention, four dimensions are heads (B, heads, N, D / heads) and no map.
    tokens = {name for name, output, _ in calls if _returns_tokens(output)}
    return [
        _Output(name, (id(output), version), output.ndim, _places(output, size), end)
        for end, (name, output, version) in enumerate(calls)
        if times[name] == 1 and isinstance(output, Tensor) and output.ndim in (3, 4) and output.numel()
        if output.ndim == 3 or not any(parent in tokens or "attn" in parent for parent in _parents(name))
    ]


def _returns_tokens(output: Any) -> bool:
    first = output[0] if isinstance(output, tuple) and output else output
    return isinstance(first, Tensor) and first.ndim == 3


def _places(output: Tensor, size: Sequence[int]) -> int:
    if output.ndim == 3:
        return output.shape[1]
    return output[0, ..., 0].numel() if _channels_last(output, size) else output[0, 0].numel()


def _channels_last(output: Tensor, size: Sequence[int]) -> bool:
    _, first, second, last = output.shape
    aspect = math.log(size[0] / size[1])
    return abs(math.log(first / second) - aspect) < abs(math.log(second / last) - aspect)


def _is_first_norm(name: str) -> bool:
    return name.rpartition(".")[2] in _FIRST_NORMS


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


def _token_grid(model: nn.Module, layer: str, count: int, size: Sequence[int]) -> tuple[int, tuple[int, int]]:
    """How many of the tokens come before the patches, and rows and columns of those."""
    height, width = size
    prefixes: Sequence[int] = range(min(_MAX_PREFIX + 1, count))
    modules = dict(model.named_modules())
    # The network that the layer belongs to may lie within another.
    for owner in (modules[name] for name in (*_parents(layer), "") if name in modules):
        prefix = getattr(owner, "num_prefix_tokens", None)
        grid = getattr(getattr(owner, "patch_embed", None), "grid_size", None)
        if isinstance(prefix, int) and hasattr(owner, "patch_embed"):
            if grid and prefix + math.prod(grid) == count:
                return prefix, (int(grid[0]), int(grid[1]))
            prefixes = (prefix, *prefixes)  # built for images of another size
            break
    for prefix in prefixes:
        patches = max(count - prefix, 0)
        rows = math.isqrt(patches * height // width)
        columns = rows * width // height
        if rows and rows * columns == patches and rows * width == columns * height:
            return prefix, (rows, columns)
    raise ValueError(
        f"layer: expected tokens on a grid of the image's aspect ratio ({height} to {width}), after at most "
        f"{_MAX_PREFIX} others, came {count} from {layer!r}; name a layer whose output is a feature map (B, C, h, w)"
    )
