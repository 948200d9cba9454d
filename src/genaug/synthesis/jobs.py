"""What is to be made, decided before anything is loaded: jobs, and plans of jobs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from genaug.synthesis.store import content_key

Label = int | tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """One image to make. Its name follows from its content, so the same job has the same name in every run.

    Attributes:
        maker: Fingerprint of what makes it: the method's settings, the tools' fingerprints.
        seed: Of all its random choices.
        copy: Which synthetic image of its source it is, from 1 on: a scale of n takes the copies 1 to n.
        label: Class of the image, or the classes of multi-label data.
        sources: Ids of the samples it is made from.
        inputs: Content keys of the files it is made from.
        prompt: What the generator is told.
        shape: Jobs are made in one batch when this is equal.
        steps: Denoiser steps it costs.
        facts: JSON values that the manifest keeps beside it: strength, background, …
    """

    maker: str
    seed: int
    copy: int = 1
    label: Label = 0
    sources: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    prompt: str = ""
    shape: tuple[int | float | str, ...] = ()
    steps: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Hash of everything the image depends on, as 32 hexadecimal characters.

        >>> Job("sd", seed=1).key == Job("sd", seed=1).key, Job("sd", seed=1).key == Job("sd", seed=2).key
        (True, False)
        """
        settled = [self.maker, self.seed, self.copy, self.label, self.sources, self.inputs, self.prompt, self.shape]
        return content_key(json.dumps([*settled, dict(self.facts)], sort_keys=True))

    def record(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "label": self.label,
            "sources": list(self.sources),
            "copy": self.copy,
            "prompt": self.prompt,
            "seed": self.seed,
            "denoiser_steps": self.steps,
            **self.facts,
        }


@dataclass(frozen=True)
class Stage:
    """One kind of work of a plan, as it is shown to a person.

    Attributes:
        name: "backgrounds", "composites", …
        jobs: What is to be made; empty where the number alone is known yet.
        count: How many.
        speed_key: Under which the measured speed is kept, see :mod:`genaug.synthesis.speeds`.
    """

    name: str
    count: int
    jobs: Sequence[Job] = ()
    speed_key: str = ""

    @property
    def steps(self) -> int:
        """Denoiser steps of all jobs."""
        return sum(job.steps for job in self.jobs)

    def prompts(self) -> Counter[str]:
        """How often each prompt is used."""
        return Counter(job.prompt for job in self.jobs if job.prompt)


def chunks(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """Batches of jobs of equal shape and cost, the dearest first; the same for every process that plans them.

    Dear batches first let all processes end at about the same time.

    >>> [[job.seed for job in chunk] for chunk in chunks([Job("m", s, steps=s % 2) for s in range(5)], 2)]
    [[1, 3], [0, 2], [4]]
    """
    groups: dict[tuple[int, tuple[int | float | str, ...]], list[Job]] = {}
    for job in {job.key: job for job in jobs}.values():
        groups.setdefault((job.steps, job.shape), []).append(job)
    ordered = sorted(groups, key=lambda group: (-group[0], [str(part) for part in group[1]]))
    return [groups[group][start : start + size] for group in ordered for start in range(0, len(groups[group]), size)]
