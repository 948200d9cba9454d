"""Training of a small CLIP: ``python run.py stage=train_generator generator_training=tiny_clip dataset=toyscenes``.

Any dataset of single labels will do. Three things are learned at once: which caption is whose (CLIP's own loss), which
of the phrases for a class is true, and whether a picture shows an object, a place without one, or nothing of the kind.
For the last, abstract pictures are drawn.

The result is a folder that ``CLIPModel.from_pretrained`` and ``CLIPProcessor.from_pretrained`` load.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional

from genaug.data.base import Dataset, Sample
from genaug.data.subsets import training_subset
from genaug.generation.training import chosen_recipe, read_captioned
from genaug.generation.training_loop import Objective, Settings, fit, grid, step_generator
from genaug.seeding import derive
from genaug.synthesis.per_source import with_article

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

log = logging.getLogger(__name__)

#: Labels of what a picture shows, of whatever class.
OBJECT, EMPTY, ABSTRACT = range(3)
#: Logits are never multiplied by more, as in the paper.
_MAX_SCALE = 100.0
#: Largest shift of a picture, as a fraction of its side.
_SHIFT = 1 / 16
_PREVIEWED = 8


@dataclass(frozen=True, slots=True)
class Described:
    """Pictures and what is true of them.

    Attributes:
        pictures: ``(N, 3, S, S)`` uint8.
        captions: One a picture.
        labels: ``(N,)``, of the classes.
        topics: ``(N,)``: :data:`OBJECT`, :data:`EMPTY` or :data:`ABSTRACT`.
    """

    pictures: Tensor
    captions: list[str]
    labels: Tensor
    topics: Tensor


@dataclass(frozen=True, slots=True)
class Phrases:
    """What can be said of pictures besides their captions.

    Attributes:
        classes: For each class that has objects, phrases of the same meaning.
        topics: The same for :data:`OBJECT`, :data:`EMPTY` and :data:`ABSTRACT`.
    """

    classes: Mapping[int, Sequence[str]]
    topics: Sequence[Sequence[str]]

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        *,
        classes: Sequence[str],
        object: Sequence[str],
        empty: Sequence[str],
        abstract: Sequence[str],
        empty_class: str | None,
    ) -> Phrases:
        """Fill in names: ``{name}`` and ``{a_name}`` stand for a class, ``{superclass}`` for what all objects are.

        Args:
            dataset: Has the names.
            classes: Phrases for a class.
            object: For any of them.
            empty: For a picture without an object.
            abstract: For a picture that is no photograph.
            empty_class: The class of pictures without an object, where there is one.
        """
        named = {
            label: [one.format(name=name.lower(), a_name=with_article(name.lower())) for one in classes]
            for label, name in enumerate(dataset.classes)
            if name != empty_class
        }
        topics = [[one.format(superclass=dataset.superclass) for one in topic] for topic in (object, empty, abstract)]
        return cls(named, topics)

    def all(self) -> list[str]:
        """Every phrase."""
        return [one for some in (*self.classes.values(), *self.topics) for one in some]


def describe(dataset: Dataset, samples: Sequence[Sample], size: int, empty_class: str | None) -> Described:
    """Read samples at ``size`` x ``size`` pixels into memory.

    Raises:
        ValueError: a sample has several labels.
    """
    if dataset.multilabel:
        raise ValueError(f"a CLIP is trained on pictures of one class each, and {dataset.name} has several labels")
    data = read_captioned(dataset, samples, size)
    labels = torch.tensor([sample.label for sample in samples])
    empty = dataset.classes.index(empty_class) if empty_class in dataset.classes else -1
    return Described(data.pictures, data.captions, labels, torch.where(labels == empty, EMPTY, OBJECT))


def draw_abstract(count: int, size: int, phrases: Sequence[str], seed: int) -> Described:
    """Pictures of coloured shapes, of stripes and of noise; label -1.

    Args:
        count: How many.
        size: Side in pixels.
        phrases: Their captions, in turn.
        seed: Of all of them.
    """
    pictures = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for number in range(count):
        rng = np.random.default_rng(derive(seed, "abstract", number))
        pictures[number] = torch.from_numpy(_abstract(size, rng)).permute(2, 0, 1)
    captions = [phrases[number % len(phrases)] for number in range(count)]
    return Described(pictures, captions, torch.full((count,), -1), torch.full((count,), ABSTRACT))


def _abstract(size: int, rng: np.random.Generator) -> np.ndarray:
    def colour() -> tuple[int, int, int]:
        red, green, blue = rng.integers(0, 256, 3).tolist()
        return red, green, blue

    image = np.full((size, size, 3), colour(), np.uint8)
    kind = rng.random()
    if kind < 0.1:  # nothing at all
        return image
    if kind < 0.2:
        grain = int(rng.integers(1, 9))
        noise = rng.integers(0, 256, (-(-size // grain), -(-size // grain), 3)).astype(np.uint8)
        return np.ascontiguousarray(noise.repeat(grain, 0).repeat(grain, 1)[:size, :size])
    if kind < 0.35:
        y, x = np.mgrid[:size, :size] / size
        angle, count = rng.uniform(0, np.pi), rng.uniform(2, 10)
        odd = np.sin(2 * np.pi * count * (x * np.cos(angle) + y * np.sin(angle))) > 0
        image[odd] = colour()
        return image
    for _ in range(rng.integers(1, 6)):
        corners = rng.integers(0, size, (int(rng.integers(3, 6)), 2)).astype(np.int32)
        if rng.random() < 0.4:
            cv2.circle(image, corners[0].tolist(), int(rng.integers(size // 16, size // 3)), colour(), -1, cv2.LINE_AA)
        elif rng.random() < 0.5:
            cv2.rectangle(image, corners[0].tolist(), corners[1].tolist(), colour(), -1)
        else:
            cv2.fillConvexPoly(image, cv2.convexHull(corners), colour(), cv2.LINE_AA)
    return image


def joined(first: Described, second: Described) -> Described:
    """Both, one after the other."""
    return Described(
        torch.cat([first.pictures, second.pictures]),
        first.captions + second.captions,
        torch.cat([first.labels, second.labels]),
        torch.cat([first.topics, second.topics]),
    )


class Contrast(Objective):
    """Pictures find what is true of them, and captions their pictures; pictures are mirrored and shifted at random.

    Args:
        model: The network.
        tokenizer: Its tokenizer.
        learn: To learn from.
        look: To measure on.
        phrases: What else is said of them.
        batch_size: Pictures in a step.
        shares: Of the topics in a batch.
        class_weight: Of the loss over classes.
        topic_weight: Of the loss over topics.
        smoothing: Of both.
        seed: Of everything random.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        learn: Described,
        look: Described,
        phrases: Phrases,
        *,
        batch_size: int,
        shares: Sequence[float],
        class_weight: float = 1.0,
        topic_weight: float = 0.5,
        smoothing: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.tokenizer, self.learn, self.look, self.phrases = tokenizer, learn, look, phrases
        self.batch_size, self.class_weight, self.topic_weight = batch_size, class_weight, topic_weight
        self.smoothing, self.seed = smoothing, seed
        self.pools = [torch.nonzero(learn.topics == topic).flatten() for topic in (OBJECT, EMPTY, ABSTRACT)]
        counts = [round(share * batch_size) if len(pool) else 0 for share, pool in zip(shares, self.pools, strict=True)]
        self.counts = [batch_size - sum(counts[1:]), *counts[1:]]
        self.numbers = {caption: number for number, caption in enumerate(dict.fromkeys(learn.captions))}

    def loss(self, step: int) -> Tensor:
        """See :meth:`Objective.loss`."""
        generator = step_generator(self.seed, "clip", step)
        chosen = torch.cat(
            [
                pool[torch.randint(len(pool), (count,), generator=generator)]
                for pool, count in zip(self.pools, self.counts, strict=True)
                if count
            ]
        )
        captions = [self.learn.captions[index] for index in chosen.tolist()]
        said = [self._any(some, generator) for some in (*self.phrases.classes.values(), *self.phrases.topics)]
        pictures = self.embed_pictures(moved(self.learn.pictures[chosen], generator))
        logits = self.scale * pictures @ self.embed_texts([*captions, *said]).T
        own, classes, topics = logits.split([len(chosen), len(self.phrases.classes), len(self.phrases.topics)], dim=1)
        return (
            self._own_captions(own, captions)
            + self.class_weight * self._classes(classes, self.learn.labels[chosen])
            + self.topic_weight * self._answers(topics, self.learn.topics[chosen])
        )

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by."""
        return self.model.logit_scale.exp().clamp(max=_MAX_SCALE)

    @staticmethod
    def _any(texts: Sequence[str], generator: torch.Generator) -> str:
        return texts[int(torch.randint(len(texts), (), generator=generator))]

    def _own_captions(self, logits: Tensor, captions: Sequence[str]) -> Tensor:
        """CLIP's loss, both ways; a caption that several pictures of the batch have is true of all of them."""
        numbers = torch.tensor([self.numbers[caption] for caption in captions], device=logits.device)
        true = (numbers[:, None] == numbers).float()
        true = true / true.sum(1, keepdim=True)
        return (functional.cross_entropy(logits, true) + functional.cross_entropy(logits.T, true)) / 2

    def _classes(self, logits: Tensor, labels: Tensor) -> Tensor:
        columns = {label: column for column, label in enumerate(self.phrases.classes)}
        shown = [number for number, label in enumerate(labels.tolist()) if label in columns]
        return self._answers(logits[shown], torch.tensor([columns[int(labels[number])] for number in shown]))

    def _answers(self, logits: Tensor, answers: Tensor) -> Tensor:
        return functional.cross_entropy(logits, answers.to(logits.device), label_smoothing=self.smoothing)

    def embed_pictures(self, pictures: Tensor) -> Tensor:
        """Rows of length 1 of pictures ``(N, 3, S, S)`` uint8."""
        pixels = (pictures.to(self.model.device).float() / 255 - 0.5) / 0.5
        return functional.normalize(self.model.get_image_features(pixels).pooler_output.float(), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Rows of length 1."""
        tokens = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).to(self.model.device)
        found = self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
        return functional.normalize(found.pooler_output.float(), dim=-1)

    def score(self) -> dict[str, float]:
        """Of held-out pictures, the share whose class is found among all by their first phrases, and whose topic is."""
        classes, topics = self._looked_at()
        labels, objects = self.look.labels, self.look.topics == OBJECT
        columns = torch.tensor(list(self.phrases.classes))
        return {
            "class_accuracy": float((columns[classes[objects].argmax(1)] == labels[objects]).float().mean()),
            "topic_accuracy": float((topics.argmax(1) == self.look.topics).float().mean()),
            "scale": float(self.scale),
        }

    def _looked_at(self) -> tuple[Tensor, Tensor]:
        """Cosines of the held-out pictures with the first phrase of each class, and of each topic."""
        pictures = torch.cat([self.embed_pictures(part) for part in self.look.pictures.split(64)])
        said = [some[0] for some in (*self.phrases.classes.values(), *self.phrases.topics)]
        cosines = (pictures @ self.embed_texts(said).T).cpu()
        parts = cosines.split([len(self.phrases.classes), len(self.phrases.topics)], dim=1)
        return parts[0], parts[1]

    def preview(self) -> np.ndarray:
        """Objects that are named rightly, above those that are named wrongly, as far as there are any of both."""
        classes, _ = self._looked_at()
        right = torch.tensor(list(self.phrases.classes))[classes.argmax(1)] == self.look.labels
        objects = self.look.topics == OBJECT
        rows = [self.look.pictures[objects & kind][:_PREVIEWED] / 127.5 - 1 for kind in (right, ~right)]
        return grid([functional.pad(row, (0, 0, 0, 0, 0, 0, 0, _PREVIEWED - len(row))) for row in rows])


def moved(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures ``(N, C, S, S)``, half of them mirrored, all shifted a little; what comes in is the border, mirrored."""
    count, side = len(pictures), pictures.shape[-1]
    room = round(side * _SHIFT)
    mirrored = torch.rand(count, generator=generator) < 0.5
    steps = torch.randint(-room, room + 1, (2, count, 1), generator=generator)
    turned = torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures)
    rows, columns = ((side - 1) - ((side - 1) - (torch.arange(side) + step).abs()).abs() for step in steps)
    return turned[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


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
