"""Scenes made from words, of which CLIP chooses those that show the scene and nothing of the classes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from genaug.clip.model import Clip
from genaug.data.reading import read_image
from genaug.filtering.base import Candidate, kept_scores
from genaug.synthesis.store import content_key


def chosen(classes: Sequence[float], captions: Sequence[float], keep: tuple[float, float]) -> list[int]:
    """Numbers of the pictures of one caption that are kept, the best first.

    First those stay that are least like any class, then of these the ones most like the caption (Ge et al. 2023: 60,
    and 30 of them).

    Args:
        classes: For each picture its similarity to the class it is most like.
        captions: Its similarity to the caption.
        keep: Share that stays after the first step, and share of these that stays; at least one picture does.

    Example:
        >>> chosen([0.1, 0.9, 0.2, 0.3], [0.5, 0.9, 0.7, 0.1], (0.75, 0.5))
        [2, 0]
    """
    count = len(classes)
    far = sorted(range(count), key=lambda number: classes[number])[: max(1, round(keep[0] * count))]
    return sorted(far, key=lambda number: -captions[number])[: max(1, round(keep[1] * len(far)))]


def choose_scenes(
    scenes: Sequence[Candidate],
    clip: Clip,
    class_texts: Sequence[str],
    keep: tuple[float, float],
    folder: Path,
    device: str,
) -> list[Candidate]:
    """Of the pictures of each caption, those that :func:`chosen` keeps; similarities are kept by content.

    Args:
        scenes: Pictures, each with its caption as prompt.
        clip: Compares; loaded if a similarity is missing, and unloaded afterwards.
        class_texts: What no scene should show.
        keep: See :func:`chosen`.
        folder: Of all stores.
        device: Where CLIP computes.

    Returns:
        In the order of the captions, the best of each first.
    """
    captions = list(dict.fromkeys(scene.prompt for scene in scenes))

    def compute(missing: Sequence[Candidate]) -> list[list[float]]:
        clip.load(device)
        try:
            words, rows = clip.texts([*class_texts, *captions]), []
            for start in range(0, len(missing), clip.batch_size):
                images = [read_image(scene.path, channels=3) for scene in missing[start : start + clip.batch_size]]
                rows += _similarities(clip.images(images) @ words.T, len(class_texts))
            return rows
        finally:
            clip.unload()

    name = f"scenes-{content_key(clip.fingerprint, json.dumps([*class_texts]), json.dumps(captions))[:16]}"
    scores = kept_scores(name, scenes, folder, compute)
    by_caption: dict[str, list[int]] = defaultdict(list)
    for number, scene in enumerate(scenes):
        by_caption[scene.prompt].append(number)
    kept = []
    for place, caption in enumerate(captions):
        numbers = by_caption[caption]
        best = chosen([scores[n][0] for n in numbers], [scores[n][1 + place] for n in numbers], keep)
        kept += [scenes[numbers[one]] for one in best]
    return kept


def _similarities(alike: Tensor, classes: int) -> list[list[float]]:
    """Of each row of similarities to classes and captions: the largest to a class, then that to each caption."""
    return [[float(row[:classes].max()), *row[classes:].tolist()] for row in alike]
