"""Class activation maps (Zhou et al., 2016) as SnapMix uses them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaug.mixing.base import Context
from genaug.models.weights import find_last
from genaug.saliency.base import Saliency, measured
from genaug.saliency.network import Mode, as_read_by, check_mode, logits_of, network_of


class ClassActivation(Saliency):
    """Where the network sees the classes that an image shows: the last feature map, weighted as the head weighs it.

    ``sum over channels of w[class, channel] * ReLU(feature map)``, bilinear to the image's size, less its minimum,
    as SnapMix computes it. With several classes an image their weights are added up, each times its target, and
    what is unknown is left out. It costs a forward pass.

    The network must pool a convolutional feature map over space and end in one linear layer: ResNet, DenseNet,
    EfficientNet, ConvNeXt (whose norm between the two is left out), but no vision transformer.

    Args:
        mode: Of the network in this pass. ``eval``: the map of an image does not depend on the others of its batch.
            ``train``: every module as it is in training, as in SnapMix's code; running statistics stay all the same.

    Raises:
        ValueError: ``mode`` is unknown; on the first batch, when the network is of another kind.
    """

    def __init__(self, mode: Mode = "eval") -> None:
        check_mode(mode)
        self.mode = mode

    def __call__(self, images: Tensor, targets: Tensor, context: Context) -> Tensor:
        """See :class:`genaug.saliency.base.Saliency`."""
        model = network_of(context, "cam")
        with measured("cam", images.device), torch.no_grad():
            features, head = last_feature_map(model, images, self.mode)
            weights = targets.float().nan_to_num(nan=0.0) @ head.weight.float()
            maps = torch.einsum("bc,bchw->bhw", weights, features.float().relu())
            maps = F.interpolate(maps[:, None], images.shape[-2:], mode="bilinear")[:, 0]
            return maps.sub_(maps.amin(dim=(1, 2), keepdim=True))


def last_feature_map(model: nn.Module, images: Tensor, mode: Mode) -> tuple[Tensor, nn.Linear]:
    """Run the network; return the last feature map ``(B, C, h, w)`` before its linear head, and the head.

    Raises:
        ValueError: Something else than a feature map with as many channels as the head has inputs comes last.
    """
    name = find_last(model, nn.Linear)
    head = None if name is None else model.get_submodule(name)
    last: dict[str, Tensor] = {}

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        # Pooled features have no place left; before pooling, a transformer's are no map: (B, tokens, C).
        if isinstance(output, Tensor) and output.ndim > 2 and output[0, 0].numel() > 1:
            last["output"] = output

    hooks = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        logits_of(model, as_read_by(model, images), mode)
    finally:
        for hook in hooks:
            hook.remove()
    features = last.get("output")
    if (
        not isinstance(head, nn.Linear)
        or features is None
        or features.ndim != 4
        or features.shape[1] != head.in_features
    ):
        came = "nothing of the kind" if features is None else f"an output of shape {tuple(features.shape)}"
        raise ValueError(
            f"saliency=cam expects a network that pools a feature map (B, C, h, w) of more than one pixel before a "
            f"linear head with C inputs (ResNet, DenseNet, EfficientNet, ConvNeXt; no vision transformer); before the "
            f"head {head} of {type(model).__name__} came {came}. Choose another model or another saliency."
        )
    return features, head
