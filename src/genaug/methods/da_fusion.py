"""DA-Fusion: effective data augmentation with diffusion models (Trabucco et al. 2023, arXiv:2302.07944).

A word is learned for each class from its whole photographs (section 4.1), and each photograph is edited with it, from a
noise level that is drawn anew for every edit (4.3, 4.4). Training sees an edit of a photograph in its place with
probability alpha (:class:`genaug.synthesis.images.Replacement`, of its own edits; the label stays).

The published code agrees with the paper. Like it, this squeezes photographs to squares, to learn from and to edit, and
brings the edits back. Its author's newer recipe for the words is in ``conf/inversion/da_fusion.yaml``. Not here: the
erasure of concepts from the model, with which the paper makes sure that it has not seen the classes before, and a
detector of indecent images, which the code leaves off, too. Left open by the paper: how an edit that paints over a part
of the photograph finds its mask (here: the segmenter; the code takes the data set's).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from genaug.data.base import Dataset, Sample
from genaug.data.reading import read_image
from genaug.filtering.base import Filter
from genaug.functional.composite import resize
from genaug.functional.masks import dilate, shrunk_mask
from genaug.generation.base import Generator
from genaug.generation.diffusion import Diffusion
from genaug.generation.textual_inversion import TextualInversion
from genaug.seeding import derive
from genaug.segmentation.base import Segmenter
from genaug.segmentation.masks import Masks, make_masks, usable_subjects, without_subject
from genaug.synthesis.concepts import Concepts, Request, learn_concepts
from genaug.synthesis.images import labels_of
from genaug.synthesis.jobs import Job, Stage
from genaug.synthesis.object_edits import class_tokens
from genaug.synthesis.per_source import PerSource, with_class
from genaug.synthesis.runner import Runner
from genaug.synthesis.store import content_key
from genaug.synthesis.text_images import json_values

Painted = Literal["object", "background"]

#: Share of the picture's side that a mask is grown by: the published code's filter of 16 pixels in a picture of 512.
GROWN = 8 / 512
#: Smallest and largest share of the image a mask may cover to be used.
SUBJECT = (0.005, 0.95)


class WholeImageEdits(PerSource):
    """n edits of each real image, told the word of its class, each from a random noise level.

    Args:
        generator: Edits, and has the words.
        inversion: How a word is learned for each class; None tells the class's name instead.
        scale: See :class:`PerSource` (the paper's M: 10).
        seed: See :class:`PerSource`.
        prompt: With ``{token}`` for the class's word; besides that see :class:`PerSource`.
        strengths: Noise levels in (0, 1], each as likely for each edit.
        initial_word: What the learning of every word starts from; None for the class's name.
        mask: What is painted over: only the ``object``, only the ``background``, or everything (None).
        segmenter: Finds the objects; only with ``mask``.
        filters: See :class:`PerSource`.
        workers: Threads for masks.

    Raises:
        ValueError: see :class:`PerSource`; there is no noise level or no segmenter, or the prompt has no word.
    """

    squeezed = True

    def __init__(
        self,
        generator: Generator,
        inversion: TextualInversion | None = None,
        scale: int = 10,
        seed: int = 0,
        prompt: str = "a photo of a {token}",
        strengths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        initial_word: str | None = "the",
        mask: Painted | None = None,
        segmenter: Segmenter | None = None,
        filters: Sequence[Filter] = (),
        workers: int = 2,
    ) -> None:
        here = "method.synthesis"
        if not strengths or not all(0 < strength <= 1 for strength in strengths):
            raise ValueError(f"{here}.strengths={list(strengths)} must be noise levels in (0, 1], at least one.")
        if "{token}" not in prompt:
            raise ValueError(f"{here}.prompt={prompt!r} must have {{token}} in the place of the class's word.")
        if mask is not None and mask not in get_args(Painted):
            raise ValueError(f"{here}.mask={mask!r} is not known: choose object, background or null.")
        if mask is not None and segmenter is None:
            raise ValueError(f"{here}.mask={mask} needs {here}.segmenter.")
        self.call = "image_to_image" if mask is None else "inpaint"
        super().__init__(generator, scale, seed, prompt.replace("{token}", "{name}"), max(strengths), filters)
        self.prompt, self.inversion, self.initial_word = prompt, inversion, initial_word
        self._strengths = tuple(float(strength) for strength in strengths)
        self.mask, self.segmenter, self.workers = mask, segmenter, workers
        self._tokens: list[str] = []
        self._concepts: Concepts | None = None
        self._masks: Masks | None = None
        self._without: dict[str, Any] = {}

    # --- what is made first ------------------------------------------------------------------------------------------

    def plan(self, samples: Sequence[Sample], dataset: Dataset, folder: Path) -> list[Stage]:
        """See :meth:`PerSource.plan`; a step of a word's learning is counted once for each picture in it."""
        self._tokens = class_tokens(dataset.classes)
        stages = [] if self.mask is None else [Stage("masks", len(samples))]
        if self.inversion is not None:
            self.inversion.last_timestep(cast(Diffusion, self.generator), "image_to_image", self.strength)
            cost = self.inversion.steps * self.inversion.batch_size
            labels = sorted({label for sample in samples for label in labels_of(sample.label)})
            words = [Job("words", seed=self.inversion.seed, label=label, steps=cost) for label in labels]
            stages.append(Stage("words", len(words), words))
        return [*stages, *super().plan(samples, dataset, folder)]

    def prepare(self, samples: Sequence[Sample], dataset: Dataset, folder: Path, runner: Runner) -> list[Sample]:
        """Masks, if only a part is painted over, and words; a sample without a usable subject then has no edit.

        Raises:
            ValueError: no sample has a usable subject, or no words can be learned for the generator.
        """
        self._tokens = class_tokens(dataset.classes)
        usable = list(samples)
        if self.segmenter is not None and self.mask is not None:
            self._masks = make_masks(samples, self.segmenter, dataset, folder / "masks", self.workers, runner.device)
            usable = usable_subjects(samples, self._masks, *SUBJECT)
            self._without = without_subject(samples, usable, dataset.classes)
        if self.inversion is not None:
            self._concepts = learn_concepts(
                self.requests(samples, dataset), self.inversion, cast(Diffusion, self.generator), "image_to_image",
                self.strength, folder / "words", runner,
            )  # fmt: skip
        return usable

    def requests(self, samples: Sequence[Sample], dataset: Dataset) -> list[Request]:
        """The words to be learned: of each class, from all of its photographs."""
        height, width = self.generator.size_for(dataset.image_size, dataset.image_size)
        members: dict[int, list[Sample]] = {}
        for sample in with_class(samples):
            for label in labels_of(sample.label):
                members.setdefault(label, []).append(sample)

        def pictures(photographs: Sequence[Sample]) -> list[np.ndarray]:
            return [resize(read_image(one.path, channels=3), width, height) for one in photographs]

        def request(label: int, photographs: Sequence[Sample]) -> Request:
            word = self.initial_word or dataset.classes[label].lower()
            keys = [content_key(one.path.read_bytes(), f"squeezed to {width}x{height}") for one in photographs]
            return Request(class_tokens(dataset.classes)[label], word, tuple(keys), partial(pictures, photographs))

        return [request(label, photographs) for label, photographs in sorted(members.items())]

    # --- what an edit is made from -----------------------------------------------------------------------------------

    @property
    def strengths(self) -> tuple[float, ...]:
        """See :attr:`PerSource.strengths`."""
        return self._strengths

    def strength_of(self, sample: Sample, copy: int) -> float:
        """A random one of :attr:`strengths`, whatever the other copies and samples."""
        return self._strengths[derive(self.seed, "strength", sample.id, copy) % len(self._strengths)]

    def wording(self, sample: Sample, copy: int) -> str:
        """The prompt with the words of the sample's classes."""
        tokens = " and ".join(self._tokens[label] for label in labels_of(sample.label))
        return self.prompt.replace("{token}", "{name}" if self.inversion is None else tokens)

    @property
    def more_settings(self) -> dict[str, Any]:
        """How words are learned, and what is painted over."""
        inversion = None if self.inversion is None else json_values(self.inversion.settings)
        return {"inversion": inversion, "initial_word": self.initial_word, "mask": self.mask}

    def inputs(self, sample: Sample) -> tuple[str, ...]:
        """The photograph, or mask and photograph; and the words."""
        concepts = self._concepts
        words = [] if concepts is None else [concepts.keys[self._tokens[label]] for label in labels_of(sample.label)]
        if self._masks is None or self.segmenter is None:
            return (*super().inputs(sample), *words)
        return (self._masks.key(sample.id), self.segmenter.fingerprint, *words)

    def more(self) -> dict[str, Any]:
        """Words, and masks if there are any."""
        masks = {} if self._masks is None else {**self._without, "masks": self._masks.report()}
        return {"words": None if self._concepts is None else self._concepts.report(), **masks}

    # --- rendering ---------------------------------------------------------------------------------------------------

    def load(self, device: str) -> None:
        """See :meth:`PerSource.load`; the generator then knows the words."""
        super().load(device)
        if self._concepts is not None:
            self.generator.add_words(self._concepts.vectors)

    def draw(self, images: Sequence[np.ndarray], jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """See :meth:`PerSource.draw`."""
        prompts, strength = [job.prompt for job in jobs], float(jobs[0].facts["strength"])
        if self.mask is None:
            return self.generator.image_to_image(images, prompts, seeds, strength)
        painted = [self.painted(job, image.shape[:2]) for job, image in zip(jobs, images, strict=True)]
        return self.generator.inpaint(images, painted, prompts, seeds, strength)

    def finish(self, job: Job, source: np.ndarray, made: np.ndarray) -> np.ndarray:
        """See :meth:`PerSource.finish`: what is not painted over is the source's to the bit."""
        return made if self.mask is None else np.where(self.painted(job, source.shape[:2])[..., None], made, source)

    def painted(self, job: Job, size: tuple[int, int]) -> np.ndarray:
        """What is painted over of a picture of ``size``: ``(H, W)`` bool. The grown object, or all else."""
        assert self._masks is not None
        grown = dilate(shrunk_mask(self._masks[job.sources[0]], size), GROWN * min(size))
        return grown if self.mask == "object" else ~grown
