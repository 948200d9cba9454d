"""Stable Diffusion 1.5 and SDXL at their exact sizes with random weights: as fast as the real ones, and no download."""

from __future__ import annotations

import string
from pathlib import Path

import torch

CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


def _tokenizer() -> object:
    from transformers import CLIPTokenizer

    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocabulary = {token: index for index, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def _clip(config: dict[str, object], projection: bool = False) -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return kind(CLIPTextConfig(vocab_size=49408, bos_token_id=0, eos_token_id=1, pad_token_id=1, **config))


def _scheduler(name: str) -> object:
    import diffusers

    return getattr(diffusers, name)(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)


def save_sd15(folder: Path, dtype: torch.dtype) -> None:
    """860 million parameters of UNet at 512 px."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(sample_size=512, **VAE), text_encoder=_clip(CLIP_L), tokenizer=_tokenizer(), unet=unet,
        scheduler=_scheduler("PNDMScheduler"), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.to(dtype).save_pretrained(folder)


def save_sdxl(folder: Path, dtype: torch.dtype) -> None:
    """2.6 billion parameters of UNet at 1024 px."""
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    # The real decoder overflows in float16, and the pipeline would upcast it; in bfloat16 nothing is to be upcast.
    vae = AutoencoderKL(sample_size=1024, scaling_factor=0.13025, force_upcast=False, **VAE)
    pipe = StableDiffusionXLPipeline(
        vae=vae, text_encoder=_clip(CLIP_L), text_encoder_2=_clip(CLIP_G, projection=True), tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(), unet=unet, scheduler=_scheduler("EulerDiscreteScheduler"), add_watermarker=False,
    )  # fmt: skip
    pipe.to(dtype).save_pretrained(folder)


def save_pix2pix(folder: Path, model: Path) -> None:
    """InstructPix2Pix as its training begins: a text-to-image model whose denoiser gets four more channels of zeros."""
    from diffusers import StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline, UNet2DConditionModel

    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, requires_safety_checker=False)
    unet = UNet2DConditionModel.from_config({**pipe.unet.config, "in_channels": 8})
    weights = pipe.unet.state_dict()
    weights["conv_in.weight"] = torch.cat([weights["conv_in.weight"], torch.zeros_like(weights["conv_in.weight"])], 1)
    unet.load_state_dict(weights)
    StableDiffusionInstructPix2PixPipeline(
        **{**pipe.components, "unet": unet}, requires_safety_checker=False
    ).save_pretrained(folder)
