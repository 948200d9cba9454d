"""GroundingDINO: boxes of what a text names (Liu et al. 2023, arXiv:2303.05499)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes in an image, the best first.

    Attributes:
        corners: ``(n, 4)`` float32: left, top, right, bottom in pixels, inside the image.
        scores: ``(n,)`` float32 in [0, 1], falling.
    """

    corners: np.ndarray
    scores: np.ndarray


def tidy_boxes(corners: np.ndarray, scores: np.ndarray, shape: tuple[int, int], nms: float) -> Boxes:
    """Boxes cut to the image, without those that leave nothing and those that repeat a better one.

    Args:
        corners: ``(n, 4)``: left, top, right, bottom in pixels.
        scores: ``(n,)``.
        shape: Height and width of the image.
        nms: Of two boxes with a larger intersection over union, the better is kept.

    >>> tidy_boxes(np.array([[-2, 1, 4, 5], [0, 1, 4, 5], [9, 9, 12, 12]]), np.array([0.5, 0.6, 0.9]), (8, 8), 0.8)
    Boxes(corners=array([[0., 1., 4., 5.]], dtype=float32), scores=array([0.6], dtype=float32))
    """
    from torchvision.ops import nms as suppress

    height, width = shape
    corners = np.clip(np.asarray(corners, np.float32), 0, np.array([width, height, width, height], np.float32))
    scores = np.asarray(scores, np.float32)
    some = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    corners, scores = corners[some], scores[some]
    kept = suppress(torch.from_numpy(corners), torch.from_numpy(scores), nms).numpy()
    return Boxes(corners[kept], scores[kept])


def has_words(label: str) -> bool:
    """Whether a box's label names any word of the text, not only marks of the tokenizer.

    >>> has_words("bird"), has_words("[SEP] ."), has_words("")
    (True, False, False)
    """
    return re.search(r"\w", re.sub(r"\[\w+\]", "", label)) is not None


class GroundingDino:
    """A zero-shot detector of transformers.

    Args:
        source: Id on the hub or local folder.
        device: Where it computes.

    Raises:
        OSError: there is no such model.
    """

    def __init__(self, source: str | Path, device: str) -> None:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        self.device = device
        self.model = AutoModelForZeroShotObjectDetection.from_pretrained(source).to(device).eval()
        self.processor = AutoProcessor.from_pretrained(source)

    def __call__(
        self, images: Sequence[np.ndarray], texts: Sequence[str], threshold: float, text_threshold: float, nms: float
    ) -> list[Boxes]:
        """Boxes in each RGB image ``(H, W, 3)`` uint8 of what its text names: lower case, a dot at its end.

        Args:
            images: May differ in size. Those of one size go through the network together; padding images to a common
                size would change the boxes.
            texts: One for each image.
            threshold: Least score of a box.
            text_threshold: A box stays where some word of the text reaches this, too.
            nms: See :func:`tidy_boxes`.
        """
        same_size = defaultdict(list)
        for index, image in enumerate(images):
            same_size[image.shape[:2]].append(index)
        boxes: dict[int, Boxes] = {}
        for shape, indices in same_size.items():
            results = self._detect([images[i] for i in indices], [texts[i] for i in indices], threshold, text_threshold)
            for index, result in zip(indices, results, strict=True):
                named = np.array([has_words(label) for label in result["text_labels"]], dtype=bool)
                corners, scores = result["boxes"].cpu().numpy()[named], result["scores"].cpu().numpy()[named]
                boxes[index] = tidy_boxes(corners, scores, shape, nms)
        return [boxes[index] for index in range(len(images))]

    @torch.inference_mode()
    def _detect(
        self, images: list[np.ndarray], texts: list[str], threshold: float, text_threshold: float
    ) -> list[dict[str, Any]]:
        """``boxes``, ``scores`` and ``text_labels`` of images of one size."""
        inputs = self.processor(
            images=images,
            text=texts,
            padding=True,
            return_tensors="pt",
            input_data_format="channels_last",
            device=self.device,
        ).to(self.device)
        return self.processor.post_process_grounded_object_detection(
            self.model(**inputs),
            inputs["input_ids"],
            threshold=threshold,
            text_threshold=text_threshold,
            target_sizes=[image.shape[:2] for image in images],
        )
