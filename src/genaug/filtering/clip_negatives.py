"""ALIA's semantic filter: of several descriptions the right one must win (Dunlap et al. 2023, arXiv:2305.16289)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genaug.clip.model import Clip
from genaug.filtering.base import Candidate, Circumstances, Filter, Judgement, kept_scores
from genaug.filtering.clip_scores import check_prompt, shares, superclass
from genaug.synthesis.store import content_key

#: Of the published configuration for CUB.
NEGATIVES = (
    "a photo of an object",
    "a photo of geometric shapes",
    "a photo",
    "an image",
    "a painting",
    "a photo of a person",
    "a cartoon of a {superclass}",
)


class ClipNegatives(Filter):
    """Keeps images that CLIP finds better described by the task than by anything else.

    The score is the probability of the task's prompt among all; the reason for dropping one is the prompt that won.

    Args:
        clip: The network.
        task: ``{superclass}`` stands for what all images of the class show.
        negatives: What an image is not to be.

    Raises:
        ValueError: there is no negative, or a prompt cannot be filled in.
    """

    name = "clip_negatives"

    def __init__(
        self, clip: Clip, task: str = "a photo of a {superclass}", negatives: Sequence[str] = NEGATIVES
    ) -> None:
        if not negatives:
            raise ValueError("clip_negatives.negatives is empty, so every image would be kept: give some prompts.")
        for prompt in (task, *negatives):
            check_prompt("clip_negatives", prompt, superclass="x")
        self.clip, self.task, self.negatives = clip, task, list(negatives)

    @property
    def settings(self) -> Mapping[str, Any]:
        """See :attr:`Filter.settings`."""
        return {"clip": self.clip.fingerprint, "task": self.task, "negatives": self.negatives}

    def judge(self, candidates: Sequence[Candidate], about: Circumstances) -> list[Judgement]:
        """See :meth:`Filter.judge`."""
        prompts = [self.task, *self.negatives]

        def compute(missing: Sequence[Candidate]) -> list[list[float]]:
            words = {one.key: superclass(one, about.dataset) for one in missing}
            texts = {key: [prompt.format(superclass=word) for prompt in prompts] for key, word in words.items()}
            return [share.tolist() for share in shares(self.clip, missing, texts, about.device)]

        words = content_key(about.dataset.superclass, *about.dataset.superclasses)
        name = f"{self.name}-{content_key(self.clip.fingerprint, *prompts, words)[:16]}"
        return [self._judged(share) for share in kept_scores(name, candidates, about.folder, compute)]

    def _judged(self, share: Sequence[float]) -> Judgement:
        best = share.index(max(share))
        reason = "" if best == 0 else f"rather: {self.negatives[best - 1]}"
        return Judgement(best == 0, share[0], reason)
