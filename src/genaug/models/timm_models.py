"""Any network of timm, by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from genaug.models.weights import load_weights, read_state_dict


def timm_model(
    name: str,
    num_classes: int,
    image_size: int = 224,
    channels: int = 3,
    pretrained: bool = False,
    weights: str | Path | None = None,
) -> nn.Module:
    """Build a network and, if asked, load weights into all of it but a head of another size.

    Args:
        name: One of ``timm.list_models()``, with a tag after a dot where one set of pretrained weights is meant.
        num_classes: Number of outputs.
        image_size: Side of the images in pixels, given to networks that are built for one size.
        channels: Of the images; a first convolution for 3 channels is adapted.
        pretrained: Download timm's weights.
        weights: A local ``.pth`` or ``.safetensors`` state dict instead of a download.

    Returns:
        A network that maps ``(B, channels, image_size, image_size)`` to logits ``(B, num_classes)``.

    Raises:
        ValueError: Unknown name, both sources of weights, or weights that do not fit.
        FileNotFoundError: ``weights`` is not a file.
        ConnectionError: The download failed.
    """
    import timm

    check_name(name)
    if pretrained and weights:
        raise ValueError(f"expected pretrained or weights, came both (true and {weights}); leave one out")
    state = read_state_dict(weights) if weights else None
    config = timm.get_pretrained_cfg(name)
    size: dict[str, Any] = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=channels, **size)
    except OSError as error:
        raise ConnectionError(
            f"pretrained: could not fetch the weights of {name} ({error}); fetch them where there is a network, and "
            "give the file's path as weights="
        ) from error
    if state is not None:
        layers: Any = model.pretrained_cfg
        load_weights(model, _fit_positions(model, state), _names(layers["first_conv"]), _names(layers["classifier"]))
    return model


def check_name(name: str) -> None:
    """Refuse what is no network of timm.

    Raises:
        ValueError: it is none; the message names similar ones.
    """
    import timm

    if not timm.is_model(name):
        names = timm.list_models()
        close = difflib.get_close_matches(name.split(".")[0], names)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists all of them"
        raise ValueError(f"name: expected a model of timm, came {name!r}; {hint}")


def _names(entry: str | Sequence[str] | None) -> Sequence[str]:
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def _fit_positions(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    own, positions = model.state_dict().get("pos_embed"), state.get("pos_embed")
    if own is None or positions is None or own.shape == positions.shape or not hasattr(model, "patch_embed"):
        return state
    from timm.layers import resample_abs_pos_embed

    prefix = 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 0)
    fitted = resample_abs_pos_embed(positions, list(model.patch_embed.grid_size), num_prefix_tokens=prefix)
    return state | {"pos_embed": fitted}
