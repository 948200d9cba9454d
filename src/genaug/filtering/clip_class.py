"""Real-Guidance's filter: CLIP must see the class in the image (He et al. 2023, arXiv:2210.07574)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genaug.clip.model import Clip
from genaug.filtering.base import Candidate, Circumstances, Filter, Judgement, kept_scores
from genaug.filtering.clip_scores import check_prompt, shares
from genaug.synthesis.images import labels_of
from genaug.synthesis.per_source import with_article
from genaug.synthesis.store import content_key


class ClipClass(Filter):
    """Keeps images to whose class CLIP gives more than its even share.

    A prompt is made of each class, and the score is the probability of the image's own: a softmax over all classes. An
    image is kept above ``factor / C`` of C classes; of several labels the least likely counts. The published code then
    brings every class to 800 images: of more it draws some, of fewer it takes the likeliest of all.

    Args:
        clip: The network.
        prompt: ``{name}`` stands for the class, ``{a_name}`` for it with its article.
        factor: Times the even share.

    Raises:
        ValueError: a negative ``factor``, or a prompt that cannot be filled in.
    """

    name = "clip_class"

    def __init__(self, clip: Clip, prompt: str = "a photo of a {name}", factor: float = 1.0) -> None:
        if factor < 0:
            raise ValueError(f"clip_class.factor={factor} must be at least 0: 1 is the even share of a class.")
        check_prompt("clip_class.prompt", prompt, name="x", a_name="an x")
        self.clip, self.prompt, self.factor = clip, prompt, float(factor)

    @property
    def settings(self) -> Mapping[str, Any]:
        """See :attr:`Filter.settings`."""
        return {"clip": self.clip.fingerprint, "prompt": self.prompt, "factor": self.factor}

    def judge(self, candidates: Sequence[Candidate], about: Circumstances) -> list[Judgement]:
        """See :meth:`Filter.judge`."""
        names = [name.lower() for name in about.dataset.classes]
        prompts = [self.prompt.format(name=name, a_name=with_article(name)) for name in names]

        def compute(missing: Sequence[Candidate]) -> list[float]:
            found = shares(self.clip, missing, {one.key: prompts for one in missing}, about.device)
            return [
                min(float(share[label]) for label in labels_of(one.label))
                for one, share in zip(missing, found, strict=True)
            ]

        name = f"{self.name}-{content_key(self.clip.fingerprint, *prompts)[:16]}"
        scores = kept_scores(name, candidates, about.folder, compute)
        least = self.factor / len(prompts)
        return [
            Judgement(True, score) if score > least else Judgement(False, score, "not seen as its class")
            for score in scores
        ]
