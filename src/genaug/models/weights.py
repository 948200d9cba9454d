"""Reading weights from a file and fitting them to a network of another head, input or size."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors`` file or one written by ``torch.save``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds something else than tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights: expected a .pth or .safetensors file, but there is no file {path}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        came = (
            f"a dict with keys {shorten(map(str, state))}" if isinstance(state, dict) else f"a {type(state).__name__}"
        )
        raise ValueError(
            f"weights: expected {path} to hold a state dict (tensors by name), but came {came}; "
            "save the network alone with torch.save(model.state_dict(), path)"
        )
    return state


def shorten(names: Iterable[str], limit: int = 4) -> str:
    """Join the first few names, and count the others.

    >>> shorten(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def find_last(model: nn.Module, kind: type[nn.Module]) -> str | None:
    """Find the name of the last module of a kind, None when there is none."""
    return next((name for name, module in reversed(list(model.named_modules())) if isinstance(module, kind)), None)


def find_head(model: nn.Module) -> str:
    """Find the name of the layer that makes the logits: the last linear one, or SqueezeNet's last convolution."""
    name = find_last(model, nn.Linear) or find_last(model, nn.Conv2d)
    if name is None:
        raise ValueError(f"expected a network with a linear or convolutional head, came {type(model).__name__}")
    return name


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """Fit a first convolution's weight to images of another number of channels.

    Every new channel gets the old channels' sum divided by ``channels``: a grey image that is repeated over the new
    channels gives what it gave when repeated over the old ones.

    Args:
        weight: ``(out, in, height, width)``.
        channels: The new ``in``.
    """
    return (weight.sum(dim=1, keepdim=True) / channels).expand(-1, channels, -1, -1).clone()


def load_weights(
    model: nn.Module, state: Mapping[str, Tensor], first_convs: Sequence[str], heads: Sequence[str]
) -> None:
    """Load a state dict, strictly but for a head or an input of another size.

    A head keeps its fresh weights when the file's has another number of classes; a first convolution for another
    number of channels is adapted. Both are logged.

    Args:
        model: Changed in place.
        state: Tensors by name.
        first_convs: Names of the layers that read the image.
        heads: Names of the layers that make the logits.

    Raises:
        ValueError: Names are missing or unknown, or shapes differ elsewhere.
    """
    own = model.state_dict()
    # Files older than PyTorch 1.0 lack these counters, which only batch norm without momentum reads.
    state = {name: own[name] for name in own if name.endswith("num_batches_tracked")} | dict(state)
    for head in heads:
        _keep_head_of_another_size(own, state, head)
    for name in first_convs:
        weight, expected = state.get(f"{name}.weight"), own[f"{name}.weight"]
        if weight is not None and weight.ndim == 4 and weight.shape[1] != expected.shape[1]:
            log.info("%s is adapted from %d to %d channels.", name, weight.shape[1], expected.shape[1])
            state[f"{name}.weight"] = adapt_input_channels(weight, expected.shape[1])
    _check_names_and_shapes(own, state)
    model.load_state_dict(state)


def _keep_head_of_another_size(own: Mapping[str, Tensor], state: dict[str, Tensor], head: str) -> None:
    expected, came = own[f"{head}.weight"], state.get(f"{head}.weight")
    if came is None or came.shape == expected.shape:
        return
    log.info("The head %s is new: the weights have %d classes, the network %d.", head, len(came), len(expected))
    state |= {name: own[name] for name in (f"{head}.weight", f"{head}.bias") if name in own}


def _check_names_and_shapes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    problems = {
        "missing": [name for name in own if name not in state],
        "not in the network": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    }
    found = "; ".join(f"{what}: {shorten(names)}" for what, names in problems.items() if names)
    if found:
        raise ValueError(
            f"weights: expected {len(own)} tensors of this network, but the file differs: {found}; "
            "check that the file is for the model of this name and image size"
        )
