"""LayerDiffuse's encoder: what an image's transparency adds to its latents (arXiv:2402.17113)."""

from __future__ import annotations

from torch import Tensor, nn


class TransparentEncoder(nn.Module):
    """Plain convolutions that shrink an image to the latents' size; 1,181,764 parameters, named as in the public files.

    The last one starts at zero: before training, transparency leaves the latents as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 4
        for width, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.SiLU()]
            channels = width
        last = nn.Conv2d(channels, 4, 3, padding=1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.blocks = nn.Sequential(*layers, last)

    def forward(self, images: Tensor) -> Tensor:
        """Offsets ``(N, 4, H/8, W/8)``, in standard deviations of the autoencoder's posterior.

        Args:
            images: ``(N, 4, H, W)`` in [0, 1]: alpha first, then red, green and blue, which go on where alpha is 0.
        """
        return self.blocks(images)
