"""Diff-Mix's filter: the images that show an object least are left out (Wang et al. 2024, arXiv:2403.19600)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor
from typing import Any

from genaug.clip.model import Clip
from genaug.filtering.base import Candidate, Circumstances, Filter, Judgement, kept_scores
from genaug.filtering.clip_scores import check_prompt, shares, superclass
from genaug.synthesis.store import content_key


class ClipPair(Filter):
    """Drops the share of the images that CLIP finds least likely to show an object.

    The score is the probability of ``positive`` against ``negative``. As a share is dropped, the verdict on an image
    depends on the others: more images of each source can bring one back that was dropped, or the other way round.

    Args:
        clip: The network.
        positive: ``{superclass}`` stands for what all images of the class show.
        negative: The same without it.
        drop: Share that is dropped, in [0, 1), rounded down to whole images.

    Raises:
        ValueError: ``drop`` is out of range, or a prompt cannot be filled in.
    """

    name = "clip_pair"

    def __init__(
        self,
        clip: Clip,
        positive: str = "a photo with a {superclass} on it",
        negative: str = "a photo without a {superclass} on it",
        drop: float = 0.1,
    ) -> None:
        if not 0 <= drop < 1:
            raise ValueError(f"clip_pair.drop={drop} must be a share in [0, 1): 0.1 drops a tenth.")
        for key, prompt in (("positive", positive), ("negative", negative)):
            check_prompt(f"clip_pair.{key}", prompt, superclass="x")
        self.clip, self.prompts, self.drop = clip, (positive, negative), float(drop)

    @property
    def settings(self) -> Mapping[str, Any]:
        """See :attr:`Filter.settings`."""
        return {"clip": self.clip.fingerprint, "prompts": list(self.prompts), "drop": self.drop}

    def judge(self, candidates: Sequence[Candidate], about: Circumstances) -> list[Judgement]:
        """See :meth:`Filter.judge`."""

        def compute(missing: Sequence[Candidate]) -> list[float]:
            words = {one.key: superclass(one, about.dataset) for one in missing}
            texts = {key: [prompt.format(superclass=word) for prompt in self.prompts] for key, word in words.items()}
            return [float(share[0]) for share in shares(self.clip, missing, texts, about.device)]

        words = content_key(about.dataset.superclass, *about.dataset.superclasses)
        name = f"{self.name}-{content_key(self.clip.fingerprint, *self.prompts, words)[:16]}"
        scores = kept_scores(name, candidates, about.folder, compute)
        count = floor(self.drop * len(scores) + 1e-9)  # a tenth of ten is one, whatever the rounding
        order = sorted(range(len(scores)), key=lambda number: (scores[number], candidates[number].key))
        dropped = set(order[:count])
        return [
            Judgement(False, score, "among the least likely to show the object")
            if number in dropped
            else Judgement(True, score)
            for number, score in enumerate(scores)
        ]
