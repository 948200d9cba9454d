"""Asking a segmenter that reads again, in other words, where it found nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from genaug.data.base import Sample
from genaug.segmentation.base import Segmentation, Segmenter, Words

#: Images, the word to look for in each, and the threshold, to mask ``(H, W)`` bool and score of each, ``None`` where
#: nothing was found.
Find = Callable[[Sequence[np.ndarray], Sequence[str], float], Sequence[tuple[np.ndarray, float] | None]]
Retry = Literal["class_name", "lower_threshold", "object"]

NOTES = {
    "superclass": "superclass",
    "class_name": "class name",
    "lower_threshold": "superclass, lower threshold",
    "object": "object",
}
NOTHING = "nothing found"


def readable(name: str) -> str:
    """A name as it would be said: without the number, dots and underscores of a folder name.

    >>> readable("001.Black_footed_Albatross"), readable("St. Bernard")
    ('Black footed Albatross', 'St Bernard')
    """
    return re.sub(r"[\s._]+", " ", re.sub(r"^\d+[._]+", "", name)).strip()


class Ladder:
    """What is asked, one after the other, until something is found.

    The superclass comes first: it is found more often than a fine-grained name (AGA, section 4.1). A question that was
    asked already, or for which there is no word, is left out.

    Args:
        threshold: Score from which something counts as found.
        lower_threshold: The same for the step ``lower_threshold``, which asks for the superclass again.
        retry: The steps after the first, in their order; none asks for the superclass only.
        fallback: Segments what no step found; without one the mask stays empty.

    Raises:
        ValueError: a threshold is out of range, or a step is not known or there twice.
    """

    def __init__(
        self, threshold: float, lower_threshold: float, retry: Sequence[str], fallback: Segmenter | None
    ) -> None:
        if not 0 < lower_threshold <= threshold < 1:
            raise ValueError(
                f"0 < lower_threshold <= threshold < 1 is needed, got a threshold of {threshold} and a lower one of "
                f"{lower_threshold}"
            )
        known = get_args(Retry)
        if not set(retry) <= set(known) or len(set(retry)) < len(retry):
            raise ValueError(f"segmenter.retry={list(retry)} must be some of {', '.join(known)}, each once")
        self.threshold, self.lower_threshold = threshold, lower_threshold
        self.retry, self.fallback = tuple(retry), fallback

    @property
    def reads_class(self) -> bool:
        """See :attr:`Segmenter.reads_class`."""
        return "class_name" in self.retry or (self.fallback is not None and self.fallback.reads_class)

    @property
    def settings(self) -> Mapping[str, Any]:
        """All arguments, the fallback by its fingerprint."""
        return {
            "threshold": self.threshold,
            "lower_threshold": self.lower_threshold if "lower_threshold" in self.retry else None,
            "retry": list(self.retry),
            "fallback": None if self.fallback is None else self.fallback.fingerprint,
        }

    def questions(self, words: Words) -> dict[str, tuple[str, float]]:
        """Step to word and threshold, in the order they are asked."""
        superclass, class_name = readable(words.superclass), readable(words.class_name)
        all_of_them = {
            "superclass": (superclass, self.threshold),
            "class_name": (class_name, self.threshold),
            "lower_threshold": (superclass, self.lower_threshold),
            "object": ("object", self.threshold),
        }
        asked: dict[str, tuple[str, float]] = {}
        for step in ("superclass", *self.retry):
            word, threshold = all_of_them[step]
            if word and (word.casefold(), threshold) not in {(old.casefold(), at) for old, at in asked.values()}:
                asked[step] = word, threshold
        return asked

    def climb(
        self, images: Sequence[np.ndarray], samples: Sequence[Sample], words: Sequence[Words], find: Find
    ) -> list[Segmentation]:
        """Ask for each image what :meth:`questions` says, all images of a step at once.

        Returns:
            What was found; the note says at which step.
        """
        questions = [self.questions(word) for word in words]
        found: dict[int, Segmentation] = {}
        for step in ("superclass", *self.retry):
            asked = [i for i in range(len(images)) if i not in found and step in questions[i]]
            if not asked:
                continue
            _, threshold = questions[asked[0]][step]
            answers = find([images[i] for i in asked], [questions[i][step][0] for i in asked], threshold)
            for i, answer in zip(asked, answers, strict=True):
                if answer is not None:
                    found[i] = Segmentation(answer[0], score=answer[1], note=NOTES[step])
        return [found.get(i) or self._last_resort(images[i], samples[i], words[i]) for i in range(len(images))]

    def _last_resort(self, image: np.ndarray, sample: Sample, words: Words) -> Segmentation:
        """What the fallback finds, or nothing."""
        if self.fallback is None:
            return Segmentation(np.zeros(image.shape[:2], bool), score=0.0, note=NOTHING)
        (found,) = self.fallback.segment_batch([image], [sample], [words])
        return Segmentation(found.mask, found.score, f"fallback: {type(self.fallback).__name__.lower()}, {found.note}")
