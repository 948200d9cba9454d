"""Training of an autoencoder that maps pictures to the latents a denoiser works on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from genaug.console import track
from genaug.generation.training_loop import Objective, grid, step_generator


class Reconstruction(Objective):
    """L1 and squared error of pixels, L1 of their differences, and a little of the latents' divergence from normal.

    There is no adversarial and no perceptual term: small drawn pictures come out sharp enough without.

    Args:
        vae: The autoencoder; it may not have attention where ``crop`` is smaller than the pictures.
        pictures: ``(N, 3, S, S)`` uint8, to learn from.
        held_out: ``(M, 3, S, S)`` uint8, to measure on.
        batch_size: Crops in a step.
        steps: Of the whole training.
        crop: Side of the crops in pixels.
        whole_share: Share of the steps, the last ones, that see whole pictures in place of crops, as many pixels a
            step; the statistics of group normalisation are those of whole pictures then.
        square_weight: Of the squared error of pixels: a rare colour, as of a crest, costs L1 too little to be kept.
        edge_weight: Of the differences between neighbouring pixels.
        kl_weight: Of the divergence, the mean over the numbers of a latent.
        seed: Of the crops and of the latents' noise.
        compiled: Whether to compile the networks (on a CPU it takes a C++ compiler).
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        pictures: Tensor,
        held_out: Tensor,
        *,
        batch_size: int,
        steps: int,
        crop: int,
        whole_share: float = 0.3,
        square_weight: float = 10.0,
        edge_weight: float = 0.25,
        kl_weight: float = 5e-5,
        seed: int = 0,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.vae, self.pictures, self.held_out = vae, pictures, held_out
        self.batch_size, self.crop, self.seed = batch_size, min(crop, pictures.shape[-1]), seed
        self.whole_from = round(steps * (1 - whole_share))
        self.square_weight, self.edge_weight, self.kl_weight = square_weight, edge_weight, kl_weight
        # The forward functions, not the modules, so that the names of the weights stay as they are.
        networks: tuple[Callable[..., Tensor], ...] = (vae.encoder.forward, vae.decoder.forward)
        if compiled:
            networks = tuple(torch.compile(one, dynamic=False) for one in networks)
        self._encode, self._decode = networks

    def batch(self, step: int) -> Tensor:
        """Crops, or whole pictures, of a step: ``(B, 3, h, h)`` in -1..1."""
        generator, size = step_generator(self.seed, "vae", step), self.pictures.shape[-1]
        side = self.crop if step < self.whole_from else size
        count = max(1, self.batch_size * self.crop**2 // side**2)
        chosen = torch.randint(len(self.pictures), (count,), generator=generator)
        corners = torch.randint(size - side + 1, (count, 2), generator=generator).tolist()
        crops = [
            self.pictures[index, :, y : y + side, x : x + side]
            for index, (y, x) in zip(chosen.tolist(), corners, strict=True)
        ]
        return to_network(torch.stack(crops), self.vae.device)

    def loss(self, step: int) -> Tensor:
        """See :meth:`Objective.loss`."""
        pictures = self.batch(step)
        latents = DiagonalGaussianDistribution(self.vae.quant_conv(self._encode(pictures)))
        noise = torch.randn(latents.mean.shape, generator=step_generator(self.seed, "vae noise", step))
        sample = latents.mean + latents.std * noise.to(latents.mean)
        error = (self._decode(self.vae.post_quant_conv(sample)) - pictures).float()
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        divergence = latents.kl().float().mean() / latents.mean[0].numel()
        pixels = error.abs().mean() + self.square_weight * error.square().mean()
        return pixels + self.edge_weight * edges + self.kl_weight * divergence

    def score(self) -> dict[str, float]:
        """Peak signal-to-noise ratio of held-out pictures in dB, over all their pixels and the mean of theirs."""
        errors = torch.cat(
            [(reconstruct(self.vae, part) - to_network(part, "cpu")).square().mean((1, 2, 3)) / 4
             for part in self.held_out.split(32)]
        )  # fmt: skip
        decibels = -10 * torch.log10(errors)
        return {"psnr": float(-10 * torch.log10(errors.mean())), "mean_psnr": float(decibels.mean())}

    def preview(self) -> np.ndarray:
        """Held-out pictures, each above its reconstruction."""
        shown = self.held_out[:20]
        made = reconstruct(self.vae, shown)
        real = to_network(shown, "cpu")
        return grid([real[:10], made[:10], real[10:], made[10:]] if len(shown) == 20 else [real, made])


def to_network(pictures: Tensor, device: torch.device | str) -> Tensor:
    """``(N, 3, H, W)`` uint8 as float32 in -1..1, channels last."""
    pictures = pictures.to(device, torch.float32, memory_format=torch.channels_last)
    return pictures / 127.5 - 1


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """``(N, 3, H, W)`` uint8 through the autoencoder, as float32 in -1..1 on the CPU."""
    latents = vae.encode(to_network(pictures, vae.device)).latent_dist.mode()
    return vae.decode(latents).sample.float().cpu().clamp(-1, 1)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor, batch_size: int = 64) -> Tensor:
    """Unscaled latents of ``(N, 3, H, W)`` uint8 pictures, float32 on the CPU; computed in bfloat16."""
    latents = []
    for part in track(pictures.split(batch_size), -(-len(pictures) // batch_size), "encoding"):
        with torch.autocast(vae.device.type, torch.bfloat16):
            latents.append(vae.encode(to_network(part, vae.device)).latent_dist.mode().float().cpu())
    return torch.cat(latents)


def set_scaling_factor(vae: AutoencoderKL, latents: Tensor) -> float:
    """Make ``scaling_factor`` the one that gives ``latents`` a standard deviation of 1; a denoiser expects that."""
    factor = round(float(1 / latents.std()), 5)
    vae.register_to_config(scaling_factor=factor)
    return factor
