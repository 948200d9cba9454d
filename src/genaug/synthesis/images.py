"""What a method that makes whole images gives to training: samples like the real ones, and a report."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from genaug.data.base import Sample
from genaug.data.images import RealImages
from genaug.data.packed import PackedSamples
from genaug.filtering.base import Candidate, Filtered
from genaug.pictures import save_sheet
from genaug.synthesis.image_store import ImageStore
from genaug.synthesis.jobs import Job, Label


class SyntheticImages:
    """Made images as samples.

    Args:
        store: Where they are.
        jobs: What was planned, in the order training sees it.
        classes: Names of the classes, for the report.
        more: What else the method has to report: masks, captions, costs.
        show: What a person should see of a job beside its result, by name.
        absent: Labels of the images that could not even be planned, because something they need could not be made.
        filtered: What the filters dropped.
        soft_label: Pairs of class and weight, for images that show more than one; none for those that show one. Not a
            fact of the job, so that images stay when the rule for their labels changes.

    Attributes:
        samples: One a kept image; images that failed, or that a filter dropped, are left out.
        sources: For each of them the id of the sample that it was made from, or of the first of several.
    """

    def __init__(
        self,
        store: ImageStore,
        jobs: Sequence[Job],
        classes: Sequence[str],
        more: Mapping[str, Any] | None = None,
        show: Callable[[Job], Mapping[str, np.ndarray]] | None = None,
        absent: Sequence[Label] = (),
        filtered: Filtered | None = None,
        soft_label: Callable[[Job], Sequence[tuple[int, float]]] | None = None,
    ) -> None:
        self.store, self.jobs, self.classes, self.more = store, list(jobs), classes, dict(more or {})
        self.show, self.absent, self.filtered = show, list(absent), filtered or Filtered()
        self.soft_label = soft_label
        self.samples = [self._sample(job) for job in self._kept()]
        self.sources = [job.sources[0] if job.sources else "" for job in self._kept()]

    def _kept(self) -> list[Job]:
        ok = [job for job in self.jobs if self.store[job.key]["verdict"] == "ok"]
        return [job for job in ok if job.key not in self.filtered.dropped]

    def _sample(self, job: Job) -> Sample:
        return Sample(
            id=job.key,
            path=self.store.image_path(job.key),
            label=job.label,
            unknown=tuple(job.facts.get("unknown", ())),
            caption=job.prompt or None,
            soft_label=() if self.soft_label is None else tuple(self.soft_label(job)),
        )

    def report(self) -> dict[str, Any]:
        """Counts, verdicts, what is missing of each class, and the cost of all that is there.

        Returns:
            ``planned``, ``images``, ``verdicts`` (how often each), ``missing_by_class`` (names to counts, of the
            classes that miss any), ``filters`` (see :class:`Filtered`), ``cost`` (see :func:`cost_of`), and what the
            method adds.
        """
        verdicts = [self.store[job.key]["verdict"] for job in self.jobs]
        failed = [job.label for job, said in zip(self.jobs, verdicts, strict=True) if said != "ok"]
        missing = Counter(self.classes[one] for label in [*failed, *self.absent] for one in labels_of(label))
        return {
            "planned": len(self.jobs) + len(self.absent),
            "images": len(self.samples),
            "verdicts": dict(Counter(verdicts + ["an input could not be made"] * len(self.absent))),
            "missing_by_class": dict(missing),
            "filters": dict(self.filtered.report),
            "cost": {"images": cost_of(self.store, self.jobs)},
            **self.more,
        }

    def sheet(self, path: Path, count: int = 8) -> None:
        """Write a picture of how ``count`` images came about, spread over the plan: their inputs, then the result."""
        kept = self._kept()
        chosen = kept[:: max(1, len(kept) // count)][:count]
        images: list[np.ndarray] = []
        texts: list[str] = []
        columns = 1
        for job in chosen:
            shown = {**(self.show(job) if self.show else {}), "result": self.store.image(job.key)}
            columns = len(shown)
            images += shown.values()
            texts += [_two_lines(name) for name in shown]
        if images:
            save_sheet(images, texts, path, columns)


def _two_lines(text: str, width: int = 26) -> str:
    """``text`` with the mark that :func:`save_sheet` breaks lines at."""
    return " + ".join(textwrap.wrap(text, width)[:2])


def candidates_of(store: ImageStore, jobs: Sequence[Job]) -> list[Candidate]:
    """The images of ``jobs`` that were kept when they were made, for filters to judge."""
    return [
        Candidate(job.key, store.image_path(job.key), job.label, job.sources, job.prompt, job.facts)
        for job in jobs
        if store[job.key]["verdict"] == "ok"
    ]


def cost_of(store: ImageStore, jobs: Sequence[Job]) -> dict[str, Any]:
    """What jobs cost whenever they were made, by whatever process, rejected attempts included.

    Returns:
        ``images``, ``denoiser_steps``, ``seconds`` in the renderer (the sum over all devices), and ``devices``.
    """
    records = [store[job.key] for job in jobs]
    return {
        "images": len(records),
        "denoiser_steps": sum(record["denoiser_steps"] * record["attempts"] for record in records),
        "seconds": round(sum(record["seconds"] for record in records), 2),
        "devices": sorted({record["device"] for record in records}),
    }


def labels_of(label: Label) -> tuple[int, ...]:
    """A class index, or the indices of multi-label data, as a tuple."""
    return label if isinstance(label, tuple) else (label,)


def class_name(label: Label, classes: Sequence[str]) -> str | list[str]:
    """Name of a class, or the names of multi-label data, for manifests that people read."""
    return [classes[one] for one in label] if isinstance(label, tuple) else classes[label]


def facts_of(sample: Sample, classes: Sequence[str]) -> dict[str, Any]:
    """What the manifest keeps of the image that one is made from: names of classes, and the classes that are unknown.

    >>> facts_of(Sample("a.jpg", Path("a.jpg"), (0,), unknown=(1,)), ["cat", "dog"])
    {'class': ['cat'], 'unknown': [1]}
    """
    unknown = {"unknown": list(sample.unknown)} if sample.unknown else {}
    return {"class": class_name(sample.label, classes), **unknown}


class Replacement:
    """Training view: a real image gives way to a synthetic one with some probability; an epoch stays as long as it was.

    Args:
        p: Probability that an image is replaced, where there is one to replace it.
        pool: Whose synthetic images it gives way to: its ``own`` (DA-Fusion), or ``all`` (Diff-Mix), of any class.

    Raises:
        ValueError: no probability, or an unknown pool.
    """

    def __init__(self, p: float, pool: Literal["own", "all"] = "own") -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"method.view.p={p} is not a probability: give a number in [0, 1].")
        if pool not in ("own", "all"):
            raise ValueError(f"method.view.pool={pool!r} is not known: choose own or all.")
        self.p, self.pool = p, pool

    def __call__(self, real: RealImages, made: SyntheticImages) -> Replaced:
        """The source that draws either."""
        return Replaced(real, made, self.p, self.pool)


class Replaced:
    """Real images, some of which give way; see :class:`Replacement`."""

    def __init__(self, real: RealImages, made: SyntheticImages, p: float, pool: str) -> None:
        self.real, self.samples, self.num_classes, self.p = real, real.samples, real.num_classes, p
        self.synthetic = RealImages(made.samples, real.num_classes, real.channels)
        by_source: dict[str, list[int]] = defaultdict(list)
        for number, source in enumerate(made.sources):
            by_source[source].append(number)
        everything = np.arange(len(made.samples))
        self.pools = [
            everything if pool == "all" else np.array(by_source.get(sample.id, []), dtype=np.int64)
            for sample in real.samples
        ]

    def __len__(self) -> int:
        return len(self.real)

    def draw(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`genaug.data.images.Source.draw`."""
        pool = self.pools[index]
        if not len(pool) or rng.random() >= self.p:
            return self.real.draw(index, rng)
        return self.synthetic.draw(int(pool[rng.integers(len(pool))]), rng)


class Concatenation:
    """Training view: the real images and all synthetic ones (AGA: "original + n x synthetic").

    An epoch is longer by the synthetic images; see ``budget`` in ``conf/config.yaml`` for the number of steps.
    """

    def __call__(self, real: RealImages, made: SyntheticImages) -> Concatenated:
        """The source that draws both."""
        return Concatenated(real, made.samples)


class Concatenated:
    """Real images, followed by synthetic ones."""

    def __init__(self, real: RealImages, synthetic: Sequence[Sample]) -> None:
        self.real, self.num_classes = real, real.num_classes
        self.synthetic = RealImages(synthetic, real.num_classes, real.channels)
        self.samples: Sequence[Sample] = PackedSamples([*real.samples, *synthetic])

    def __len__(self) -> int:
        return len(self.samples)

    def draw(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`genaug.data.images.Source.draw`."""
        if index < len(self.real):
            return self.real.draw(index, rng)
        return self.synthetic.draw(index - len(self.real), rng)
