"""The contract of a filter of made images, and how several work one after the other.

A filter looks at images that are finished, so it can be run again, with other settings, without making any of them
again: what is dear, the scores, is kept by content (:func:`kept_scores`); the verdicts follow from them at once.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock

from genaug.data.base import Dataset, Sample
from genaug.synthesis.jobs import Label
from genaug.synthesis.store import Store, content_key, write_atomically

#: Where the verdicts of a store are written.
VERDICTS = "filters.jsonl"

#: Images whose scores are computed, and kept, in one go; a network is loaded for each go.
SCORED_TOGETHER = 8192


@dataclass(frozen=True, slots=True)
class Candidate:
    """A finished image.

    Attributes:
        key: Its name in the store.
        path: The image file.
        label: Class of the image, or the classes of multi-label data.
        sources: Ids of the samples it was made from.
        prompt: What the generator was told.
        facts: What else its record says: strength, ...
    """

    key: str
    path: Path
    label: Label
    sources: tuple[str, ...] = ()
    prompt: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def as_sample(candidate: Candidate) -> Sample:
    """The image as a sample, for what takes real images."""
    return Sample(id=candidate.key, path=candidate.path, label=candidate.label)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a filter says of an image.

    Attributes:
        keep: Whether training may see it.
        score: What it was judged by; None where there is no number.
        reason: Why it is dropped; empty where it is kept.
    """

    keep: bool
    score: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Circumstances:
    """What a filter may look at besides the images.

    Attributes:
        samples: The real training images.
        dataset: Theirs.
        folder: Of all stores; scores are kept in it.
        device: Where networks compute: "cpu", "cuda:1".
    """

    samples: Sequence[Sample]
    dataset: Dataset
    folder: Path
    device: str = "cpu"


class Filter(ABC):
    """Judges images.

    Attributes:
        name: In records and tables.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """JSON values of every argument that changes a verdict."""

    @cached_property
    def fingerprint(self) -> str:
        """Name and a hash of the settings."""
        return f"{self.name}-{content_key(json.dumps(dict(self.settings), sort_keys=True))[:16]}"

    @abstractmethod
    def judge(self, candidates: Sequence[Candidate], about: Circumstances) -> list[Judgement]:
        """One judgement an image; a filter may compare the images with each other.

        Args:
            candidates: All that is left of what was made, sorted by key.
            about: What else there is.
        """


@dataclass(frozen=True)
class Filtered:
    """What the filters of a method left.

    Attributes:
        dropped: For each dropped image the filter's name and its reason, by key.
        report: For each filter how many images it saw and dropped, and for which reasons.
    """

    dropped: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


def apply_filters(
    filters: Sequence[Filter], candidates: Sequence[Candidate], about: Circumstances, root: Path
) -> Filtered:
    """Let each filter judge what the ones before it kept, and write all verdicts to ``root/filters.jsonl``.

    Every process may call this: the first that comes computes scores, the others find them.

    Args:
        filters: In their order.
        candidates: What was made.
        about: See :class:`Circumstances`.
        root: Folder of the images' store.
    """
    left = sorted(candidates, key=lambda candidate: candidate.key)
    dropped: dict[str, tuple[str, str]] = {}
    report: dict[str, Any] = {}
    lines = []
    for one in filters:
        judged = list(zip(left, one.judge(left, about), strict=True))
        for candidate, said in judged:
            lines.append(
                {"key": candidate.key, "filter": one.fingerprint, "score": said.score, "keep": said.keep}
                | {"reason": said.reason}
            )
            if not said.keep:
                dropped[candidate.key] = (one.name, said.reason)
        reasons = Counter(said.reason for _, said in judged if not said.keep)
        report[one.name] = {"seen": len(judged), "dropped": sum(reasons.values()), "reasons": dict(reasons)}
        left = [candidate for candidate, said in judged if said.keep]
    if filters:
        write_atomically(root / VERDICTS, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return Filtered(dropped, report)


def kept_scores(
    name: str,
    candidates: Sequence[Candidate],
    folder: Path,
    compute: Callable[[Sequence[Candidate]], Sequence[Any]],
) -> list[Any]:
    """Scores by content: those that are there are read, the others computed and kept.

    Args:
        name: Fingerprint of what computes the scores: the network, the words; not the threshold.
        candidates: Whose scores.
        folder: Of all stores.
        compute: Gives a score (a JSON value) for each of the candidates it is called with.

    Returns:
        One score a candidate.
    """
    keys = [content_key(candidate.path.read_bytes(), json.dumps(candidate.label)) for candidate in candidates]
    root = folder / "scores" / name
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        store = Store(root)
        missing = list({key: one for key, one in zip(keys, candidates, strict=True) if key not in store}.items())
        for first in range(0, len(missing), SCORED_TOGETHER):  # a kill loses no more than these
            part = dict(missing[first : first + SCORED_TOGETHER])
            for key, score in zip(part, compute(list(part.values())), strict=True):
                store.record(key, {"score": score})
    return [store[key]["score"] for key in keys]
