"""AGA: Automated Generative Data Augmentation (Rahat et al. 2025).

Each subject is lifted out of its image by a mask (section 4.1), captions of backgrounds are written (4.2), backgrounds
are made from them, and the subject, flipped, rotated and scaled, is laid over one of them (4.3). Training sees the
original images and n synthetic ones of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genaug.captioning.bank import make_captions, planned_captions
from genaug.captioning.base import Captioner
from genaug.data.base import Dataset, Sample
from genaug.data.reading import read_image
from genaug.functional.subject import cover, lay_over, soft_alpha, subject_motion
from genaug.generation.base import Generator
from genaug.seeding import derive
from genaug.segmentation.base import Segmenter
from genaug.segmentation.masks import Masks, make_masks, usable_subjects, without_subject
from genaug.synthesis.composites import CompositeRenderer
from genaug.synthesis.image_store import ImageStore
from genaug.synthesis.images import SyntheticImages, cost_of, facts_of
from genaug.synthesis.jobs import Job, Stage
from genaug.synthesis.runner import Runner
from genaug.synthesis.store import content_key
from genaug.synthesis.text_images import TextImages, json_values

#: Raise it with every change of how a composite comes about: stores of another version are not used.
VERSION = "aga-2"
ALL_CAPTIONS, FEWER_CAPTIONS = 702, 100


class SubjectOnBackgrounds:
    """Offline part of AGA.

    Args:
        segmenter: Finds the subjects.
        captioner: Writes the captions of backgrounds.
        generator: Makes the backgrounds.
        scale: Synthetic images of each real one (the paper: 1 to 10). A larger scale contains a smaller one.
        seed: Of captions, backgrounds and motions; not the training's, so that all seeds of a study share the images.
        captions: How many captions the bank has; None for 702, every combination of the paper's three sets once, or
            for 100 where a language model writes them, which takes it about a second each on a CPU.
        backgrounds: How many different backgrounds; None makes one for each synthetic image, as the paper does.
        flip: Probability of a horizontal flip. The paper names flip, rotation and scale and gives no ranges.
        rotation: Largest rotation either way, in degrees.
        zoom: Smallest and largest factor the subject is scaled by.
        softness: Width of a subject's fading edge, as a share of the image's short side; 0 is a hard edge.
        min_subject: Smallest share of the image a mask may cover to be used.
        max_subject: Largest share: a subject that fills its image leaves no room for a background.
        workers: Threads for masks and composites.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        captioner: Captioner,
        generator: Generator,
        scale: int = 1,
        seed: int = 0,
        captions: int | None = None,
        backgrounds: int | None = None,
        flip: float = 0.5,
        rotation: float = 15.0,
        zoom: tuple[float, float] = (0.8, 1.2),
        softness: float = 0.005,
        min_subject: float = 0.005,
        max_subject: float = 0.95,
        workers: int = 2,
    ) -> None:
        if not isinstance(scale, int) or scale < 1:
            raise ValueError(f"method.scale={scale} must be a whole number of at least 1.")
        if captions is not None and captions < 1:
            raise ValueError(f"method.synthesis.captions={captions} must be at least 1.")
        if backgrounds is not None and backgrounds < 1:
            raise ValueError(
                f"method.synthesis.backgrounds={backgrounds} must be at least 1, or null for one an image."
            )
        if not 0 <= flip <= 1:
            raise ValueError(f"method.synthesis.flip={flip} is not a probability: give a number in [0, 1].")
        if len(zoom) != 2 or not 0 < zoom[0] <= zoom[1]:
            raise ValueError(f"method.synthesis.zoom={list(zoom)} must be [smallest, largest] with 0 < smallest.")
        if rotation < 0 or softness < 0:
            raise ValueError(f"rotation={rotation} and softness={softness} must not be negative.")
        if not 0 <= min_subject < max_subject <= 1:
            raise ValueError(f"needed: 0 <= min_subject < max_subject <= 1, got {min_subject} and {max_subject}.")
        self.segmenter, self.captioner, self.generator = segmenter, captioner, generator
        self.scale, self.seed, self.backgrounds = scale, seed, backgrounds
        self.captions = captions or (ALL_CAPTIONS if captioner.source == "template" else FEWER_CAPTIONS)
        self.flip, self.rotation, self.zoom = float(flip), float(rotation), (float(zoom[0]), float(zoom[1]))
        self.softness, self.min_subject, self.max_subject = float(softness), float(min_subject), float(max_subject)
        self.workers = workers

    @property
    def copies(self) -> range:
        """Numbers of the synthetic images of each real one."""
        return range(1, self.scale + 1)

    def plan(self, samples: Sequence[Sample], dataset: Dataset, folder: Path) -> list[Stage]:
        """What :meth:`make` will do. Nothing is loaded; captions not yet written are shown as what is asked for.

        All images are counted: which of them have no usable subject is known once they are segmented.
        """
        texts = planned_captions(
            self.captioner, self.captions, self.seed, dataset.classes, dataset.superclasses, folder / "captions"
        )
        scenes = self._scenes(samples, [text for text, _ in texts], dataset.image_size)
        return [
            Stage("masks", len(samples)),
            Stage("captions", len(texts)),
            Stage("backgrounds", len(scenes.unique), scenes.unique, scenes.renderer.speed_key),
            Stage("composites", len(samples) * self.scale, speed_key=speed_key(dataset)),
        ]

    def make(
        self, samples: Sequence[Sample], dataset: Dataset, folder: Path, side: int, runner: Runner
    ) -> SyntheticImages:
        """Make the synthetic images of ``samples``; what is there is kept.

        Args:
            samples: The training images.
            dataset: For the names of classes and superclasses.
            folder: Of all stores.
            side: Not needed: composites have the size of their source.
            runner: Carries out the jobs.

        Raises:
            ValueError: the images are grey, or none has a usable subject.
        """
        if dataset.channels != 3:
            raise ValueError(
                f"AGA makes images in RGB, and dataset.channels={dataset.channels}: set dataset.channels=3."
            )
        self.generator.denoiser_steps("text_to_image")  # a model that is not there is found out before hours of masks
        captions = make_captions(
            self.captioner, self.captions, self.seed, dataset.classes, dataset.superclasses, folder / "captions",
            device=runner.device,
        )  # fmt: skip
        masks = make_masks(samples, self.segmenter, dataset, folder / "masks", self.workers, runner.device)
        usable = usable_subjects(samples, masks, self.min_subject, self.max_subject)
        scenes = self._scenes(usable, [caption.text for caption in captions], dataset.image_size)
        backgrounds = ImageStore(folder / "backgrounds" / scenes.renderer.store_name, scenes.renderer.description)
        ledgers = {"backgrounds": runner.run(scenes.unique, scenes.renderer, backgrounds, "backgrounds").report()}
        renderer = Composites(self, dataset, usable, masks, backgrounds)
        pairs = [(sample, copy, scenes.jobs[sample.id, copy]) for copy in self.copies for sample in usable]
        possible = [pair for pair in pairs if backgrounds[pair[2].key]["verdict"] == "ok"]
        absent = [pair[0].label for pair in pairs if backgrounds[pair[2].key]["verdict"] != "ok"]
        jobs = [renderer.job(*pair) for pair in possible]
        store = ImageStore(folder / "images" / renderer.store_name, renderer.description)
        ledgers["composites"] = runner.run(jobs, renderer, store, "composites").report()
        more = {
            **without_subject(samples, usable, dataset.classes),
            "masks": masks.report(),
            "captions": captions.report(),
            "cost": {"backgrounds": cost_of(backgrounds, scenes.unique), "composites": cost_of(store, jobs)},
            "ledger": ledgers,
        }
        return SyntheticImages(store, jobs, dataset.classes, more, renderer.rows, absent)

    def _scenes(self, samples: Sequence[Sample], captions: Sequence[str], side: int) -> Scenes:
        """The background each synthetic image gets, by sample and copy; it does not depend on the other samples."""
        renderer = TextImages(self.generator, self.generator.size_for(side, side))

        def job(sample: Sample, copy: int) -> Job:
            number = derive(self.seed, "background", sample.id, copy)
            if self.backgrounds is not None:
                number %= self.backgrounds
            return renderer.job(captions[number % len(captions)], derive(self.seed, "scene", number))

        pairs = [(sample, copy) for copy in self.copies for sample in samples]
        return Scenes(renderer, {(sample.id, copy): job(sample, copy) for sample, copy in pairs})


@dataclass(frozen=True)
class Scenes:
    """Which background belongs to which synthetic image.

    Attributes:
        renderer: Makes the backgrounds.
        jobs: By sample id and copy; several may share one.
    """

    renderer: TextImages
    jobs: Mapping[tuple[str, int], Job]

    @property
    def unique(self) -> list[Job]:
        """Each background once."""
        return list({job.key: job for job in self.jobs.values()}.values())


def speed_key(dataset: Dataset) -> str:
    """Composites have the size of their sources, which differs from data set to data set."""
    return f"composites of {dataset.name}"


class Composites(CompositeRenderer):
    """Lays subjects over backgrounds, several at a time.

    Args:
        settings: How subjects are moved and blended.
        dataset: For the names of the classes.
        samples: Whose subjects.
        masks: Of the samples.
        backgrounds: Store of the backgrounds.
    """

    def __init__(
        self,
        settings: SubjectOnBackgrounds,
        dataset: Dataset,
        samples: Sequence[Sample],
        masks: Masks,
        backgrounds: ImageStore,
    ) -> None:
        super().__init__(settings.workers)
        self.settings, self.dataset, self.masks, self.backgrounds = settings, dataset, masks, backgrounds
        self.speed_key = speed_key(dataset)
        self.samples = {sample.id: sample for sample in samples}
        motion = {"flip": settings.flip, "rotation": settings.rotation, "zoom": settings.zoom}
        self.description: dict[str, Any] = {
            "made_by": VERSION,
            "segmenter": settings.segmenter.fingerprint,
            "settings": json_values({**motion, "softness": settings.softness}),
        }
        self.maker = json.dumps(self.description, sort_keys=True)
        self.description |= {"dataset": dataset.name, "classes": list(dataset.classes)}
        self.store_name = f"{dataset.name}-aga-{content_key(json.dumps(self.description, sort_keys=True))[:12]}"

    def job(self, sample: Sample, copy: int, background: Job) -> Job:
        """The job of laying ``sample``'s subject over ``background``."""
        return Job(
            maker=self.maker,
            seed=derive(self.settings.seed, "motion", sample.id, copy),
            copy=copy,
            label=sample.label,
            sources=(sample.id,),
            inputs=(self.masks.key(sample.id), background.key),
            prompt=background.prompt,
            facts={"background": background.key, **facts_of(sample, self.dataset.classes)},
        )

    def compose(self, job: Job, seed: int) -> np.ndarray:
        """See :meth:`CompositeRenderer.compose`."""
        image, mask, scene = self._inputs(job)
        settings, rng = self.settings, np.random.default_rng(seed)
        flip, degrees = rng.random() < settings.flip, rng.uniform(-settings.rotation, settings.rotation)
        motion = subject_motion(mask, bool(flip), degrees, rng.uniform(*settings.zoom))
        alpha = soft_alpha(mask, settings.softness * min(mask.shape))
        return lay_over(cover(scene, mask.shape[0], mask.shape[1], rng), image, alpha, motion)

    def _inputs(self, job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sample = self.samples[job.sources[0]]
        image = read_image(sample.path, channels=3)
        return image, self.masks[sample.id], self.backgrounds.image(job.facts["background"])

    def rows(self, job: Job) -> dict[str, np.ndarray]:
        """What a person should see of a job beside its result: source, mask and background."""
        image, mask, scene = self._inputs(job)
        return {"source": image, "mask": np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2), job.prompt: scene}
