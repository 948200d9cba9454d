"""ALIA: Automated Language-guided Image Augmentation (Dunlap et al. 2023, arXiv:2305.16289).

Captions of the training images are written (section 3.1), a language model sums them up in domains, each image is
edited with the captions of domains (3.2), and edits that show something else, nothing new or another class are dropped
(3.3). Training sees the original images and one edit of each, as many of a class as are asked for
(:class:`genaug.synthesis.extra.OnePerSource`).

What the published code does differently: every domain is applied to every image, twice, before one of all edits of an
image is chosen, and the domains are copied by hand from the language model's answer to the command line
(``method=alia_cub``). Left open by the paper: which captions the language model is shown (20 at random in the code),
and what becomes of an answer that cannot be used (here: it is asked again, and after that AGA's places are taken).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genaug.captioning.base import Captioner
from genaug.captioning.domains import MOST, Domains, find_domains, known_domains
from genaug.captioning.image_captions import ImageCaptioner
from genaug.data.base import Dataset, Sample
from genaug.filtering.base import Filter
from genaug.filtering.confidence import Confidence
from genaug.generation.base import Generator
from genaug.seeding import derive
from genaug.synthesis.jobs import Job, Stage
from genaug.synthesis.per_source import PerSource, check_wording
from genaug.synthesis.runner import Runner


class DomainEdits(PerSource):
    """n edits of each real image, each into another domain, as far as there are so many.

    Args:
        generator: Edits.
        captioner: Finds the domains; the template takes places and times of AGA's prompt sets, and looks at no image.
        image_captioner: Says what the training images show, for a language model to read.
        scale: Edits of each image; training sees one of them. A larger scale contains a smaller one.
        seed: See :class:`PerSource`.
        prefix: How a domain's caption begins in the language model's answer; ``{superclass}`` stands for the data
            set's.
        prompt: What a domain is appended to; see :class:`PerSource`.
        domains: Whole prompts, in the place of what a language model says; ``{name}`` and ``{a_name}`` as in
            ``prompt``.
        strength: See :class:`PerSource`.
        filters: See :class:`PerSource`.
        confidence_run: Folder of a finished run on the real images; a last filter then drops edits that its network is
            too sure of, see :class:`genaug.filtering.confidence.Confidence`.

    Raises:
        ValueError: see :class:`PerSource`; a domain cannot be filled in, ``domains`` is empty, or ``confidence_run`` is
            no finished run.
    """

    call = "image_to_image"

    def __init__(
        self,
        generator: Generator,
        captioner: Captioner,
        image_captioner: ImageCaptioner,
        scale: int = 2,
        seed: int = 0,
        prefix: str = "a photo of a {superclass}",
        prompt: str = "a photo of {a_name}",
        domains: Sequence[str] | None = None,
        strength: float = 0.6,
        filters: Sequence[Filter] = (),
        confidence_run: str | None = None,
    ) -> None:
        last = [] if confidence_run is None else [Confidence(confidence_run)]
        super().__init__(generator, scale, seed, prompt, strength, [*filters, *last])
        if domains is not None and not domains:
            raise ValueError("method.synthesis.domains is empty: give prompts, or null to have domains found.")
        for one in domains or ():
            check_wording("domains", one)
        if prefix.replace("{superclass}", "").count("{"):
            raise ValueError(f"method.synthesis.prefix={prefix!r} may have no other place to fill in than superclass.")
        self.captioner, self.image_captioner, self.prefix = captioner, image_captioner, prefix
        self.fixed = None if domains is None else tuple(domains)
        self._found: Domains | None = None
        #: Prompts of the domains; those of a language model are there once :meth:`prepare` has been called.
        self._prompts: tuple[str, ...] = self.fixed or ()

    def plan(self, samples: Sequence[Sample], dataset: Dataset, folder: Path) -> list[Stage]:
        """See :meth:`PerSource.plan`; domains that a language model has yet to find are shown as numbers."""
        planned, stages = copy.copy(self), []
        if self.fixed is None:
            known = known_domains(self.captioner, dataset.classes, dataset.superclasses, self.seed)
            texts = [f" (domain {number})" for number in range(1, MOST + 1)] if known is None else known.texts
            planned._prompts = tuple(self.prompt + text for text in texts)
            stages = [Stage("captions of images", len(samples))] if known is None else []
            stages.append(Stage("domains", len(texts)))
        return [*stages, *PerSource.plan(planned, samples, dataset, folder)]

    def prepare(self, samples: Sequence[Sample], dataset: Dataset, folder: Path, runner: Runner) -> list[Sample]:
        """Find the domains; every sample can have edits."""
        if self.fixed is None:
            self._found = self._find(samples, dataset, folder, runner.device)
            self._prompts = tuple(self.prompt + text for text in self._found.texts)
        return list(samples)

    def _find(self, samples: Sequence[Sample], dataset: Dataset, folder: Path, device: str) -> Domains:
        classes, superclasses = dataset.classes, dataset.superclasses
        if known := known_domains(self.captioner, classes, superclasses, self.seed):
            return known
        captions = self.image_captioner.describe(samples, dataset, folder / "image_captions", device)
        prefix = self.prefix.replace("{superclass}", dataset.superclass)
        where = folder / "domains"
        return find_domains(self.captioner, captions, prefix, classes, superclasses, self.seed, where, device)

    def wording(self, sample: Sample, copy: int) -> str:
        """The domains in a random order of each sample's own, one after the other."""
        order = np.random.default_rng(derive(self.seed, "domains", sample.id)).permutation(len(self._prompts))
        return self._prompts[order[(copy - 1) % len(order)]]

    @property
    def wordings(self) -> Any:
        """The prompts of all domains."""
        return list(self._prompts)

    def more(self) -> dict[str, Any]:
        """Domains, and who found them."""
        given = {"source": "given", "domains": list(self._prompts)}
        return {"domains": given if self._found is None else self._found.report()}

    def draw(self, images: Sequence[np.ndarray], jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """See :meth:`PerSource.draw`."""
        return self.generator.image_to_image(images, [job.prompt for job in jobs], seeds, self.strength)
