"""Any classification network of torchvision, by name."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genaug.models.weights import find_head, load_weights, read_state_dict


def torchvision_model(
    name: str,
    num_classes: int,
    image_size: int = 224,
    channels: int = 3,
    pretrained: bool | str = False,
    weights: str | Path | None = None,
) -> nn.Module:
    """Build a network and, if asked, load weights into all of it but a head of another size.

    Args:
        name: One of ``torchvision.models.list_models(module=torchvision.models)``.
        num_classes: Number of outputs.
        image_size: Side of the images in pixels; position embeddings of other sizes are interpolated.
        channels: Of the images; a first convolution for 3 channels is adapted.
        pretrained: True downloads torchvision's default weights, a string those of that name
            (``IMAGENET1K_SWAG_E2E_V1``).
        weights: A local ``.pth`` or ``.safetensors`` state dict instead of a download.

    Returns:
        A network that maps ``(B, channels, image_size, image_size)`` to logits ``(B, num_classes)``.

    Raises:
        ValueError: Unknown name, both sources of weights, or weights that do not fit.
        FileNotFoundError: ``weights`` is not a file.
        ConnectionError: The download failed.
    """
    _check_name(name)
    if pretrained and weights:
        raise ValueError(f"expected pretrained or weights, came both ({pretrained} and {weights}); leave one out")
    state = _download(name, pretrained) if pretrained else _read(name, weights) if weights else None
    model = _construct(name, num_classes, image_size, standardise=state is not None and channels == 3)
    first_conv, conv = next((key, module) for key, module in model.named_modules() if isinstance(module, nn.Conv2d))
    if channels != 3:
        _change_channels(conv, channels)
    if state is not None:
        load_weights(model, _fit_positions(name, image_size, state), [first_conv], [find_head(model)])
    return model


def _check_name(name: str) -> None:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        close = difflib.get_close_matches(name, names) or names
        raise ValueError(
            f"name: expected a classification model of torchvision, came {name!r}; did you mean {', '.join(close)}?"
        )


def _construct(name: str, num_classes: int, image_size: int, standardise: bool) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {"num_classes": num_classes}
    if name.startswith("vit_"):
        patch = _patch_size(name)
        if image_size % patch:
            raise ValueError(
                f"image_size: {name} expects a multiple of {patch}, came {image_size}; resize to "
                f"{image_size // patch * patch or patch} or {(image_size // patch + 1) * patch}"
            )
        options["image_size"] = image_size
    elif name == "maxvit_t":
        options["input_size"] = (image_size, image_size)
    elif name in ("googlenet", "inception_v3"):
        # Their ImageNet weights were trained on inputs in [-1, 1], to which transform_input converts.
        options |= {"aux_logits": False, "init_weights": True, "transform_input": standardise}
    return models.get_model(name, weights=None, **options)


def _patch_size(name: str) -> int:
    return int(name.rsplit("_", 1)[1])


def _download(name: str, pretrained: bool | str) -> dict[str, Tensor]:
    from torchvision import models

    known = models.get_model_weights(name)
    if isinstance(pretrained, str) and pretrained not in known.__members__:
        raise ValueError(
            f"pretrained: {name} expects true or one of {', '.join(known.__members__)}, came {pretrained!r}"
        )
    chosen = known[pretrained] if isinstance(pretrained, str) else known.DEFAULT
    options = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    try:
        # The builder, not get_state_dict: it renames the keys of older files.
        return models.get_model(name, weights=chosen, **options).state_dict()
    except OSError as error:
        raise ConnectionError(
            f"pretrained: could not download {chosen} from {chosen.url} ({error}); fetch that file where there is "
            "a network, and give its path as weights="
        ) from error


def _read(name: str, path: str | Path) -> dict[str, Tensor]:
    state = read_state_dict(path)
    if name.startswith("densenet"):
        # torchvision's own DenseNet files have norm.1 where the network has norm1.
        state = {re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", key): value for key, value in state.items()}
    if name in ("googlenet", "inception_v3"):
        state = {key: value for key, value in state.items() if not key.lower().startswith("aux")}
    return state


def _fit_positions(name: str, image_size: int, state: dict[str, Tensor]) -> dict[str, Tensor]:
    if not name.startswith("vit_") or "encoder.pos_embedding" not in state:
        return state
    from torchvision.models.vision_transformer import interpolate_embeddings

    return dict(interpolate_embeddings(image_size, _patch_size(name), dict(state)))


def _change_channels(conv: nn.Conv2d, channels: int) -> None:
    weight = torch.empty(conv.out_channels, channels, *conv.kernel_size)
    # Same spread of activations as the network's own initialisation.
    nn.init.normal_(weight, std=conv.weight.std().item() * (conv.in_channels / channels) ** 0.5)
    conv.in_channels, conv.weight = channels, nn.Parameter(weight)
