"""Synthetic versions of cut-out objects: SDEdit of each, told a word that was learned from all of its class.

De-DA (Chen et al. 2024, arXiv:2411.02592, section 3 "Semantic editing", Figure 4) edits the objects alone, with an
alpha channel, and compares that with editing the whole photograph, as DA-Fusion does (arXiv:2302.07944). Both are here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from filelock import FileLock

from genaug.console import track
from genaug.data.base import Dataset, Sample
from genaug.data.reading import read_image
from genaug.functional.composite import resize
from genaug.functional.cutouts import PixelBox, Square, filled, shrunk, without_rounding
from genaug.functional.masks import iou, mask_box
from genaug.generation.base import Call, Generator
from genaug.generation.diffusion import Diffusion
from genaug.generation.textual_inversion import TextualInversion
from genaug.seeding import derive
from genaug.segmentation.masks import Masks
from genaug.synthesis.concepts import Concepts, Request, learn_concepts
from genaug.synthesis.gates import OPAQUE, object_verdict
from genaug.synthesis.image_store import ImageStore
from genaug.synthesis.images import SyntheticImages, class_name, labels_of
from genaug.synthesis.jobs import Job, Stage
from genaug.synthesis.runner import Runner
from genaug.synthesis.store import Store, content_key
from genaug.synthesis.text_images import json_values
from genaug.threads import thread_pool

#: Raise it with every change of how an image comes about: stores of another version are not used.
VERSION = "object-edits-1"


Crop = Literal["object", "image"]


@dataclass(frozen=True)
class Subject:
    """An object to be edited.

    Attributes:
        sample: Its photograph.
        key: Content key of photograph, mask and what made the mask.
        box: Around its mask ``(x, y, width, height)`` in pixels of the photograph.
        size: Height and width of the photograph.
    """

    sample: Sample
    key: str
    box: PixelBox
    size: tuple[int, int]


def class_tokens(classes: Sequence[str]) -> list[str]:
    """A word for prompts for each class, each another.

    >>> class_tokens(["Painted Bunting", "painted_bunting", "003.Jay", "?"])
    ['<painted-bunting>', '<painted-bunting-2>', '<003-jay>', '<class>']
    """
    tokens: list[str] = []
    for name in classes:
        word = "-".join(re.findall(r"[^\W_]+", name.lower())) or "class"
        number = 1
        while (token := f"<{word}>" if number == 1 else f"<{word}-{number}>") in tokens:
            number += 1
        tokens.append(token)
    return tokens


class ObjectEdits:
    """Offline part: ``copies`` edited versions of each object, with its alpha channel.

    What the paper leaves open is an argument with a stated default: the crop, its padding, and all gates.

    An object of several classes (multi-label data) is told all their words, joined by "and", and each of these words
    is learned from it, too: its mask covers the objects of all of them.

    Args:
        generator: Edits transparent images; for ``whole_image`` any that edits images will do.
        inversion: How a word is learned for each class, from its real objects. None tells the class's name instead.
        copies: Synthetic objects of each real one (the paper's expansion multiplier; Table 8). A larger number
            contains a smaller one.
        strength: Noise level an edit starts at, in (0, 1] (Table 6: 0.4; Figure 8d finds 0.2 best on CUB). Words are
            learned up to where the edit really starts.
        prompt: With ``{}`` for the word.
        crop: What the generator sees of a photograph: ``object``, the square around the object; ``image``, the square
            around the photograph with the object where it is in it.
        padding: Around the object on each side, as a share of its long side; only with ``crop="object"``.
        whole_image: Edit the photograph with its background, with words learned from whole photographs, and cut the
            object out of the result along the mask it had (what Figure 4 compares with). ``crop`` and ``padding`` do
            not count; photographs that are not square are continued to a square, smoothly.
        seed: Of all images; not the training's, so that all seeds of a study share them.
        min_iou: Smallest overlap of a result's object with its source's.
        area: Smallest and largest area of a result's object, as a share of its source's.
        min_change: Smallest change of the colours, see :func:`genaug.synthesis.gates.colour_change`.

    Raises:
        ValueError: an argument is out of range, or the generator does not offer the call.
    """

    def __init__(
        self,
        generator: Generator,
        inversion: TextualInversion | None = None,
        copies: int = 3,
        strength: float = 0.4,
        prompt: str = "a photo of a {}",
        crop: Crop = "object",
        padding: float = 0.1,
        whole_image: bool = False,
        seed: int = 0,
        min_iou: float = 0.5,
        area: tuple[float, float] = (0.5, 2.0),
        min_change: float = 0.01,
    ) -> None:
        self.call: Call = "image_to_image" if whole_image else "edit_transparent"
        if self.call not in generator.calls:
            needs = "one that edits images" if whole_image else "one with a transparency, as tiny, sd15 and sdxl"
            raise ValueError(
                f"method.synthesis.edit needs {self.call}, and the generator ({type(generator).__name__}) offers "
                f"{', '.join(generator.calls)}: choose {needs}, or method.synthesis.edit=null for De-DA without "
                "generation."
            )
        here = "method.synthesis.edit"
        if not isinstance(copies, int) or copies < 1:
            raise ValueError(f"{here}.copies={copies} must be a whole number of at least 1; {here}=null makes none.")
        if not 0 < strength <= 1:
            raise ValueError(f"{here}.strength={strength} must be a noise level in (0, 1].")
        if prompt.count("{}") != 1:
            raise ValueError(f"{here}.prompt={prompt!r} must have one {{}}, in the place of the word.")
        if crop not in get_args(Crop):
            raise ValueError(f"{here}.crop={crop!r} is not known: choose one of {', '.join(get_args(Crop))}.")
        for name, value in {"padding": padding, "min_iou": min_iou, "min_change": min_change}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{here}.{name}={value} must be a number in [0, 1].")
        if len(area) != 2 or not 0 <= area[0] <= 1 <= area[1]:
            raise ValueError(f"{here}.area={list(area)} must be [smallest, largest] with 1 between them.")
        self.generator, self.inversion, self.copies, self.strength = generator, inversion, copies, float(strength)
        self.prompt, self.crop, self.padding, self.whole_image = prompt, crop, float(padding), whole_image
        self.seed, self.min_iou, self.min_change = seed, float(min_iou), float(min_change)
        self.area = (float(area[0]), float(area[1]))

    def check(self) -> None:
        """Find out before hours of masks that the model is not there or cannot do it.

        Raises:
            FileNotFoundError: the model's configuration, or a file that transparency takes, cannot be found.
            ValueError: the strength gives no step, or no words can be learned for this model.
        """
        try:
            self.generator.denoiser_steps(self.call, self.strength)
            if not self.whole_image:
                self.generator.check_transparent()
            if self.inversion is not None:
                self.inversion.last_timestep(cast(Diffusion, self.generator), self.call, self.strength)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"{error} method=deda_mixing does without a generator.") from error

    def plan(self, samples: Sequence[Sample], dataset: Dataset) -> list[Stage]:
        """What :meth:`make` will do, if every sample has a usable object; nothing is loaded.

        A step of a word's learning is counted once for each picture in it.
        """
        self.check()
        renderer = EditRenderer(self, dataset, [], {}, dataset.image_size)
        jobs = [renderer.job(sample, copy, (), {}) for copy in range(1, self.copies + 1) for sample in samples]
        stages = [Stage("synthetic objects", len(jobs), jobs, renderer.speed_key)]
        if self.inversion is not None:
            cost = self.inversion.steps * self.inversion.batch_size
            labels = sorted({label for sample in samples for label in labels_of(sample.label)})
            words = [Job(renderer.maker, seed=self.inversion.seed, label=label, steps=cost) for label in labels]
            stages.insert(0, Stage("words", len(words), words))
        return stages

    def make(
        self,
        subjects: Sequence[Subject],
        dataset: Dataset,
        masks: Masks,
        folder: Path,
        side: int,
        runner: Runner,
        workers: int = 1,
    ) -> EditedObjects:
        """Learn the words and edit the objects; what is there is kept.

        Args:
            subjects: The objects.
            dataset: For the names of classes and superclasses.
            masks: Of the objects.
            folder: Of all stores.
            side: An object's long side need not be kept larger.
            runner: Carries out the jobs.
            workers: Threads that cut the objects out of the results.
        """
        renderer = EditRenderer(self, dataset, subjects, masks, side)
        if self.inversion is not None:
            renderer.concepts = learn_concepts(
                renderer.requests(), self.inversion, cast(Diffusion, self.generator), self.call, self.strength,
                folder / "words", runner,
            )  # fmt: skip
        jobs = [renderer.job_of(subject, copy) for copy in range(1, self.copies + 1) for subject in subjects]
        store = ImageStore(folder / "images" / renderer.store_name, renderer.description)
        ledger = runner.run(jobs, renderer, store, "synthetic objects").report()
        more = {"ledger": ledger, "words": renderer.concepts.report() if renderer.concepts else None}
        images = SyntheticImages(store, jobs, dataset.classes, more)
        edited = EditedObjects(images, renderer, Store(folder / "cutouts" / renderer.store_name))
        edited.cut_out(workers)
        return edited


class EditRenderer:
    """Renders the jobs of :class:`ObjectEdits`: RGBA squares of the stored size.

    Args:
        settings: How objects are edited.
        dataset: For names and the size of the plan.
        subjects: The objects.
        masks: By sample id.
        side: Pixels of an object's long side that are enough.

    Attributes:
        concepts: The words of the classes, once they are learned.
        pixels: Side of the squares that the generator sees.
    """

    def __init__(
        self,
        settings: ObjectEdits,
        dataset: Dataset,
        subjects: Sequence[Subject],
        masks: Mapping[str, np.ndarray],
        side: int,
    ) -> None:
        self.settings, self.dataset, self.masks, self.side = settings, dataset, masks, side
        self.subjects = {subject.sample.id: subject for subject in subjects}
        self.generator, self.batch_size = settings.generator, settings.generator.batch_size
        self.tokens = class_tokens(dataset.classes)
        self.concepts: Concepts | None = None
        if settings.whole_image:
            self.pixels = max(self.generator.size_for(side, side))
        else:
            self.pixels = self.generator.transparent_side(side)
        self.steps = self.generator.denoiser_steps(settings.call, settings.strength)
        start = self.generator.start_timestep(settings.call, settings.strength)
        self.noise = {"strength": settings.strength, "start_timestep": start}
        self.description = self._description()
        self.maker = json.dumps(self.description, sort_keys=True)
        self.description |= {"dataset": dataset.name, "classes": list(dataset.classes)}
        name = content_key(json.dumps(self.description, sort_keys=True))[:12]
        self.store_name = f"{dataset.name}-objects-{settings.call}-{name}"

    def _description(self) -> dict[str, Any]:
        """Everything that images depend on and their jobs do not say; the gates choose among seeds."""
        settings, generator = self.settings, self.generator
        values = {
            "made_by": f"{VERSION} {settings.call}",
            "generator": {"fingerprint": generator.fingerprint, **generator.settings},
            "transparency": {} if settings.whole_image else dict(generator.transparent_settings),
            "inversion": None if settings.inversion is None else dict(settings.inversion.settings),
            "settings": {"prompt": settings.prompt, **self.noise, **self._framing, "side": self.side},
            "gates": {name: getattr(settings, name) for name in ("min_iou", "area", "min_change")},
        }
        return json_values(values)

    @property
    def _framing(self) -> dict[str, Any]:
        """What the generator sees of a photograph follows from this and the photograph's mask."""
        settings = self.settings
        if settings.whole_image:
            return {"whole_image": True, "pixels": self.pixels}
        padding = settings.padding if settings.crop == "object" else None
        return {"crop": settings.crop, "padding": padding, "pixels": self.pixels}

    @property
    def speed_key(self) -> str:
        """See :class:`genaug.synthesis.runner.Renderer`; the plan, which does not know ``side``, must find it too."""
        call, data = self.settings.call, self.dataset
        return f"{self.generator.fingerprint} objects {call} {self.settings.strength} {data.name} {data.image_size}"

    # --- jobs ------------------------------------------------------------------------------------------------------

    def job_of(self, subject: Subject, copy: int) -> Job:
        """The job of copy ``copy`` of a subject."""
        concepts = self.concepts
        words = () if concepts is None else tuple(concepts.keys[token] for token in self._words(subject.sample))
        square = self.square(subject)
        facts = {
            "square": [square.left, square.top, square.side],  # in pixels of the photograph
            "photograph": list(subject.size),
            "box": [round(value, 3) for value in self.stored_box(subject)],  # of the source, in pixels of the image
        }
        return self.job(subject.sample, copy, (self.source_key(subject), *words), facts)

    def job(self, sample: Sample, copy: int, inputs: tuple[str, ...], facts: Mapping[str, Any]) -> Job:
        """A job for copy ``copy`` of a sample's object, made from files of the content keys ``inputs``."""
        return Job(
            maker=self.maker,
            seed=derive(self.settings.seed, self.settings.call, sample.id, copy),
            copy=copy,
            label=sample.label,
            sources=(sample.id,),
            inputs=inputs,
            prompt=self.settings.prompt.format(" and ".join(self._words(sample))),
            shape=(self.settings.call, self.pixels),
            steps=self.steps,
            facts={"class": class_name(sample.label, self.dataset.classes), **self.noise, **facts},
        )

    def _words(self, sample: Sample) -> list[str]:
        """What stands for the sample's classes in a prompt."""
        labels = labels_of(sample.label)
        if self.settings.inversion is None:
            return [self.dataset.classes[label].lower() for label in labels]
        return [self.tokens[label] for label in labels]

    def requests(self) -> list[Request]:
        """The words to be learned: of the classes that have an object, each from all of its objects.

        Learning starts from the superclass of the class, as the paper's does from "bird" and "car"; where images have
        several classes, of which no one word is true, from the class's name, as the paper's on Pascal.
        """
        members: dict[int, list[Subject]] = {}
        for subject in self.subjects.values():
            for label in labels_of(subject.sample.label):
                members.setdefault(label, []).append(subject)
        found = []
        for label, subjects in sorted(members.items()):
            name = self.dataset.classes[label].lower()
            word = name if self.dataset.multilabel else self.dataset.superclasses[label] or name
            keys = tuple(self.source_key(subject) for subject in subjects)
            found.append(Request(self.tokens[label], word, keys, partial(self._pictures, subjects)))
        return found

    def _pictures(self, subjects: Sequence[Subject]) -> list[np.ndarray]:
        return [self.shown(subject) for subject in subjects]

    # --- geometry --------------------------------------------------------------------------------------------------

    def square(self, subject: Subject) -> Square:
        """What is edited of a photograph."""
        if self.settings.whole_image or self.settings.crop == "image":
            return Square.of(subject.size)
        return Square.around(subject.box, self.settings.padding)

    def stored_side(self, subject: Subject) -> int:
        """Side of the image that is kept: no larger than edited, nor than makes the object ``side`` pixels long."""
        return min(self.pixels, max(1, self.side * self.square(subject).side // max(subject.box[2:])))

    def stored_box(self, subject: Subject) -> tuple[float, float, float, float]:
        """The source's box in pixels of the image that is kept."""
        square, (x, y, width, height) = self.square(subject), subject.box
        scale = self.stored_side(subject) / square.side
        return (x - square.left) * scale, (y - square.top) * scale, width * scale, height * scale

    def source_key(self, subject: Subject) -> str:
        """Content key of :meth:`shown`."""
        return content_key(VERSION, subject.key, json.dumps(self._framing, sort_keys=True))

    def source(self, subject: Subject, pixels: int) -> np.ndarray:
        """``(pixels, pixels, 4)`` uint8: the real object in its square."""
        image = read_image(subject.sample.path, channels=3)
        return self.square(subject).cut(image, self.masks[subject.sample.id], pixels)

    def shown(self, subject: Subject) -> np.ndarray:
        """What the generator sees: the object as RGBA, or the photograph as RGB."""
        if not self.settings.whole_image:
            return self.source(subject, self.pixels)
        image = read_image(subject.sample.path, channels=3)
        whole = self.square(subject).cut(image, np.ones(image.shape[:2], np.float32), self.pixels)
        return np.ascontiguousarray(whole[..., :3])

    # --- rendering -------------------------------------------------------------------------------------------------

    def load(self, device: str) -> None:
        """See :class:`genaug.synthesis.runner.Renderer`."""
        self.generator.load(device)
        if self.concepts is not None:
            self.generator.add_words(self.concepts.vectors)

    def unload(self) -> None:
        """See :class:`genaug.synthesis.runner.Renderer`."""
        self.generator.unload()

    def render(self, jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """See :class:`genaug.synthesis.runner.Renderer`; of whole photographs the background stays, under alpha 0."""
        whole = self.settings.whole_image
        edit: Callable[..., list[np.ndarray | None]]
        edit = self.generator.image_to_image if whole else self.generator.edit_transparent
        subjects = [self.subjects[job.sources[0]] for job in jobs]
        images = [self.shown(subject) for subject in subjects]
        made = edit(images, [job.prompt for job in jobs], list(seeds), self.settings.strength)
        keep = self._with_alpha if whole else self._object
        return [None if one is None else keep(one, subject) for one, subject in zip(made, subjects, strict=True)]

    def _object(self, made: np.ndarray, subject: Subject) -> np.ndarray:
        return shrunk(without_rounding(made), self.stored_side(subject))

    def _with_alpha(self, made: np.ndarray, subject: Subject) -> np.ndarray:
        side = self.stored_side(subject)
        return np.dstack([resize(made, side, side), self.source(subject, side)[..., 3]])

    def verdict(self, job: Job, image: np.ndarray) -> str:
        """See :func:`genaug.synthesis.gates.object_verdict`."""
        subject, settings = self.subjects[job.sources[0]], self.settings
        side = self.stored_side(subject)
        if image.shape != (side, side, 4):
            return f"size {image.shape[1]}x{image.shape[0]}"
        source = self.source(subject, side)
        return object_verdict(source, image, settings.min_iou, settings.area, settings.min_change)

    def cut_out(self, job: Job, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """The object of a result that was kept, cut to its own extent.

        Returns:
            ``(h, w, 4)`` uint8; and ``place``, its centre's x and y as fractions of the photograph and its long side /
            the photograph's short side, and ``iou`` with the source's object.
        """
        subject = self.subjects[job.sources[0]]
        mask = image[..., 3] >= OPAQUE
        box = mask_box(mask)
        assert box is not None  # it has passed the gates
        x, y, width, height = box
        square, (rows, columns) = self.square(subject), subject.size
        scale = square.side / image.shape[0]
        centre_x = (square.left + (x + width / 2) * scale) / columns
        centre_y = (square.top + (y + height / 2) * scale) / rows
        overlap = iou(mask, self.source(subject, image.shape[0])[..., 3] >= OPAQUE)
        record = {"place": [centre_x, centre_y, max(width, height) * scale / min(rows, columns)], "iou": overlap}
        # Of a whole photograph the background is still there, and a resized edge must not show it.
        return filled(np.ascontiguousarray(image[y : y + height, x : x + width])), record


class EditedObjects:
    """The synthetic objects that were kept, and their cut-outs for training, which reads them as fast as real ones.

    Args:
        images: All that were planned.
        renderer: Made them.
        cutouts: Store of the cut-outs, by the keys of the images.

    Attributes:
        kept: By sample id, the numbers of the copies that are there; none of the samples without an object.
    """

    def __init__(self, images: SyntheticImages, renderer: EditRenderer, cutouts: Store) -> None:
        self.images, self.renderer, self.store, self.cutouts = images, renderer, images.store, cutouts
        self._jobs = {(job.sources[0], job.copy): job for job in images.jobs}
        good = [pair for pair, job in self._jobs.items() if self.store[job.key]["verdict"] == "ok"]
        self.kept: dict[str, tuple[int, ...]] = {sample_id: () for sample_id, _ in self._jobs}
        for sample_id, copy in sorted(good):
            self.kept[sample_id] += (copy,)

    def __getstate__(self) -> dict[str, Any]:
        """Without what made them: a process that reads images for training needs no generator."""
        return {name: value for name, value in vars(self).items() if name not in ("images", "renderer")}

    def cut_out(self, workers: int) -> None:
        """Cut out what is not yet there; processes that start together do not all do it."""

        def one(job: Job) -> None:
            cutout, record = self.renderer.cut_out(job, self.store.transparent_image(job.key))
            self.cutouts.add(job.key, {"cdp.npy": cutout}, record)

        self.cutouts.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.cutouts.root / ".lock"), thread_pool(workers) as pool:
            self.cutouts.refresh()
            missing = [job for job in self._kept_jobs() if job.key not in self.cutouts]
            for _ in track(pool.map(one, missing), total=len(missing), description="cutting out"):
                pass

    def _kept_jobs(self) -> list[Job]:
        return [self._jobs[sample_id, copy] for sample_id, copies in self.kept.items() for copy in copies]

    def image(self, sample_id: str, copy: int) -> np.ndarray:
        """The stored square ``(S, S, 4)`` uint8; a whole photograph has its background under alpha 0.

        Raises:
            KeyError: there is no such object.
        """
        return self.store.transparent_image(self._jobs[sample_id, copy].key)

    def part(self, sample_id: str, copy: int) -> tuple[np.ndarray, Sequence[float]]:
        """A synthetic object and its place, as of :meth:`EditRenderer.cut_out`.

        Raises:
            KeyError: there is no such object.
        """
        key = self._jobs[sample_id, copy].key
        return self.cutouts.array(key, "cdp.npy"), self.cutouts[key]["place"]

    def whole(self, sample_id: str) -> dict[str, np.ndarray | None]:
        """What a person should see beside the cut-outs where whole photographs are edited; nothing else where not.

        Returns:
            By name ``(H, W, 3)`` uint8, the photograph and its first edit; None where no edit was kept.
        """
        if not self.renderer.settings.whole_image:
            return {}
        copies = self.kept[sample_id]
        edited = self.image(sample_id, copies[0])[..., :3] if copies else None
        return {"photograph": self.renderer.shown(self.renderer.subjects[sample_id]), "edited": edited}

    def report(self) -> dict[str, Any]:
        """See :meth:`SyntheticImages.report`; and ``iou``, the mean overlap of those that were kept with their sources.

        None where none was kept.
        """
        overlaps = [self.cutouts[job.key]["iou"] for job in self._kept_jobs()]
        return {**self.images.report(), "iou": float(np.mean(overlaps)) if overlaps else None}
