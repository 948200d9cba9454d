"""Beyond Generation (Ge et al. 2023, arXiv:2309.05956), adapted from detection to classification.

Pictures of each class are made from its name in six templates, and pictures of sixteen scenes from words. The object is
cut out of the former, CLIP chooses among the latter, and one object, rotated and scaled, is pasted into one scene.
Nothing of the real images is used but how many there are of each class.

What is adapted: the paper pastes four objects into each scene and trains a detector; an image here has one object and
its class, and there are n images for each real one. The published code finds the objects by entity segmentation and
Grad-CAM, in a part that is not there; here a segmenter does, and an object that it does not find gives no image. There
a random place comes with a scale of 0.3 to 0.7 of the object's own pixels, and the first object of a scene takes a
random place and at most half of the scene's side; here sizes are shares of the scene, and an object that is alone may
take all the room that there is around its place. Not given anywhere: how many pictures of a scene CLIP chooses its 30
from (the code makes them 20 at a time), so the share is an argument.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from genaug.clip.model import Clip
from genaug.data.base import Dataset, Sample
from genaug.filtering.base import Candidate, Circumstances, Filter, apply_filters
from genaug.functional.cutpaste import largest_circle, lifted, paste_in_circle, random_circle
from genaug.generation.base import Generator
from genaug.seeding import derive
from genaug.segmentation.base import Segmenter
from genaug.segmentation.masks import Masks, make_masks, usable_subjects
from genaug.synthesis.composites import CompositeRenderer
from genaug.synthesis.image_store import ImageStore
from genaug.synthesis.images import SyntheticImages, candidates_of, class_name, cost_of
from genaug.synthesis.jobs import Job, Stage
from genaug.synthesis.per_source import check_wording, with_article
from genaug.synthesis.runner import Runner
from genaug.synthesis.scenes import choose_scenes
from genaug.synthesis.store import content_key
from genaug.synthesis.text_images import TextImages, json_values

#: Raise it with every change of how a composite comes about: stores of another version are not used.
VERSION = "beyond-generation-1"

Placement = Literal["space", "random"]

#: Side in pixels of the scenes that ``blur`` is meant for.
SIDE = 512


class CutAndPaste:
    """Offline part: objects and scenes from words, one in the other.

    Args:
        generator: Makes both.
        segmenter: Finds the objects; its words are a class's superclass and name.
        clip: Chooses the scenes.
        templates: What pictures of a class are made from; ``{a_name}`` and ``{name}`` stand for it.
        scenes: What the scenes show.
        scale: Images for each real one. A larger scale contains a smaller one.
        seed: Of everything; not the training's, so that all seeds of a study share the images.
        foregrounds: Pictures of each class from each template; those that no image needs are not made.
        scene_prompt: What they are made from; ``{}`` stands for the scene.
        scenes_each: Pictures of each scene, of which CLIP chooses.
        keep: Share of them that is least like any class, and share that stays of these.
        placement: ``space``: the place is drawn, the object as large as it fits there; ``random``: both are drawn.
        size: Smallest and largest diameter of the object's circle, as shares of the scene's short side; with ``space``
            only the smallest counts.
        rotation: Largest rotation either way, in degrees.
        blur: Standard deviation of the Gaussian over the object's edge, in pixels of a scene of 512 pixels.
        min_subject: Smallest share of its picture an object may cover.
        max_subject: Largest share.
        workers: Threads for masks and composites.
        filters: Judge the images once they are made.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        generator: Generator,
        segmenter: Segmenter,
        clip: Clip,
        templates: Sequence[str],
        scenes: Sequence[str],
        scale: int = 1,
        seed: int = 0,
        foregrounds: int = 20,
        scene_prompt: str = "A real photo of {}",
        scenes_each: int = 20,
        keep: tuple[float, float] = (0.5, 0.5),
        placement: Placement = "space",
        size: tuple[float, float] = (0.3, 0.7),
        rotation: float = 30.0,
        blur: float = 2.0,
        min_subject: float = 0.0027,
        max_subject: float = 0.95,
        workers: int = 2,
        filters: Sequence[Filter] = (),
    ) -> None:
        if not isinstance(scale, int) or scale < 1:
            raise ValueError(f"method.scale={scale} must be a whole number of at least 1.")
        if foregrounds < 1 or scenes_each < 1 or not templates or not scenes:
            raise ValueError(
                f"method.synthesis: foregrounds={foregrounds} and scenes_each={scenes_each} must be at least 1, and "
                "templates and scenes not empty."
            )
        for template in templates:
            check_wording("templates", template)
        if len(keep) != 2 or not all(0 < share <= 1 for share in keep):
            raise ValueError(f"method.synthesis.keep={list(keep)} must be two shares in (0, 1].")
        if placement not in get_args(Placement):
            raise ValueError(f"method.synthesis.placement={placement!r} is not known: choose space or random.")
        if len(size) != 2 or not 0 < size[0] <= size[1] <= 1:
            raise ValueError(f"method.synthesis.size={list(size)} must be [smallest, largest] with 0 < smallest <= 1.")
        if rotation < 0 or blur < 0:
            raise ValueError(f"rotation={rotation} and blur={blur} must not be negative.")
        if not 0 <= min_subject < max_subject <= 1:
            raise ValueError(f"needed: 0 <= min_subject < max_subject <= 1, got {min_subject} and {max_subject}.")
        self.generator, self.segmenter, self.clip = generator, segmenter, clip
        self.scale, self.seed, self.foregrounds, self.scenes_each = scale, seed, foregrounds, scenes_each
        self.templates, self.scenes, self.scene_prompt = tuple(templates), tuple(scenes), scene_prompt
        self.keep, self.placement, self.size = (float(keep[0]), float(keep[1])), placement, (size[0], size[1])
        self.rotation, self.blur = float(rotation), float(blur)
        self.min_subject, self.max_subject = float(min_subject), float(max_subject)
        self.workers, self.filters = workers, tuple(filters)

    def plan(self, samples: Sequence[Sample], dataset: Dataset, folder: Path) -> list[Stage]:
        """See :class:`genaug.methods.base.Synthesis`.

        All images are counted: of which objects there are is known once they are segmented.

        Raises:
            ValueError: images show several classes, or are grey.
        """
        if dataset.channels != 3 or dataset.multilabel:
            raise ValueError(
                f"Beyond Generation makes images of one class in RGB, and {dataset.name} has "
                f"{'several labels an image' if dataset.multilabel else f'{dataset.channels} channels'}."
            )
        texts = TextImages(self.generator, self.generator.size_for(dataset.image_size, dataset.image_size))
        scenes, objects = self._scene_jobs(texts), _unique(self._objects(samples, dataset, texts).values())
        return [
            Stage("scenes", len(scenes), scenes, texts.speed_key),
            Stage("objects", len(objects), objects, texts.speed_key),
            Stage("masks", len(objects)),
            Stage("composites", len(samples) * self.scale, speed_key=_speed_key(dataset)),
        ]

    def make(
        self, samples: Sequence[Sample], dataset: Dataset, folder: Path, side: int, runner: Runner
    ) -> SyntheticImages:
        """See :class:`genaug.methods.base.Synthesis`; images have the size of the scenes, whatever ``side`` is.

        Raises:
            ValueError: see :meth:`plan`; or no object was found in any picture, or no scene could be made.
        """
        texts = TextImages(self.generator, self.generator.size_for(dataset.image_size, dataset.image_size))
        store = ImageStore(folder / "backgrounds" / texts.store_name, texts.description)
        scene_jobs, wanted = self._scene_jobs(texts), self._objects(samples, dataset, texts)
        objects = _unique(wanted.values())
        pictures = runner.run([*scene_jobs, *objects], texts, store, "scenes and objects").report()
        names = [f"a photo of {with_article(name.lower())}" for name in dataset.classes]
        scenes = choose_scenes(candidates_of(store, scene_jobs), self.clip, names, self.keep, folder, runner.device)
        if not scenes:
            raise ValueError(f"None of {len(scene_jobs)} scenes could be used: look at {store.root}.")
        found = [Sample(one.key, one.path, one.label) for one in candidates_of(store, objects)]
        masks = make_masks(found, self.segmenter, dataset, folder / "masks", self.workers, runner.device)
        usable = {one.id for one in usable_subjects(found, masks, self.min_subject, self.max_subject)}
        renderer = Composites(self, dataset, store, masks, scenes)
        pairs = [(sample, copy) for copy in range(1, self.scale + 1) for sample in samples]
        there = [pair for pair in pairs if wanted[pair[0].id, pair[1]].key in usable]
        jobs = [renderer.job(sample, copy, wanted[sample.id, copy]) for sample, copy in there]
        images = ImageStore(folder / "images" / renderer.store_name, renderer.description)
        composites = runner.run(jobs, renderer, images, "composites").report()
        about = Circumstances(samples, dataset, folder, runner.device)
        filtered = apply_filters(self.filters, candidates_of(images, jobs), about, images.root)
        more = {
            "masks": masks.report(),
            "scenes": {"made": len(scene_jobs), "chosen": len(scenes)},
            "cost": {"pictures": cost_of(store, [*scene_jobs, *objects]), "composites": cost_of(images, jobs)},
            "ledger": {"pictures": pictures, "composites": composites},
        }
        absent = [sample.label for sample, copy in pairs if wanted[sample.id, copy].key not in usable]
        return SyntheticImages(images, jobs, dataset.classes, more, renderer.rows, absent, filtered)

    def _scene_jobs(self, texts: TextImages) -> list[Job]:
        return [
            texts.job(self.scene_prompt.format(scene), derive(self.seed, "scene", scene, number))
            for number in range(self.scenes_each)
            for scene in self.scenes
        ]

    def _objects(self, samples: Sequence[Sample], dataset: Dataset, texts: TextImages) -> dict[tuple[str, int], Job]:
        """The picture that each image's object comes from, by sample and copy; it depends on no other sample."""

        def job(sample: Sample, copy: int) -> Job:
            assert isinstance(sample.label, int)
            number = derive(self.seed, "object", sample.id, copy) % (self.foregrounds * len(self.templates))
            name = dataset.classes[sample.label].lower()
            words = self.templates[number % len(self.templates)].format(
                name=name, a_name=with_article(name), place="", time=""
            )
            seed = derive(self.seed, "object", name, number)
            return texts.job(words, seed, label=sample.label, facts={"class": dataset.classes[sample.label]})

        copies = range(1, self.scale + 1)
        return {(sample.id, copy): job(sample, copy) for copy in copies for sample in samples}


def _unique(jobs: Any) -> list[Job]:
    return list({job.key: job for job in jobs}.values())


def _speed_key(dataset: Dataset) -> str:
    return f"pasted objects of {dataset.image_size} pixels"


class Composites(CompositeRenderer):
    """Pastes objects into scenes, several at a time.

    Args:
        settings: How.
        dataset: For the names of the classes.
        store: Of the pictures of objects and scenes.
        masks: Of the objects, by the keys of their pictures.
        scenes: The chosen ones.
    """

    def __init__(
        self, settings: CutAndPaste, dataset: Dataset, store: ImageStore, masks: Masks, scenes: Sequence[Candidate]
    ) -> None:
        super().__init__(settings.workers)
        self.settings, self.dataset, self.store, self.masks = settings, dataset, store, masks
        self.scenes = {scene.key: scene for scene in scenes}
        self.speed_key = _speed_key(dataset)
        how = {name: getattr(settings, name) for name in ("placement", "size", "rotation", "blur")}
        chosen = {"clip": settings.clip.fingerprint, "keep": settings.keep, "scenes": list(self.scenes)}
        self.description: dict[str, Any] = {
            "made_by": VERSION,
            "generator": settings.generator.fingerprint,
            "segmenter": settings.segmenter.fingerprint,
            "settings": json_values({**how, **chosen}),
        }
        self.maker = json.dumps(self.description, sort_keys=True)
        self.description |= {"dataset": dataset.name, "classes": list(dataset.classes)}
        name = content_key(json.dumps(self.description, sort_keys=True))[:12]
        self.store_name = f"{dataset.name}-beyond-generation-{name}"

    def job(self, sample: Sample, copy: int, picture: Job) -> Job:
        """The job of pasting the object of ``picture`` into a scene."""
        seed, keys = derive(self.settings.seed, "paste", sample.id, copy), list(self.scenes)
        scene = self.scenes[keys[derive(seed, "scene") % len(keys)]]
        return Job(
            maker=self.maker,
            seed=seed,
            copy=copy,
            label=sample.label,
            sources=(sample.id,),
            inputs=(self.masks.key(picture.key), picture.key, scene.key),
            prompt=f"{picture.prompt} / {scene.prompt}",
            facts={
                "object": picture.key,
                "scene": scene.key,
                "class": class_name(sample.label, self.dataset.classes),
            },
        )

    def compose(self, job: Job, seed: int) -> np.ndarray:
        """See :meth:`CompositeRenderer.compose`."""
        picture, mask, scene = self._inputs(job)
        settings, rng = self.settings, np.random.default_rng(seed)
        cutout = lifted(picture, mask, rng.uniform(-settings.rotation, settings.rotation))
        height, width = scene.shape[:2]
        if settings.placement == "space":
            circle = largest_circle(height, width, settings.size[0], rng)
        else:
            circle = random_circle(height, width, settings.size, rng)
        return paste_in_circle(scene, cutout, circle, settings.blur * min(height, width) / SIDE)

    def _inputs(self, job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        key = job.facts["object"]
        return self.store.image(key), self.masks[key], self.store.image(job.facts["scene"])

    def rows(self, job: Job) -> Mapping[str, np.ndarray]:
        """What a person should see of a job beside its result: the object's picture, its mask, and the scene."""
        picture, mask, scene = self._inputs(job)
        words, _, place = job.prompt.partition(" / ")
        return {words: picture, "mask": np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2), place: scene}
