"""A pass through the network that leaves no trace in it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.func import functional_call

from genaug.mixing.base import Context

Mode = Literal["eval", "train"]


def network_of(context: Context, name: str) -> nn.Module:
    """The network of the context.

    Raises:
        ValueError: There is none.
    """
    if context.model is None:
        raise ValueError(f"saliency={name} looks at the network, but there is none: expected Context(model=...)")
    return context.model


def check_mode(mode: str) -> None:
    """Refuse what is no mode.

    Raises:
        ValueError: ``mode`` is neither ``eval`` nor ``train``.
    """
    if mode not in ("eval", "train"):
        raise ValueError(f"mode: expected eval or train, came {mode!r}")


def as_read_by(model: nn.Module, images: Tensor) -> Tensor:
    """The images in the type of the network's weights, which may be another one than that of the images.

    >>> import torch
    >>> as_read_by(nn.Linear(1, 1), torch.zeros(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    types = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return images.to(next(types, images.dtype))


def logits_of(model: nn.Module, images: Tensor, mode: Mode) -> Tensor:
    """Run the network, and leave buffers (statistics of batch normalisation) and the mode of every module as they were.

    Args:
        model: The network.
        images: ``(B, C, H, W)``, of the type of its weights.
        mode: ``eval`` uses running statistics and no dropout. ``train`` leaves every module in the mode it is in, so
            that layers which were frozen stay so; dropout then draws from torch's generator, as in any training step.

    Returns:
        ``(B, K)`` logits, with a graph where gradients are enabled.
    """
    if mode == "train":
        # Copies take the place of the buffers for the call: what it writes is lost, whatever happens.
        copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
        return functional_call(model, copies, (images,))
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False  # not .eval(), which a module may have made to do more
        return model(images)
    finally:
        for module, training in modes:
            module.training = training
