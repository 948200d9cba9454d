"""A check of transparent images: an object that is not there, or a background that is not gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genaug.data.reading import read_rgba
from genaug.filtering.base import Candidate, Circumstances, Filter, Judgement, kept_scores


class Alpha(Filter):
    """Keeps transparent images of which a fair share is opaque.

    Models that make transparent images leave some of them empty and some without any transparency. The score is the
    share of the pixels that are at least half opaque; an image without an alpha channel is opaque all over.

    Args:
        least: Share that must be opaque.
        most: Share that may be.

    Raises:
        ValueError: these are not shares, or the wrong way round.
    """

    name = "alpha"

    def __init__(self, least: float = 0.02, most: float = 0.95) -> None:
        if not 0 <= least < most <= 1:
            raise ValueError(f"0 <= alpha.least < alpha.most <= 1 is needed, got {least} and {most}.")
        self.least, self.most = float(least), float(most)

    @property
    def settings(self) -> Mapping[str, Any]:
        """See :attr:`Filter.settings`."""
        return {"least": self.least, "most": self.most}

    def judge(self, candidates: Sequence[Candidate], about: Circumstances) -> list[Judgement]:
        """See :meth:`Filter.judge`."""
        return [self._judged(share) for share in kept_scores(self.name, candidates, about.folder, _opaque)]

    def _judged(self, share: float) -> Judgement:
        if share < self.least:
            return Judgement(False, share, "too little is opaque")
        return Judgement(False, share, "too much is opaque") if share > self.most else Judgement(True, share)


def _opaque(candidates: Sequence[Candidate]) -> list[float]:
    return [float((read_rgba(one.path)[..., 3] >= 128).mean()) for one in candidates]
