"""Training of pictures and texts to meet: CLIP's loss over captions, and losses over phrases of known meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from genaug.clip.training_data import ABSTRACT, EMPTY, OBJECT, Described, Phrases
from genaug.generation.training_loop import Objective, grid, step_generator

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

#: Logits are never multiplied by more, as in the paper.
_MAX_SCALE = 100.0
#: Largest shift of a picture, as a fraction of its side.
_SHIFT = 1 / 16
_PREVIEWED = 8


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
            "scale": float(self.scale.detach()),
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
