"""Random networks of some kilobytes in the shape of the real ones, saved to a folder as diffusers saves models."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch


def clip_tokenizer() -> Any:
    """One token a letter."""
    from transformers import CLIPTokenizer

    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocabulary = {token: index for index, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24)


def clip_text(projection: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=54,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=24,
        projection_dim=32,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def vae(latent_channels: int = 4, **config: Any) -> Any:
    """Halves each side once: images of a multiple of 2 pixels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=32,
        **config,
    ).eval()


def unet(**config: Any) -> Any:
    from diffusers import UNet2DConditionModel

    given = {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**(given | config)).eval()


def stable_diffusion_parts(in_channels: int = 4) -> dict[str, Any]:
    """With Stable Diffusion 1's scheduler."""
    from diffusers import PNDMScheduler

    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    return {
        "vae": vae(),
        "text_encoder": clip_text(),
        "tokenizer": clip_tokenizer(),
        "unet": unet(in_channels=in_channels),
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def save_sd15(folder: Path) -> Path:
    """Save a model in the shape of Stable Diffusion 1.5 and return its folder."""
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    StableDiffusionPipeline(**stable_diffusion_parts()).save_pretrained(folder)
    return folder


def save_rgba_vae(folder: Path) -> Path:
    """Save an autoencoder of four channels for :func:`save_sd15`'s model and return its folder."""
    torch.manual_seed(1)
    vae(in_channels=4, out_channels=4).save_pretrained(folder)
    return folder


def save_pix2pix(folder: Path) -> Path:
    """Save a model in the shape of InstructPix2Pix, which sees the image in four more channels."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    torch.manual_seed(0)
    StableDiffusionInstructPix2PixPipeline(**stable_diffusion_parts(in_channels=8)).save_pretrained(folder)
    return folder


def save_sdxl(folder: Path) -> Path:
    """Save a model in the shape of SDXL: two text encoders, sizes as conditions, Euler."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    torch.manual_seed(0)
    StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip_text(),
        text_encoder_2=clip_text(projection=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=80,  # 6 numbers of 8, and the pooled text of 32
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def t5_parts() -> tuple[Any, Any]:
    """Encoder and tokenizer, one token a letter."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
    config = T5Config(vocab_size=len(pieces), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    vocabulary = [(piece, 0.0 if index < 3 else -2.0) for index, piece in enumerate(pieces)]
    return T5EncoderModel(config).eval(), T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=32)


def save_sd35(folder: Path) -> Path:
    """Save a model in the shape of Stable Diffusion 3.5: a transformer, three text encoders, flow matching."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    t5, t5_tokenizer = t5_parts()
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,  # its inpainting checks for that
        out_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        pos_embed_max_size=48,
    )
    StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(latent_channels=16, shift_factor=0.0, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(projection=True),
        text_encoder_2=clip_text(projection=True),
        text_encoder_3=t5,
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer,
    ).save_pretrained(folder)
    return folder


def save_flux(folder: Path) -> Path:
    """Save a model in the shape of FLUX.1: packed latents, noise levels that shift with the size of the picture."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    t5, t5_tokenizer = t5_parts()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    FluxPipeline(
        transformer=transformer.eval(),
        # The line through two sizes is laid where tiny pictures are, so that the size matters.
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_image_seq_len=16, max_image_seq_len=1024, base_shift=0.5, max_shift=1.15
        ),
        vae=vae(shift_factor=0.0, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(),
        text_encoder_2=t5,
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer,
    ).save_pretrained(folder)
    return folder


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0, size: float = 0.1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * size for name, shape in shapes.items()}


def vae8() -> Any:
    """An autoencoder that makes sides eight times smaller, as LayerDiffuse needs it."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    ).eval()


def sd15_tensors(unet: Any, rank: int = 3) -> dict[str, torch.Tensor]:
    """A random change of attention in the layout of Stable Diffusion 1.5's file."""
    from genaug.generation.layerdiffuse.sd15_attention import attention_names, layer_shapes

    shapes = {
        f"hookers.layers.{number}.{key}": shape
        for number, name in enumerate(attention_names(unet))
        for key, shape in layer_shapes(unet.get_submodule(name), rank).items()
    }
    return random_tensors(shapes, size=0.3)


def lora_tensors(unet: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Up and down matrices of rank 2 for all of a denoiser's attention."""
    from genaug.generation.layerdiffuse.sd15_attention import attention_names

    generator = torch.Generator().manual_seed(2)
    pairs = {}
    for name in attention_names(unet):
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            outputs, inputs = unet.get_submodule(f"{name}.{part}").weight.shape
            pairs[f"{name}.{part}"] = (
                torch.randn(outputs, 2, generator=generator),
                torch.randn(2, inputs, generator=generator),
            )
    return pairs


def save_clip(folder: Path) -> Path:
    """Save a random CLIP, sharp enough for its answers to differ, and return its folder."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    torch.manual_seed(0)
    text = clip_text().config.to_dict()
    vision = {
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 8,
    }
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(pictures, clip_tokenizer()).save_pretrained(folder)
    return folder
