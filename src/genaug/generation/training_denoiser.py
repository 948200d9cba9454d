"""Training of a denoiser and its text encoder on the latents of captioned pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

from genaug.generation.training_loop import Objective, grid, step_generator


class Denoising(Objective):
    """Error of the predicted noise, weighted by min-SNR (Hang et al., 2023), some captions dropped for guidance.

    Args:
        pipeline: The networks; the text encoder and the denoiser are trained, the autoencoder is not.
        latents: ``(V, N, C, h, w)`` of standard deviation 1, to learn from: V views (as mirrored) of N pictures.
        captions: One a picture.
        held_out: ``(M, C, h, w)``, to measure on.
        held_out_captions: One each.
        prompts: What the previews are made from.
        batch_size: Latents in a step.
        drop: Share of the captions that are replaced by nothing, for classifier-free guidance.
        strange: Share of the captions that get a few pieces of unknown words, so that these do no harm in a prompt.
        snr_gamma: Signal-to-noise ratio above which a timestep counts less; 5 in the paper.
        guidance: Guidance scale of the previews.
        preview_steps: Denoiser steps of the previews.
        seed: Of everything random.
        compiled: Whether to compile the denoiser (on a CPU it takes a C++ compiler).
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        latents: Tensor,
        captions: Sequence[str],
        held_out: Tensor,
        held_out_captions: Sequence[str],
        *,
        prompts: Sequence[str],
        batch_size: int,
        drop: float = 0.1,
        strange: float = 0.15,
        snr_gamma: float = 5.0,
        guidance: float = 4.0,
        preview_steps: int = 25,
        seed: int = 0,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.unet: UNet2DConditionModel = pipeline.unet
        self.text_encoder: CLIPTextModel = pipeline.text_encoder
        self.pipelines = [pipeline]  # in a list, so that the autoencoder's weights are not trained
        self.latents, self.held_out = latents, held_out
        tokenizer = pipeline.tokenizer
        self.tokens, self.held_out_tokens = tokenize(tokenizer, captions), tokenize(tokenizer, held_out_captions)
        self.nothing = tokenize(tokenizer, [""])[0]
        self.pieces = torch.tensor(  # sorted: a vocabulary comes in another order each time
            sorted(index for word, index in tokenizer.get_vocab().items() if not word.endswith(("</w>", "|>")))
        )
        self.signal = pipeline.scheduler.alphas_cumprod
        self.prompts, self.batch_size, self.drop, self.strange = list(prompts), batch_size, drop, strange
        self.snr_gamma, self.guidance, self.preview_steps, self.seed = snr_gamma, guidance, preview_steps, seed
        self._denoise = torch.compile(self.unet.forward, dynamic=False) if compiled else self.unet.forward

    def loss(self, step: int) -> Tensor:
        """See :meth:`Objective.loss`."""
        generator = step_generator(self.seed, "denoiser", step)
        count, total = self.batch_size, len(self.signal)
        chosen = torch.randint(len(self.tokens), (count,), generator=generator)
        latents = self.latents[torch.randint(len(self.latents), (count,), generator=generator), chosen]
        tokens = self._spoil(self.tokens[chosen], generator)
        # One timestep in each of as many equal parts: the loss varies less than with independent ones.
        even = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        timesteps = (even * total).long().clamp(max=total - 1)
        noise = torch.randn(latents.shape, generator=generator)
        # On a CPU the backward pass of fused attention takes a third of the whole step; plain products take little.
        on_cpu = self.unet.device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if on_cpu else contextlib.nullcontext():
            return self._error(latents, noise, timesteps, tokens, self._denoise)

    def _error(self, latents: Tensor, noise: Tensor, timesteps: Tensor, tokens: Tensor, denoise: Any) -> Tensor:
        """Mean weighted squared error of the noise that ``denoise`` sees in the noised latents."""
        device = self.unet.device
        signal = self.signal[timesteps].view(-1, 1, 1, 1)
        noised = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        words = self.text_encoder(tokens.to(device))[0]
        found = denoise(noised.to(device), timesteps.to(device), encoder_hidden_states=words, return_dict=False)[0]
        errors = (found.float() - noise.to(device)).square().mean((1, 2, 3))
        ratio = signal.flatten() / (1 - signal.flatten())
        return (errors * (ratio.clamp(max=self.snr_gamma) / ratio).to(device)).mean()

    def _spoil(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """``(B, L)`` tokens, some captions dropped, some with pieces of unknown words among the words."""
        shares = torch.rand(len(tokens), generator=generator)
        rows = []
        for row, share in zip(tokens, shares.tolist(), strict=True):
            if share < self.drop:
                rows.append(self.nothing)
            elif share < self.drop + self.strange:
                rows.append(self._with_pieces(row, generator))
            else:
                rows.append(row)
        return torch.stack(rows)

    def _with_pieces(self, row: Tensor, generator: torch.Generator) -> Tensor:
        words = int((row != self.nothing[-1]).sum())  # without the padding
        room = len(row) - words - 1
        if room < 1 or words < 2:
            return row
        for _ in range(int(torch.randint(1, min(room, 12) + 1, (), generator=generator))):
            at = int(torch.randint(1, words + 1, (), generator=generator))
            piece = self.pieces[torch.randint(len(self.pieces), (1,), generator=generator)]
            row, words = torch.cat([row[:at], piece, row[at:-1]]), words + 1
        return row

    def score(self) -> dict[str, float]:
        """Loss of held-out latents, always with the same noise."""
        count = len(self.held_out)
        noise = torch.randn(self.held_out.shape, generator=step_generator(self.seed, "held-out noise"))
        timesteps = torch.linspace(0, len(self.signal) - 1, count).long()
        return {
            "held_out": float(self._error(self.held_out, noise, timesteps, self.held_out_tokens, self.unet.forward))
        }

    def preview(self) -> np.ndarray:
        """Pictures of the prompts, two of each, a column a prompt."""
        pipeline, columns = self.pipelines[0], []
        pipeline.set_progress_bar_config(disable=True)
        for number in range(2):
            generators = [step_generator(self.seed, "preview", number, index) for index in range(len(self.prompts))]
            made = pipeline(
                self.prompts,
                num_inference_steps=self.preview_steps,
                guidance_scale=self.guidance,
                generator=generators,
                output_type="pt",
            ).images
            columns.append(made * 2 - 1)
        half = -(-len(self.prompts) // 2)
        rows = [part for made in columns for part in made.split(half)] if len(self.prompts) % 2 == 0 else columns
        return grid(rows)


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Texts as ``(N, L)`` token numbers, padded and cut to the length the tokenizer states."""
    return tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids


def assemble(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    scheduler: Any,
) -> StableDiffusionPipeline:
    """The parts as one pipeline, without a safety checker: there is none for drawn birds."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
