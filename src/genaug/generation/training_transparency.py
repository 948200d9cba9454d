"""Transparency for a generator: ``python run.py stage=train_generator generator_training=tiny_transparency``.

Made as in LayerDiffuse (arXiv:2402.17113): the generator stays as it is; an autoencoder for pictures with an alpha
channel is trained whose latents lie close to those of the generator's own, and a LoRA of the denoiser learns these
latents. Learned from are cut-outs of objects: any dataset will do whose objects the configured segmenter finds.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional

from genaug.console import track
from genaug.data.base import Sample
from genaug.data.reading import read_image
from genaug.data.subsets import training_subset
from genaug.functional.composite import cut_out, resize
from genaug.functional.masks import mask_box
from genaug.functional.pushpull import fill_holes
from genaug.generation.model_files import locate
from genaug.generation.training import Captioned, caption_of, hold_out
from genaug.generation.training_denoiser import Denoising
from genaug.generation.training_loop import Settings, fit, grid, step_generator
from genaug.generation.training_vae import Reconstruction, encode, reconstruct, to_network
from genaug.seeding import derive
from genaug.segmentation.masks import Masks, make_masks

log = logging.getLogger(__name__)

_PREVIEWED = 10
_STRENGTHS = (0.2, 0.4, 0.6)


# --- cut-outs ------------------------------------------------------------------------------------------------------


def square_cutout(image: np.ndarray, mask: np.ndarray, margin: float, size: int) -> np.ndarray:
    """The object in the middle of a transparent square, its colours going on under alpha 0.

    Args:
        image: ``(H, W, 3)`` uint8.
        mask: ``(H, W)`` bool, of the object; not empty.
        margin: Transparent rim on each side, as a fraction of the long side of the object's box.
        size: Side of the answer in pixels.

    Returns:
        ``(size, size, 4)`` uint8 RGBA, colours not multiplied by alpha.

    Raises:
        ValueError: the mask is empty.
    """
    box = mask_box(mask)
    if box is None:
        raise ValueError("the mask is empty, so there is no object to cut out: leave this image out")
    _, _, width, height = box
    side = round(max(width, height) * (1 + 2 * margin))
    left, top = (side - width) // 2, (side - height) // 2
    square = np.zeros((side, side, 4), np.uint8)
    square[top : top + height, left : left + width] = cut_out(image, mask, box)
    square[..., :3] = fill_holes(np.ascontiguousarray(square[..., :3]), square[..., 3] > 0)
    return resize(square, size, size)


def reduced(image: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph and its mask with a short side of ``size`` pixels; smaller ones stay as they are."""
    scale = size / min(mask.shape)
    if scale >= 1:
        return image, mask
    height, width = (max(1, round(side * scale)) for side in mask.shape)
    small = resize(mask.astype(np.uint8) * 255, width, height) >= 128
    return resize(image, width, height), small


def read_cutouts(
    samples: Sequence[Sample],
    masks: Masks,
    classes: Sequence[str],
    size: int,
    *,
    copies: int,
    margin: tuple[float, float],
    seed: int,
) -> Captioned:
    """Cut-outs of all samples that have an object, into memory.

    Every second copy is cut from the photograph at ``size`` pixels: its object is enlarged and therefore blurred, as
    those of small photographs are.

    Args:
        samples: The photographs.
        masks: Of their objects.
        classes: Names of the classes, for the captions: a photograph's own describes its background, too.
        size: Side of a cut-out in pixels.
        copies: Of each object, each mirrored or not and with a margin of its own.
        margin: Range of the margins, see :func:`square_cutout`.
        seed: Of the margins and of the mirroring.

    Returns:
        Pictures ``(N, copies, 4, size, size)`` and one caption for all copies of an object.

    Raises:
        ValueError: no photograph has an object.
    """
    pictures, captions = [], []
    for sample in track(samples, len(samples), "cutting out"):
        image, mask = read_image(sample.path), masks[sample.id]
        small = reduced(image, mask, size)
        if not small[1].any():
            continue
        rng = np.random.default_rng(derive(seed, "cut-outs", sample.id))
        made = []
        for number in range(copies):
            cutout = square_cutout(*(small if number % 2 else (image, mask)), rng.uniform(*margin), size)
            made.append(cv2.flip(cutout, 1) if rng.random() < 0.5 else cutout)
        pictures.append(torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2))
        captions.append(caption_of(replace(sample, caption=None), classes))
    if not pictures:
        raise ValueError(f"no object in {len(samples)} photographs: look at the masks, or change the segmenter")
    log.info("cut-outs of %d objects in %d photographs", len(captions), len(samples))
    return Captioned(torch.stack(pictures), captions)


def load_cutouts(cfg: DictConfig, device: str) -> tuple[Captioned, Captioned]:
    """Cut-outs of the training split of ``cfg.dataset``: what is learned from and what is held out."""
    recipe, dataset = cfg.generator_training, instantiate(cfg.dataset)
    samples = training_subset(dataset.splits()["train"], **cfg.subset)
    folder = Path(cfg.paths.stores) / "masks"
    segmenter = instantiate(cfg.segmenter)
    masks = make_masks(samples, segmenter, dataset, folder, 1, device)
    data = read_cutouts(
        samples, masks, dataset.classes, recipe.image_size, seed=derive(cfg.seed, "cut-outs"), **recipe.cutouts
    )
    return hold_out(data, recipe.held_out, cfg.seed)


# --- autoencoder ---------------------------------------------------------------------------------------------------


def with_alpha(vae: AutoencoderKL, seed: int) -> AutoencoderKL:
    """An autoencoder of red, green, blue and alpha that starts as ``vae``: its encoder does not see alpha yet."""
    # Without where it was loaded from, which diffusers would write into the new one's file.
    config = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    wide = AutoencoderKL.from_config(config | {"in_channels": 4, "out_channels": 4})
    weights = {name: value.detach().clone() for name, value in vae.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    for name, new in wide.state_dict().items():
        known = weights[name]
        if known.shape != new.shape:
            more = torch.zeros(new.shape)
            if name == "decoder.conv_out.weight":  # the encoder's new weights stay 0, and so does the new bias
                more.normal_(std=0.01, generator=generator)
            more[tuple(map(slice, known.shape))] = known.cpu()
            weights[name] = more
    wide.load_state_dict(weights)
    return wide.to(device=vae.device, memory_format=torch.channels_last)


def colour_weight(alpha: Tensor) -> Tensor:
    """How much the colour of each pixel counts: all of it in and near the object, a tenth far from it.

    Args:
        alpha: ``(N, 1, H, W)`` in 0..1.
    """
    grown = functional.max_pool2d(alpha, 5, stride=1, padding=2)
    return 0.1 + 0.9 * functional.avg_pool2d(grown, 5, stride=1, padding=2, count_include_pad=False)


class TransparentReconstruction(Reconstruction):
    """As :class:`Reconstruction`, colours counting where they can be seen; and latents stay near those of ``teacher``.

    Args:
        vae: The autoencoder of four channels.
        teacher: The generator's own autoencoder, which stays as it is.
        pictures: ``(N, 4, S, S)`` uint8, to learn from.
        held_out: ``(M, 4, S, S)`` uint8, to measure on.
        latent_weight: Of the squared distance to the teacher's latents, these of standard deviation 1.
        settings: See :class:`Reconstruction`.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        teacher: AutoencoderKL,
        pictures: Tensor,
        held_out: Tensor,
        *,
        latent_weight: float,
        **settings: Any,
    ) -> None:
        super().__init__(vae, pictures, held_out, **settings)
        self.latent_weight = latent_weight
        self.teachers = [teacher]  # in a list, so that its weights are not trained

    def loss(self, step: int) -> Tensor:
        """See :meth:`Objective.loss`."""
        pictures = self.batch(step)
        latents = DiagonalGaussianDistribution(self.vae.quant_conv(self._encode(pictures)))
        noise = torch.randn(latents.mean.shape, generator=step_generator(self.seed, "vae noise", step))
        sample = latents.mean + latents.std * noise.to(latents.mean)
        error = (self._decode(self.vae.post_quant_conv(sample)) - pictures).float()
        alpha = pictures[:, 3:] * 0.5 + 0.5
        divergence = latents.kl().float().mean() / latents.mean[0].numel()
        return (
            self._error(error[:, :3], colour_weight(alpha))
            + self._error(error[:, 3:], torch.ones_like(alpha))
            + self.kl_weight * divergence
            + self.latent_weight * self._distance(pictures, latents.mean)
        )

    def _error(self, error: Tensor, weight: Tensor) -> Tensor:
        """L1, squared error and L1 of differences of ``(B, C, H, W)``, pixels weighted by ``(B, 1, H, W)``."""

        def mean(values: Tensor, weight: Tensor) -> Tensor:
            return (values * weight).sum() / (weight.sum() * values.shape[1])

        edges = mean(error.diff(dim=2).abs(), weight[:, :, 1:]) + mean(error.diff(dim=3).abs(), weight[:, :, :, 1:])
        return mean(error.abs() + self.square_weight * error.square(), weight) + self.edge_weight * edges

    def _distance(self, pictures: Tensor, latents: Tensor) -> Tensor:
        """Mean squared distance of latents to the teacher's, in its standard deviations."""
        with torch.no_grad():
            wanted = self.teachers[0].encode(pictures[:, :3]).latent_dist.mode()
        return (latents - wanted).float().square().mean() * self.vae.config.scaling_factor**2

    def score(self) -> dict[str, float]:
        """Of held-out cut-outs: dB of the visible colours, overlap of alpha, root mean square shift of the latents."""
        colours, overlaps, distances = [], [], []
        for part in self.held_out.split(32):
            real, made = to_network(part, "cpu"), reconstruct(self.vae, part)
            colours.append(visible_error(real, made))
            overlaps.append(alpha_iou(real, made))
            seen = to_network(part, self.vae.device)
            distances.append(self._distance(seen, self.vae.encode(seen).latent_dist.mode()).expand(len(part)).cpu())
        return {
            "psnr": float(-10 * torch.log10(torch.cat(colours).mean())),
            "alpha_iou": float(torch.cat(overlaps).mean()),
            "latent_shift": float(torch.cat(distances).mean().sqrt()),
        }

    def preview(self) -> np.ndarray:
        """Held-out cut-outs, each above its reconstruction."""
        shown = self.held_out[: 2 * _PREVIEWED]
        real, made = on_checkerboard(to_network(shown, "cpu")), on_checkerboard(reconstruct(self.vae, shown))
        return grid([row for pair in zip(real.split(_PREVIEWED), made.split(_PREVIEWED), strict=True) for row in pair])


def visible_error(real: Tensor, made: Tensor) -> Tensor:
    """Mean squared error ``(N,)`` of the colours where ``real`` is not transparent, of a range of 1.

    Args:
        real: ``(N, 4, H, W)`` in -1..1.
        made: Of the same shape.
    """
    inside = (real[:, 3:] > 0).float()
    error = (made[:, :3] - real[:, :3]).square() / 4
    return (error * inside).sum((1, 2, 3)) / (3 * inside.sum((1, 2, 3))).clamp(min=1)


def alpha_iou(real: Tensor, made: Tensor) -> Tensor:
    """Intersection over union ``(N,)`` of what is more than half opaque in pictures ``(N, 4, H, W)`` in -1..1."""
    first, second = real[:, 3] > 0, made[:, 3] > 0
    return (first & second).sum((1, 2)) / (first | second).sum((1, 2)).clamp(min=1)


def on_checkerboard(pictures: Tensor) -> Tensor:
    """Transparent pictures ``(N, 4, H, W)`` in -1..1 before squares of two greys, ``(N, 3, H, W)``."""
    height, width = pictures.shape[2:]
    odd = (torch.arange(height)[:, None] // 8 + torch.arange(width) // 8) % 2
    alpha = (pictures[:, 3:] * 0.5 + 0.5).clamp(0, 1)
    return alpha * pictures[:, :3] + (1 - alpha) * (0.2 + 0.4 * odd)


# --- denoiser ------------------------------------------------------------------------------------------------------


class TransparentDenoising(Denoising):
    """As :class:`Denoising`; the previews are edits of held-out cut-outs.

    Args:
        pipeline: The generator. What of its denoiser requires gradients is trained.
        vae: The autoencoder of four channels, which is not trained.
        latents: See :class:`Denoising`.
        captions: See there.
        held_out: See there.
        held_out_captions: See there.
        settings: The rest of what :class:`Denoising` takes.
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        vae: AutoencoderKL,
        latents: Tensor,
        captions: Sequence[str],
        held_out: Tensor,
        held_out_captions: Sequence[str],
        **settings: Any,
    ) -> None:
        prompts = held_out_captions[:_PREVIEWED]
        super().__init__(pipeline, latents, captions, held_out, held_out_captions, prompts=prompts, **settings)
        self.vaes = [vae]

    def preview(self) -> np.ndarray:
        """Held-out cut-outs through the autoencoder, and edited ever more strongly below."""
        shown = self.held_out[:_PREVIEWED]
        edits = [
            edit(
                self.pipelines[0],
                shown,
                self.prompts,
                strength,
                guidance=self.guidance,
                steps=self.preview_steps,
                seed=derive(self.seed, "preview"),
            )
            for strength in _STRENGTHS
        ]
        return grid([on_checkerboard(decode(self.vaes[0], latents)) for latents in (shown, *edits)])


def edit(
    pipeline: StableDiffusionPipeline,
    latents: Tensor,
    prompts: Sequence[str],
    strength: float,
    *,
    guidance: float,
    steps: int,
    seed: int,
) -> Tensor:
    """Noise latents and denoise them again (SDEdit, arXiv:2108.01073).

    Args:
        pipeline: The generator.
        latents: ``(N, C, h, w)`` of standard deviation 1.
        prompts: One each.
        strength: Noise level in (0, 1], a share of the timesteps.
        guidance: Guidance scale.
        steps: Denoiser steps at strength 1.
        seed: Of the noise.

    Returns:
        ``(N, C, h, w)`` on the CPU.
    """
    editor = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    editor.set_progress_bar_config(disable=True)
    made = editor(
        list(prompts),
        image=latents.to(pipeline.unet.device),
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[step_generator(seed, "edit", number) for number in range(len(prompts))],
        output_type="latent",
    )
    return made.images.cpu()


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures in -1..1 on the CPU of latents of standard deviation 1."""
    return vae.decode(latents.to(vae.device) / vae.config.scaling_factor).sample.float().cpu().clamp(-1, 1)


def add_lora(pipeline: StableDiffusionPipeline, lora: DictConfig, seed: int) -> None:
    """Give the denoiser a LoRA, the only part of the pipeline that requires gradients afterwards."""
    from peft import LoraConfig

    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # With an alpha that is the rank, the factors are all there is to know: the file needs no other numbers.
        pipeline.unet.add_adapter(
            LoraConfig(r=lora.rank, lora_alpha=lora.rank, target_modules=list(lora.target_modules))
        )


# --- the whole -----------------------------------------------------------------------------------------------------


def train_vae(
    cfg: DictConfig, teacher: AutoencoderKL, learn: Captioned, look: Captioned, folder: Path
) -> AutoencoderKL:
    """The autoencoder of four channels, trained."""
    part = cfg.generator_training.vae
    vae = with_alpha(teacher, derive(cfg.seed, "vae weights"))
    settings = Settings(**instantiate(part.fit, _convert_="all"))
    objective = TransparentReconstruction(
        vae,
        teacher,
        learn.pictures.flatten(0, 1),
        look.pictures.flatten(0, 1),
        steps=settings.steps,
        seed=derive(cfg.seed, "vae"),
        **part.objective,
    )
    fit(objective, settings, folder, "vae")
    return vae


def train_lora(
    cfg: DictConfig,
    pipeline: StableDiffusionPipeline,
    vae: AutoencoderKL,
    learn: Captioned,
    look: Captioned,
    folder: Path,
) -> None:
    """Give the denoiser of ``pipeline`` a LoRA and train it on the latents of ``vae``."""
    part = cfg.generator_training.denoiser
    add_lora(pipeline, part.lora, derive(cfg.seed, "lora weights"))
    settings = Settings(**instantiate(part.fit, _convert_="all"))
    scale = vae.config.scaling_factor
    objective = TransparentDenoising(
        pipeline,
        vae,
        torch.stack([encode(vae, copies) for copies in learn.pictures.unbind(1)]) * scale,
        learn.captions,
        encode(vae, look.pictures[:, 0]) * scale,
        look.captions,
        seed=derive(cfg.seed, "denoiser"),
        **part.objective,
    )
    fit(objective, settings, folder, "lora")


def train_transparency(cfg: DictConfig) -> Path:
    """Train what a generator needs to edit cut-outs; the same call goes on after a kill.

    Args:
        cfg: The composed configuration: ``dataset``, ``subset``, ``segmenter``, ``generator_training``, ``seed``
            and ``paths``.

    Returns:
        The folder of the autoencoder, ``transparency`` in the run's folder, the denoiser's LoRA in it; checkpoints and
        previews are in ``generator_training`` beside it.

    Raises:
        FileNotFoundError: there is no generator at ``generator_training.base``.
        ValueError: too few objects were found.
    """
    recipe, output = cfg.generator_training, Path(cfg.paths.output)
    device = recipe.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = StableDiffusionPipeline.from_pretrained(locate(recipe.base) or recipe.base, use_safetensors=True)
    pipeline.to(device)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    learn, look = load_cutouts(cfg, device)
    vae = train_vae(cfg, pipeline.vae, learn, look, output / "generator_training")
    train_lora(cfg, pipeline, vae, learn, look, output / "generator_training")
    return save(vae, pipeline, output / "transparency")


def save(vae: AutoencoderKL, pipeline: StableDiffusionPipeline, folder: Path) -> Path:
    """Write the autoencoder and the denoiser's LoRA in half precision, as diffusers reads them."""
    from peft.utils import get_peft_model_state_dict

    copy.deepcopy(vae).to("cpu", torch.float16).save_pretrained(folder, safe_serialization=True)
    factors = get_peft_model_state_dict(pipeline.unet)
    half = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in factors.items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=half, safe_serialization=True)
    log.info("transparency written to %s", folder)
    return folder
