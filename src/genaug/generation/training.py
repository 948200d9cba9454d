"""Training of a small text-to-image generator: ``python run.py stage=train_generator generator_training=tiny``.

Any dataset will do; one without captions is described by its class names.

The result is a folder of diffusers, made as Stable Diffusion is (tokenizer, text encoder, autoencoder, denoiser,
scheduler), which ``AutoPipelineForText2Image.from_pretrained`` loads.
"""

from __future__ import annotations

import copy
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from genaug.console import track
from genaug.data.base import Dataset, Sample
from genaug.data.reading import read_image
from genaug.data.subsets import training_subset
from genaug.functional.composite import middle_square
from genaug.generation.training_loop import Settings, fit
from genaug.seeding import derive
from genaug.synthesis.store import write_atomically

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Captioned:
    """Pictures and what they show.

    Attributes:
        pictures: ``(N, 3, S, S)`` uint8; of cut-outs ``(N, V, 4, S, S)``, V views of each.
        captions: One a picture.
    """

    pictures: Tensor
    captions: list[str]


def caption_of(sample: Sample, classes: Sequence[str]) -> str:
    """The caption of a sample, or "a photo of a" and its class.

    >>> caption_of(Sample("a.png", Path("a.png"), (0, 1)), ["Cat", "dog"])
    'a photo of a cat and a dog'
    """
    if sample.caption is not None:
        return sample.caption
    labels = sample.label if isinstance(sample.label, tuple) else (sample.label,)
    return f"a photo of {' and '.join(f'a {classes[label].lower()}' for label in labels)}"


def read_captioned(dataset: Dataset, samples: Sequence[Sample], size: int) -> Captioned:
    """Read samples at ``size`` x ``size`` pixels, the middle square of each, into memory."""
    pictures = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)
    for index, sample in enumerate(track(samples, len(samples), "reading")):
        pictures[index] = torch.from_numpy(middle_square(read_image(sample.path), size)).permute(2, 0, 1)
    return Captioned(pictures, [caption_of(sample, dataset.classes) for sample in samples])


def hold_out(data: Captioned, count: int, seed: int) -> tuple[Captioned, Captioned]:
    """Part ``data`` into what is trained on and ``count`` pictures that are only looked at.

    Raises:
        ValueError: nothing would be left to train on.
    """
    if not 0 < count < len(data.captions):
        raise ValueError(f"held_out={count}: the training split has {len(data.captions)} pictures; hold out fewer")
    order = np.random.default_rng(derive(seed, "held out")).permutation(len(data.captions))
    held, kept = order[:count], np.sort(order[count:])
    learn, look = (
        Captioned(data.pictures[torch.from_numpy(part)], [data.captions[index] for index in part])
        for part in (kept, held)
    )
    return learn, look


def build(network: DictConfig, seed: int, device: str, **sizes: Any) -> Any:
    """A network of the configuration, its first weights from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = instantiate(network, _convert_="all", **sizes)
    return made.to(device=device, memory_format=torch.channels_last)


def train_vae(cfg: DictConfig, learn: Captioned, look: Captioned, folder: Path, device: str) -> Any:
    """The autoencoder, trained; its ``scaling_factor`` is measured on ``learn``."""
    from genaug.generation.training_vae import Reconstruction, encode, set_scaling_factor

    part = cfg.generator_training.vae
    vae = build(part.network, derive(cfg.seed, "vae weights"), device)
    settings = Settings(**instantiate(part.fit, _convert_="all"))
    objective = Reconstruction(
        vae, learn.pictures, look.pictures, steps=settings.steps, seed=derive(cfg.seed, "vae"), **part.objective
    )
    fit(objective, settings, folder, "vae")
    factor = set_scaling_factor(vae, encode(vae, learn.pictures[:1024]))
    log.info("vae: scaling_factor %.5f, %s", factor, objective.score())
    return vae


def train_denoiser(
    cfg: DictConfig, vae: Any, learn: Captioned, look: Captioned, folder: Path, device: str
) -> StableDiffusionPipeline:
    """The finished pipeline around ``vae``: text encoder and denoiser are trained."""
    from genaug.generation.training_denoiser import Denoising
    from genaug.generation.training_vae import encode

    part = cfg.generator_training.denoiser
    pipeline = blank_pipeline(cfg, vae, learn.captions, device)
    settings = Settings(**instantiate(part.fit, _convert_="all"))
    objective = Denoising(
        pipeline,
        _latents(vae, learn.pictures, part.mirrored, folder / "latents.pt"),
        learn.captions,
        encode(vae, look.pictures) * vae.config.scaling_factor,
        look.captions,
        seed=derive(cfg.seed, "denoiser"),
        **part.objective,
    )
    fit(objective, settings, folder, "denoiser")
    return pipeline


def blank_pipeline(cfg: DictConfig, vae: Any, captions: Sequence[str], device: str) -> StableDiffusionPipeline:
    """A pipeline around ``vae`` whose vocabulary fits ``captions``, and whose other networks are new."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from genaug.generation.tokenizer import train_tokenizer
    from genaug.generation.training_denoiser import assemble

    part = cfg.generator_training.denoiser
    tokenizer = train_tokenizer(captions, part.max_length)
    text_config = CLIPTextConfig(
        **part.text_encoder,
        vocab_size=len(tokenizer),
        max_position_embeddings=part.max_length,
        projection_dim=part.text_encoder.hidden_size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(cfg.seed, "text weights"))
        text_encoder = CLIPTextModel(text_config).to(device)
    unet = build(part.network, derive(cfg.seed, "denoiser weights"), device)
    scheduler = instantiate(part.scheduler, _convert_="all")
    return assemble(vae, text_encoder, tokenizer, unet, scheduler)


def _latents(vae: Any, pictures: Tensor, mirrored: bool, cache: Path) -> Tensor:
    """Scaled latents ``(V, N, C, h, w)`` of pictures, and of their mirror images; kept for a run that goes on."""
    from genaug.generation.training_vae import encode

    if cache.exists():
        return torch.load(cache, weights_only=True)
    views = [pictures, pictures.flip(3)] if mirrored else [pictures]
    latents = torch.stack([encode(vae, view) for view in views]) * vae.config.scaling_factor
    buffer = io.BytesIO()
    torch.save(latents, buffer)
    write_atomically(cache, buffer.getvalue())
    return latents


def load_data(cfg: DictConfig) -> tuple[Captioned, Captioned]:
    """The training split of ``cfg.dataset``: what is learned from and what is held out."""
    dataset = instantiate(cfg.dataset)
    samples = training_subset(dataset.splits()["train"], **cfg.subset)
    data = read_captioned(dataset, samples, cfg.generator_training.image_size)
    return hold_out(data, cfg.generator_training.held_out, cfg.seed)


def chosen_recipe(cfg: DictConfig) -> DictConfig:
    """What ``stage=train_generator`` is to train; its ``task`` takes the whole configuration.

    Raises:
        ValueError: no ``generator_training`` was chosen.
    """
    if cfg.get("generator_training") is None:
        raise ValueError("stage=train_generator takes a recipe: add generator_training=tiny to the command")
    return cfg.generator_training


def train_generator(cfg: DictConfig) -> Path:
    """Train a generator on the training split of ``cfg.dataset``; the same call goes on after a kill.

    Args:
        cfg: The composed configuration: ``dataset``, ``subset``, ``generator_training``, ``seed`` and
            ``paths.output``.

    Returns:
        The folder of the pipeline, ``generator`` in the run's folder; checkpoints and previews are in
        ``generator_training`` beside it.

    Raises:
        ValueError: no ``generator_training`` was chosen.
    """
    device, output = chosen_recipe(cfg).device, Path(cfg.paths.output)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    learn, look = load_data(cfg)
    vae = train_vae(cfg, learn, look, output / "generator_training", device)
    pipeline = train_denoiser(cfg, vae, learn, look, output / "generator_training", device)
    return save(pipeline, output / "generator")


def save(pipeline: StableDiffusionPipeline, folder: Path) -> Path:
    """Write ``pipeline`` in half precision, as ``from_pretrained`` reads it; ``pipeline`` itself stays as it is."""
    half = copy.deepcopy(pipeline).to("cpu", torch.float16)
    half.save_pretrained(folder, safe_serialization=True)
    # Unless told otherwise, transformers loads in the precision that is written here and diffusers in float32.
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2, sort_keys=True))
    log.info("generator written to %s", folder)
    return folder
