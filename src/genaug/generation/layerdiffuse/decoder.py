"""LayerDiffuse's decoder: colour and alpha of a latent that an autoencoder has decoded (arXiv:2402.17113).

Its blocks are those of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WIDTHS = (32, 32, 64, 128, 256, 512, 512)
#: Stages, from the finest, whose images have a side 8 times smaller: as large as the latents.
LATENT_STAGE = 3
#: Stages from this one on have attention.
ATTENTION_STAGE = 4
LAYERS = 2
#: Six times halved: what the sides of an image are multiples of.
STEP = 2 ** (len(WIDTHS) - 1)
GROUPS, EPSILON, HEAD_WIDTH = 4, 1e-5, 8


class TransparentDecoder(nn.Module):
    """A U-Net without time; 104,104,804 parameters, named as in the public files.

    The convolution that takes in the latents starts at zero: before training, they do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D

        self.conv_in = nn.Conv2d(3, WIDTHS[0], 3, padding=1)
        # As wide as what enters the stage, which is what the one before it gives.
        self.latent_conv_in = nn.Conv2d(4, WIDTHS[LATENT_STAGE - 1], 1)
        nn.init.zeros_(self.latent_conv_in.weight)
        assert self.latent_conv_in.bias is not None
        nn.init.zeros_(self.latent_conv_in.bias)
        stages = range(len(WIDTHS))
        self.down_blocks = nn.ModuleList(_down(stage) for stage in stages)
        self.mid_block = UNetMidBlock2D(
            WIDTHS[-1],
            None,
            resnet_eps=EPSILON,
            resnet_groups=GROUPS,
            attention_head_dim=HEAD_WIDTH,
        )
        self.up_blocks = nn.ModuleList(_up(stage) for stage in reversed(stages))
        self.conv_norm_out = nn.GroupNorm(GROUPS, WIDTHS[0], EPSILON)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(WIDTHS[0], 4, 3, padding=1)

    def forward(self, pixels: Tensor, latents: Tensor) -> Tensor:
        """Images ``(N, 4, H, W)`` around [0, 1]: alpha first, then red, green and blue.

        Args:
            pixels: ``(N, 3, H, W)`` in [0, 1], the latents as the autoencoder decodes them; sides are multiples of 64.
            latents: ``(N, 4, H/8, W/8)``.
        """
        hidden = self.conv_in(pixels)
        skipped = [hidden]
        for stage, block in enumerate(self.down_blocks):
            if stage == LATENT_STAGE:
                hidden = hidden + self.latent_conv_in(latents)
            hidden, outputs = block(hidden, None)
            skipped += outputs
        hidden = self.mid_block(hidden, None)
        for block in self.up_blocks:
            hidden = block(hidden, tuple(skipped[-LAYERS - 1 :]), None)
            del skipped[-LAYERS - 1 :]
        return self.conv_out(self.conv_act(self.conv_norm_out(hidden)))


def _down(stage: int) -> Any:
    from diffusers.models.unets.unet_2d_blocks import AttnDownBlock2D, DownBlock2D

    given: dict[str, Any] = {"num_layers": LAYERS, "resnet_eps": EPSILON, "resnet_groups": GROUPS}
    entering, last = WIDTHS[max(stage - 1, 0)], stage == len(WIDTHS) - 1
    if stage < ATTENTION_STAGE:
        return DownBlock2D(entering, WIDTHS[stage], None, add_downsample=not last, **given)
    given |= {"attention_head_dim": HEAD_WIDTH, "downsample_type": None if last else "conv"}
    return AttnDownBlock2D(entering, WIDTHS[stage], None, **given)


def _up(stage: int) -> Any:
    """The block that mirrors a stage of the way down; it takes in that stage's outputs and its input."""
    from diffusers.models.unets.unet_2d_blocks import AttnUpBlock2D, UpBlock2D

    given: dict[str, Any] = {"num_layers": LAYERS + 1, "resnet_eps": EPSILON, "resnet_groups": GROUPS}
    coarser, last = WIDTHS[min(stage + 1, len(WIDTHS) - 1)], stage == 0
    widths = WIDTHS[max(stage - 1, 0)], coarser, WIDTHS[stage], None
    if stage < ATTENTION_STAGE:
        return UpBlock2D(*widths, add_upsample=not last, **given)
    given |= {"attention_head_dim": HEAD_WIDTH, "upsample_type": None if last else "conv"}
    return AttnUpBlock2D(*widths, **given)


def median_of_views(decoder: Callable[[Tensor, Tensor], Tensor], pixels: Tensor, latents: Tensor) -> Tensor:
    """Decode eight views of each image, four quarter turns of it and of its mirror image, and take the median.

    Element by element; of eight values it is the fourth smallest, as in the published code. The views come one after
    the other, all images of a batch at once.

    Args:
        decoder: Takes pixels and latents, gives ``(N, C, H, W)``.
        pixels: ``(N, 3, H, W)`` in [0, 1].
        latents: ``(N, 4, h, w)``.

    Returns:
        ``(N, C, H, W)`` in [0, 1].

    Example:
        >>> median_of_views(lambda pixels, latents: pixels, torch.tensor([[[[0.25, 0.5]]]]), torch.zeros(1, 4, 1, 1))
        tensor([[[[0.2500, 0.5000]]]])
    """
    views = []
    for mirrored in (False, True):
        for turns in range(4):
            view = decoder(_turn(pixels, mirrored, turns), _turn(latents, mirrored, turns)).clip(0, 1)
            view = torch.rot90(view, -turns, (2, 3))
            views.append(view.flip(3) if mirrored else view)
    return torch.stack(views).median(dim=0).values


def _turn(images: Tensor, mirrored: bool, turns: int) -> Tensor:
    return torch.rot90(images.flip(3) if mirrored else images, turns, (2, 3))
