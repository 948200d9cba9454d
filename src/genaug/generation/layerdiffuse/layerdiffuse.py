"""LayerDiffuse: a latent diffusion model learns transparency (Zhang and Agrawala 2024, arXiv:2402.17113)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from genaug.generation.layerdiffuse import sdxl_weights
from genaug.generation.layerdiffuse.decoder import STEP, TransparentDecoder, median_of_views
from genaug.generation.layerdiffuse.encoder import TransparentEncoder
from genaug.generation.layerdiffuse.sd15_attention import Sd15Attention
from genaug.generation.layerdiffuse.weights import WeightFile
from genaug.generation.transparency import Transparency

#: For which models of diffusers each kind of file is.
MODELS = {"sd15": "StableDiffusion", "lora": "StableDiffusionXL", "offset": "StableDiffusionXL"}
OFFSET_SCALES = (1.0, 300.0)
DECODER_LATENTS = ("unscaled", "scaled")
#: By how much the autoencoder's sides are smaller than the image's; the networks are built for that.
FACTOR = 8


class LayerDiffuse(Transparency):
    """Transparency as an offset of the latents that the model's own autoencoder gives for the image on mid-grey.

    Latents are the mean of the autoencoder's posterior plus its standard deviation times an encoder's output, which
    takes the place of the noise that is drawn otherwise. A decoder reads colour and alpha out of the latents and of
    what the autoencoder makes of them. The denoiser's attention is changed for transparent images alone.

    Files are safetensors: local paths, or ``OWNER/REPOSITORY:FILE.safetensors`` on the Hugging Face hub, which are
    looked for in the local cache and fetched when the weights are loaded. Published are

    - for Stable Diffusion 1.5, ``LayerDiffusion/layerdiffusion-v1``: ``layer_sd15_transparent_attn`` (kind "sd15"),
      ``layer_sd15_vae_transparent_encoder``, ``layer_sd15_vae_transparent_decoder``;
    - for SDXL, the same repository: ``layer_xl_transparent_attn`` ("lora"), ``vae_transparent_encoder``,
      ``vae_transparent_decoder``; the first also as ``diffuser_layer_xl_transparent_attn`` ("lora") of
      ``rootonchair/diffuser_layerdiffuse``;
    - for SDXL, ``lllyasviel/LayerDiffuse_Diffusers``: ``ld_diffusers_sdxl_attn`` ("offset"),
      ``ld_diffusers_sdxl_vae_transparent_encoder`` and ``ld_diffusers_sdxl_vae_transparent_decoder``, with
      ``offset_scale=300``.

    Encoder and decoder compute in float32 whatever the denoiser does: bfloat16 has steps of 1/256 below 1, as coarse
    as the alpha of a file.

    Args:
        attention: File of the denoiser's change.
        attention_kind: What is in it. "sd15": LoRA and attention over frames for Stable Diffusion 1.5; "lora": a LoRA
            for SDXL; "offset": differences of SDXL's weights.
        encoder: File of the encoder.
        decoder: File of the decoder.
        offset_scale: What the encoder's output is multiplied by: 1 with ``LayerDiffusion/layerdiffusion-v1``, 300 with
            ``lllyasviel/LayerDiffuse_Diffusers``.
        use_offset: Add the offset; without it the latents are those of the image on mid-grey.
        decoder_latents: Of which size the decoder gets the latents: "unscaled" as the autoencoder knows them (official
            code for diffusers), "scaled" as the denoiser does (official extension of Forge).

    Raises:
        FileNotFoundError: a local file is not there.
        ValueError: an argument is none of its choices, or a file no safetensors file.
    """

    step = STEP

    def __init__(
        self,
        attention: str,
        attention_kind: Literal["sd15", "lora", "offset"],
        encoder: str,
        decoder: str,
        offset_scale: float = 1.0,
        use_offset: bool = True,
        decoder_latents: Literal["unscaled", "scaled"] = "unscaled",
    ) -> None:
        choices: tuple[tuple[str, Any, Any], ...] = (
            ("attention_kind", attention_kind, tuple(MODELS)),
            ("offset_scale", offset_scale, OFFSET_SCALES),
            ("decoder_latents", decoder_latents, DECODER_LATENTS),
        )
        for name, value, known in choices:
            if value not in known:
                raise ValueError(
                    f"generator.transparency.{name} must be one of {', '.join(map(str, known))}, got {value!r}"
                )
        self.attention_kind, self.decoder_latents = attention_kind, decoder_latents
        self.offset_scale, self.use_offset = offset_scale, use_offset
        self._files = {
            name: WeightFile(f"generator.transparency.{name}", place)
            for name, place in (("attention", attention), ("encoder", encoder), ("decoder", decoder))
        }
        self._change: AbstractContextManager[object] | None = None
        self._encoder: Any = None
        self._decoder: Any = None
        self._device = "cpu"

    @property
    def settings(self) -> Mapping[str, Any]:
        """See :class:`Transparency`; the hash of a local file stands for its path."""
        names = ("attention_kind", "offset_scale", "use_offset", "decoder_latents")
        return {**self._identities, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _identities(self) -> dict[str, str]:
        return {name: file.identity for name, file in self._files.items()}

    def check(self, index: Mapping[str, Any]) -> None:
        """See :class:`Transparency`; by the pipeline's class."""
        name = str(index["_class_name"])
        if re.sub("(Img2Img|Inpaint)?Pipeline$", "", name) != MODELS[self.attention_kind]:
            raise ValueError(
                f"generator.transparency.attention_kind={self.attention_kind} is for a "
                f"{MODELS[self.attention_kind]}Pipeline, and the model is a {name}. LayerDiffuse is published for "
                "Stable Diffusion 1.5 and SDXL; generator.transparency=null does without."
            )

    def fetch(self) -> None:
        """See :class:`Transparency`."""
        for file in self._files.values():
            file.path()

    def load(self, pipeline: Any, device: str) -> None:
        """See :class:`Transparency`.

        Raises:
            FileNotFoundError: a file can neither be found nor fetched.
            ValueError: the model is another than the files are for, or they hold other weights.
        """
        if self._decoder is not None:
            return
        self.check({"_class_name": type(pipeline).__name__})
        factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
        if factor != FACTOR:
            raise ValueError(
                f"LayerDiffuse needs an autoencoder that makes sides {FACTOR} times smaller; the model's makes them "
                f"{factor} times smaller."
            )
        self.fetch()
        with torch.device("meta"):  # no random numbers for weights that are replaced
            encoder, decoder = TransparentEncoder(), TransparentDecoder()
        filled = self._files["decoder"].fill(decoder)
        self._encoder = self._files["encoder"].fill(encoder).to(device)
        self._change = self._new_change(pipeline, device)
        self._decoder, self._device = filled.to(device), device

    def _new_change(self, pipeline: Any, device: str) -> AbstractContextManager[object]:
        file = self._files["attention"]
        if self.attention_kind == "sd15":
            return Sd15Attention(pipeline.unet, file, device)
        return (sdxl_weights.lora if self.attention_kind == "lora" else sdxl_weights.offset)(pipeline, file)

    def unload(self) -> None:
        """See :class:`Transparency`."""
        self._change = self._encoder = self._decoder = None

    def active(self, pipeline: Any) -> AbstractContextManager[object]:
        """See :class:`Transparency`."""
        assert self._change is not None
        return self._change

    @torch.no_grad()
    def encode(self, pipeline: Any, images: Tensor) -> Tensor:
        """See :class:`Transparency`."""
        images = images.to(self._device, torch.float32)
        colours, alpha = images[:, :3], images[:, 3:]
        on_grey = (colours * 2 - 1) * alpha
        with _without_overflow(pipeline.vae) as vae:
            posterior = vae.encode(on_grey.to(vae.dtype)).latent_dist
        latents = posterior.mean.float()
        if self.use_offset:
            offset = self._encoder(torch.cat([alpha, colours], 1)) * self.offset_scale
            latents = latents + posterior.std.float() * offset
        return (latents * pipeline.vae.config.scaling_factor).to(pipeline.unet.dtype)

    @torch.no_grad()
    def decode(self, pipeline: Any, latents: Tensor) -> Tensor:
        """See :class:`Transparency`; the colour under alpha 0 is any."""
        latents = latents.to(self._device, torch.float32)
        unscaled = latents / pipeline.vae.config.scaling_factor
        with _without_overflow(pipeline.vae) as vae:
            pixels = vae.decode(unscaled.to(vae.dtype)).sample.float() * 0.5 + 0.5
        # Clipping would turn infinity into a plain black or white.
        pixels = pixels.clip(0, 1).where(pixels.isfinite(), torch.nan)
        fed = unscaled if self.decoder_latents == "unscaled" else latents
        made = median_of_views(self._decoder, pixels, fed)
        return torch.cat([made[:, 1:], made[:, :1]], 1)


@contextmanager
def _without_overflow(vae: Any) -> Iterator[Any]:
    """An autoencoder in float32 where it says that it overflows in float16, as SDXL's does; afterwards as before."""
    dtype = vae.dtype
    overflows = dtype == torch.float16 and vae.config.get("force_upcast")
    if overflows:
        vae.to(torch.float32)
    try:
        yield vae
    finally:
        if overflows:
            vae.to(dtype)
