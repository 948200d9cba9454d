"""Gradient saliency (Simonyan et al., 2013) as PuzzleMix, Co-Mixup and Guided-AP use it."""

from __future__ import annotations

import torch
from torch import Tensor

from genaug.losses import SoftCrossEntropy
from genaug.mixing.base import Context
from genaug.saliency.base import Saliency, measured
from genaug.saliency.network import Mode, as_read_by, check_mode, logits_of, network_of


class GradientSaliency(Saliency):
    """How much the loss of an image changes with each pixel: ``sqrt(mean over channels of (d loss / d pixel)^2)``.

    The loss is the one of training (binary cross-entropy for multi-label data), or cross-entropy where the context
    has none. It costs a forward and a backward pass, without gradients of weights.

    Args:
        mode: Of the network in this pass. ``eval``: the map of an image does not depend on the others of its batch.
            ``train``: every module as it is in training. Running statistics are left alone either way; in the papers'
            code the pass in training mode moves them.
        clean_lam: Above 0 the pass trains as well: it is made in the mode of training, and its loss, that of the clean
            batch, times ``clean_lam``, is added to the loss of the mixed batch, as PuzzleMix and Co-Mixup do.
        autocast: Let the pass have the precision of training instead of single precision. A pass that trains has it.

    Raises:
        ValueError: ``mode`` is unknown or ``clean_lam`` negative.

    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[0.0, 0, 0, 6], [0, 0, 0, 0]]))
    >>> GradientSaliency()(torch.zeros(1, 1, 2, 2), torch.eye(2)[:1], Context(model))  # probability 1/2, weight 6
    tensor([[[0., 0.],
             [0., 3.]]])
    """

    def __init__(self, mode: Mode = "eval", clean_lam: float = 0.0, autocast: bool = False) -> None:
        check_mode(mode)
        if not 0 <= clean_lam < float("inf"):
            raise ValueError(f"clean_lam is the weight of a loss: expected a number from 0 on, came {clean_lam}")
        self.mode, self.clean_lam, self.autocast = mode, clean_lam, autocast

    def __call__(self, images: Tensor, targets: Tensor, context: Context) -> Tensor:
        """See :class:`genaug.saliency.base.Saliency`; with ``clean_lam`` once a batch, for each call adds the loss."""
        model, loss = network_of(context, "gradient"), context.loss or SoftCrossEntropy()
        trains = self.clean_lam > 0
        as_in_training = torch.is_autocast_enabled(images.device.type) and (self.autocast or trains)
        with (
            measured("gradient", images.device),
            torch.enable_grad(),
            torch.autocast(images.device.type, enabled=as_in_training),
        ):
            pixels = as_read_by(model, images.detach()).requires_grad_()
            clean = loss(logits_of(model, pixels, "train" if trains else self.mode), targets)
            # Only the images' gradients are computed: nothing is accumulated in parameters.
            (gradient,) = torch.autograd.grad(clean, pixels, retain_graph=trains)
            if trains:
                context.add_loss(self.clean_lam * clean)
        # The loss is a mean over the batch, but the map of an image should not depend on how many others there are.
        return gradient.detach().float().square().mean(dim=1).sqrt().mul_(len(images))
