"""Training of a small CLIP: ``python run.py stage=train_generator generator_training=tiny_clip dataset=toyscenes``.

Any dataset of single labels will do. Three things are learned at once: which caption is whose (CLIP's own loss), which
of the phrases for a class is true, and whether a picture shows an object, a place without one, or nothing of the kind.
For the last, abstract pictures are drawn.

The result is a folder that ``CLIPModel.from_pretrained`` and ``CLIPProcessor.from_pretrained`` load.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from genaug.clip.training_contrast import Contrast
from genaug.clip.training_data import ABSTRACT, Phrases, describe, draw_abstract, joined
from genaug.data.subsets import training_subset
from genaug.generation.training import chosen_recipe
from genaug.generation.training_loop import Settings, fit
from genaug.seeding import derive

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

log = logging.getLogger(__name__)


def blank_model(cfg: DictConfig, texts: Sequence[str], device: str) -> tuple[CLIPModel, CLIPTokenizer]:
    """A new network and a tokenizer whose vocabulary fits ``texts``."""
    from transformers import CLIPConfig, CLIPModel

    from genaug.generation.tokenizer import train_tokenizer

    recipe = instantiate(cfg.generator_training, _convert_="all")
    tokenizer = train_tokenizer(texts, recipe["max_length"])
    text = {
        **recipe["text"],
        "vocab_size": len(tokenizer),
        "max_position_embeddings": recipe["max_length"],
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**recipe["vision"], "image_size": recipe["image_size"]}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=recipe["projection"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(cfg.seed, "clip weights"))
        model: Any = CLIPModel(config)
    # On a CPU, plain products take a third less time than fused attention does.
    model.set_attn_implementation("eager" if device == "cpu" else "sdpa")
    return model.to(device), tokenizer


def train_clip(cfg: DictConfig) -> Path:
    """Train a CLIP on the training split of ``cfg.dataset``, measured on its test split; after a kill it goes on.

    Args:
        cfg: The composed configuration: ``dataset``, ``subset``, ``generator_training``, ``seed`` and
            ``paths.output``.

    Returns:
        The folder of the model, ``clip`` in the run's folder; checkpoints and previews are in ``clip_training``.

    Raises:
        ValueError: the dataset's pictures have several labels.
    """
    recipe, output = chosen_recipe(cfg), Path(cfg.paths.output)
    device = recipe.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset, size = instantiate(cfg.dataset), recipe.image_size
    phrases = Phrases.of(dataset, empty_class=recipe.empty_class, **recipe.phrases)
    splits = dataset.splits()
    samples = {"train": training_subset(splits["train"], **cfg.subset), "test": splits["test"]}
    data = {
        name: joined(
            describe(dataset, some, size, recipe.empty_class),
            draw_abstract(recipe.abstract[name], size, phrases.topics[ABSTRACT], derive(cfg.seed, name)),
        )
        for name, some in samples.items()
    }
    model, tokenizer = blank_model(cfg, [*data["train"].captions, *phrases.all()], device)
    objective = Contrast(
        model, tokenizer, data["train"], data["test"], phrases, seed=derive(cfg.seed, "clip"), **recipe.objective
    )
    fit(objective, Settings(**instantiate(recipe.fit, _convert_="all")), output / "clip_training", "clip")
    log.info("clip: %s", objective.score())
    return save(model, tokenizer, output / "clip")


def save(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> Path:
    """Write the model in half precision, as ``from_pretrained`` reads it."""
    from transformers import CLIPImageProcessor, CLIPProcessor

    side = model.config.vision_config.image_size
    pictures = CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    model.to("cpu", torch.float16).save_pretrained(folder)
    log.info("clip written to %s", folder)
    return folder
