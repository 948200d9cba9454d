"""Methods that make n images of each real one, each by one call of a generator: jobs, plan and renderer."""

from __future__ import annotations

import json
from abc import ABC
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from genaug.captioning.engine import combinations, read_sets
from genaug.data.base import Dataset, Sample
from genaug.data.reading import image_size, read_image
from genaug.filtering.base import Circumstances, Filter, apply_filters
from genaug.functional.composite import resize
from genaug.generation.base import Call, Generator
from genaug.seeding import derive
from genaug.synthesis.image_store import ImageStore
from genaug.synthesis.images import SyntheticImages, candidates_of, facts_of, labels_of
from genaug.synthesis.jobs import Job, Stage
from genaug.synthesis.runner import Runner
from genaug.synthesis.store import content_key
from genaug.synthesis.text_images import json_values

#: Raise it with every change of how an image comes about: stores of another version are not used.
VERSION = "per-source-1"

#: Places and times that prompts may name: as many as the sets have combinations.
SCENES = 702


class PerSource(ABC):
    """Offline part: synthetic images of each sample that shows a class, label as the sample's.

    Args:
        generator: Makes the images.
        scale: Synthetic images of each real one. A larger scale contains a smaller one.
        seed: Of all images; not the training's, so that all seeds of a study share them.
        prompt: What the generator is told; ``{name}`` stands for the class, ``{a_name}`` for it with its article,
            ``{place}`` and ``{time}`` for a place and a time of AGA's prompt sets, drawn for each image.
        strength: Noise level an edit starts at, in (0, 1].
        filters: Judge the images once they are made, one after the other.

    Raises:
        ValueError: a number is out of range, the prompt has other places to fill in, or the generator does not offer
            the call.
    """

    call: Call
    #: Whether the generator is shown every source squeezed to a square, and the result brought back: images of all
    #: sizes then share batches.
    squeezed: ClassVar[bool] = False

    def __init__(
        self,
        generator: Generator,
        scale: int = 1,
        seed: int = 0,
        prompt: str = "a photo of {a_name}",
        strength: float = 1.0,
        filters: Sequence[Filter] = (),
    ) -> None:
        if not isinstance(scale, int) or scale < 1:
            raise ValueError(f"method.scale={scale} must be a whole number of at least 1.")
        if not 0 < strength <= 1:
            raise ValueError(f"method.synthesis.strength={strength} must be a noise level in (0, 1].")
        if self.call not in generator.calls:
            raise ValueError(
                f"generator={type(generator).__name__} offers {', '.join(generator.calls)}, and this method needs "
                f"{self.call}: choose another generator."
            )
        check_wording("prompt", prompt)
        self.generator, self.scale, self.seed = generator, scale, seed
        self.prompt, self.strength, self.filters = prompt, float(strength), tuple(filters)

    # --- what a method may change ------------------------------------------------------------------------------------

    def prepare(self, samples: Sequence[Sample], dataset: Dataset, folder: Path, runner: Runner) -> list[Sample]:
        """Make what the images need first, and say which samples can have images; all of them here."""
        return list(samples)

    def inputs(self, sample: Sample) -> tuple[str, ...]:
        """Content keys of the files that an image of ``sample`` is made from."""
        return (content_key(sample.path.read_bytes()),)

    def wording(self, sample: Sample, copy: int) -> str:
        """What the generator is told for a copy, with ``{name}`` and the others still to be filled in."""
        return self.prompt

    @property
    def wordings(self) -> Any:
        """JSON value of all that :meth:`wording` says, for the description of the store."""
        return self.prompt

    def strength_of(self, sample: Sample, copy: int) -> float:
        """Noise level that a copy starts at."""
        return self.strength

    @property
    def strengths(self) -> tuple[float, ...]:
        """All that :meth:`strength_of` can say; where it is one, all images share batches."""
        return (self.strength,)

    @property
    def more_settings(self) -> dict[str, Any]:
        """JSON values of all else that changes images, for the description of the store."""
        return {}

    def more(self) -> dict[str, Any]:
        """What else is reported."""
        return {}

    def load(self, device: str) -> None:
        """Get the generator ready on ``device``."""
        self.generator.load(device)

    def draw(self, images: Sequence[np.ndarray], jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """Ask the generator for a batch: ``images`` are the sources, of one size; the jobs start at one noise level."""
        raise NotImplementedError

    def finish(self, job: Job, source: np.ndarray, made: np.ndarray) -> np.ndarray:
        """What is kept of a result; both are of the source's size."""
        return made

    # --- what they share ---------------------------------------------------------------------------------------------

    def plan(self, samples: Sequence[Sample], dataset: Dataset, folder: Path) -> list[Stage]:
        """See :class:`genaug.methods.base.Synthesis`."""
        renderer = SourceImages(self, dataset, samples, dataset.image_size)
        named = with_class(samples)
        jobs = [
            renderer.job(sample, copy, (), renderer.square) for copy in range(1, self.scale + 1) for sample in named
        ]
        return [Stage("images", len(jobs), jobs, speed_key=renderer.speed_key)]

    def make(
        self, samples: Sequence[Sample], dataset: Dataset, folder: Path, side: int, runner: Runner
    ) -> SyntheticImages:
        """See :class:`genaug.methods.base.Synthesis`; sources larger than training needs are made smaller first."""
        usable = self.prepare(with_class(samples), dataset, folder, runner)
        renderer = SourceImages(self, dataset, usable, side)
        made_from = {sample.id: (self.inputs(sample), renderer.size(sample)) for sample in usable}
        jobs = [renderer.job(one, copy, *made_from[one.id]) for copy in range(1, self.scale + 1) for one in usable]
        store = ImageStore(folder / "images" / renderer.store_name, renderer.description)
        ledger = runner.run(jobs, renderer, store, "images").report()
        about = Circumstances(samples, dataset, folder, runner.device)
        filtered = apply_filters(self.filters, candidates_of(store, jobs), about, store.root)
        more = {"ledger": {"images": ledger}, **self.more()}
        return SyntheticImages(store, jobs, dataset.classes, more, renderer.show, filtered=filtered)


def with_class(samples: Sequence[Sample]) -> list[Sample]:
    """The samples that there is a word for: in multi-label data some may show no class at all."""
    return [sample for sample in samples if sample.label != ()]


class SourceImages:
    """Renders the jobs of a :class:`PerSource` method.

    Args:
        method: Whose.
        dataset: For class names and the size of images made from words.
        samples: The sources.
        side: Pixels of a source's short side that are enough.
    """

    def __init__(self, method: PerSource, dataset: Dataset, samples: Sequence[Sample], side: int) -> None:
        self.method, self.dataset, self.side = method, dataset, side
        self.samples = {sample.id: sample for sample in samples}
        self.batch_size = method.generator.batch_size
        self.from_words = method.call == "text_to_image"
        self.square = method.generator.size_for(dataset.image_size, dataset.image_size)
        scenes = combinations(read_sets(), SCENES, method.seed)
        self.scenes = [(scene.spatial, scene.temporal) for scene in scenes]
        self.pixels = method.generator.size_for(side, side)
        self._levels: dict[float, tuple[int, dict[str, Any]]] = {}
        levels = method.strengths
        noise = self._level(levels[0])[1] if len(levels) == 1 else {"strengths": list(levels)}
        self.description: dict[str, Any] = {
            "made_by": f"{VERSION} {method.call}",
            "generator": json_values({"fingerprint": method.generator.fingerprint, **method.generator.settings}),
            "settings": {"prompt": method.wordings, "side": None if self.from_words else side, **noise},
        }
        self.description["settings"] |= method.more_settings
        self.maker = json.dumps(self.description, sort_keys=True)
        self.description |= {"dataset": dataset.name, "classes": list(dataset.classes)}
        name = content_key(json.dumps(self.description, sort_keys=True))[:12]
        self.store_name = f"{dataset.name}-{method.call}-{name}"

    @property
    def speed_key(self) -> str:
        """See :class:`genaug.synthesis.runner.Renderer`; the plan, which does not know ``side``, must find it too."""
        method, data = self.method, self.dataset
        levels = " ".join(map(str, method.strengths))
        return f"{method.generator.fingerprint} {method.call} {levels} {data.name} {data.image_size}"

    def _level(self, strength: float) -> tuple[int, dict[str, Any]]:
        """Denoiser steps from ``strength`` on, and where that is; a level that no image needs need not be there."""
        if strength not in self._levels:
            generator, call = self.method.generator, self.method.call
            start = generator.start_timestep(call, strength)
            noise = {"strength": strength, "start_timestep": start}
            self._levels[strength] = generator.denoiser_steps(call, strength), noise
        return self._levels[strength]

    def job(self, sample: Sample, copy: int, inputs: Sequence[str], size: tuple[int, int]) -> Job:
        """The job of copy ``copy`` of ``sample``: an image of ``size`` (height, width)."""
        method = self.method
        seed = derive(method.seed, method.call, sample.id, copy)
        strength = method.strength_of(sample, copy)
        steps, noise = self._level(strength)
        back = {"size": list(size)} if method.squeezed else {}
        alone = (strength,) if len(method.strengths) > 1 else ()
        return Job(
            maker=self.maker,
            seed=seed,
            copy=copy,
            label=sample.label,
            sources=(sample.id,),
            inputs=tuple(inputs),
            prompt=self._prompt(sample, copy, seed),
            shape=(method.call, *(self.pixels if method.squeezed else size), *alone),
            steps=steps,
            facts={**facts_of(sample, self.dataset.classes), **noise, **back},
        )

    def _prompt(self, sample: Sample, copy: int, seed: int) -> str:
        place, time = self.scenes[derive(seed, "scene") % len(self.scenes)]
        names = [self.dataset.classes[label].lower() for label in labels_of(sample.label)]
        return self.method.wording(sample, copy).format(
            name=" and ".join(names), a_name=" and ".join(map(with_article, names)), place=place, time=time
        )

    def size(self, sample: Sample) -> tuple[int, int]:
        """Height and width of the images of ``sample``."""
        return self.square if self.from_words else shrunk_size(image_size(sample.path), self.side)

    def load(self, device: str) -> None:
        """See :class:`genaug.synthesis.runner.Renderer`."""
        self.method.load(device)

    def unload(self) -> None:
        """See :class:`genaug.synthesis.runner.Renderer`."""
        self.method.generator.unload()

    def render(self, jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """See :class:`genaug.synthesis.runner.Renderer`."""
        if self.from_words:
            return self.method.generator.text_to_image([job.prompt for job in jobs], list(seeds), self.square)
        sources = [read_shrunk(self.samples[job.sources[0]].path, self.side) for job in jobs]
        height, width = self.pixels
        shown = [resize(source, width, height) for source in sources] if self.method.squeezed else sources
        made = self.method.draw(shown, jobs, seeds)
        return [self._finished(*one) for one in zip(jobs, sources, made, strict=True)]

    def _finished(self, job: Job, source: np.ndarray, made: np.ndarray | None) -> np.ndarray | None:
        """A result as it is kept; one of another size than asked for is left to :meth:`verdict`."""
        if made is None or made.shape[:2] != job.shape[1:3]:
            return made
        return self.method.finish(job, source, resize(made, source.shape[1], source.shape[0]))

    def verdict(self, job: Job, image: np.ndarray) -> str:
        """The size must be the one asked for."""
        size = tuple(job.facts["size"]) if self.method.squeezed else job.shape[1:3]
        return "ok" if image.shape[:2] == size else f"size {image.shape[1]}x{image.shape[0]}"

    def show(self, job: Job) -> Mapping[str, np.ndarray]:
        """The source, under its prompt."""
        return {job.prompt: read_shrunk(self.samples[job.sources[0]].path, self.side)}


def check_wording(key: str, wording: str) -> None:
    """Refuse a prompt with other places to fill in than ``{name}``, ``{a_name}``, ``{place}`` and ``{time}``.

    Raises:
        ValueError: it cannot be filled in; the message names ``method.synthesis.<key>``.
    """
    try:
        wording.format(name="x", a_name="an x", place="y", time="z")
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"method.synthesis.{key}={wording!r} cannot be filled in ({error!r}): use {{name}}, {{a_name}}, "
            "{place} or {time}."
        ) from error


def with_article(noun: str) -> str:
    """``noun`` with "a" or "an", by its first letter.

    >>> with_article("azure jay"), with_article("jay")
    ('an azure jay', 'a jay')
    """
    return f"{'an' if noun[:1] in tuple('aeiou') else 'a'} {noun}"


def shrunk_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width of an image of ``size`` once its short side is no larger than the ``side`` that training needs.

    >>> shrunk_size((100, 300), 50), shrunk_size((40, 60), 50)
    ((50, 150), (40, 60))
    """
    scale = min(1.0, side / min(size))
    return round(size[0] * scale), round(size[1] * scale)


def read_shrunk(path: Path, side: int) -> np.ndarray:
    """An image ``(H, W, 3)`` uint8 of that size."""
    image = read_image(path, channels=3)
    height, width = shrunk_size((image.shape[0], image.shape[1]), side)
    return resize(image, width, height)
