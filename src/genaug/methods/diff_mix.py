"""Diff-Mix (Wang et al. 2024, arXiv:2403.19600): images of one class, redrawn as another.

A diffusion model is fine-tuned on the training images: a LoRA and a word for each class, in one run
(:mod:`genaug.generation.lora_training`). Then an image of a random class is edited with the word of another random one:
what stays of it, mostly the background, is the source's, and the foreground becomes the target's. Its label is
``1 - s^gamma`` of the source and ``s^gamma`` of the target, s being the noise level of the edit. CLIP drops the tenth
of the images that shows an object least. In training, a real image gives way to any of the synthetic ones with a small
probability.

The paper's other strategies are settings of this one: ``aug`` edits an image with the word of its own class, ``gen``
makes it from words alone, and without fine-tuning the class's name is the word (``real_mix``, ``real_aug``,
``real_gen``).

What the published code does differently (``method=diff_mix_published_code``): gamma is 0.8, a strength of 0.3 is drawn,
too, labels of synthetic images sum to 0.9, and nothing is filtered, as what its filter writes is never read; pictures
are squashed to a square for the edit. Its ``real_mix`` and ``real_aug`` end with an error, and ``real_gen`` is told
class names in angle brackets. A gamma of 0.5 is taken for the paper's own, which could not be checked.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from genaug.data.base import Dataset, Sample
from genaug.data.reading import image_size
from genaug.filtering.base import Circumstances, Filter, apply_filters
from genaug.generation.base import Call, Generator
from genaug.generation.diffusion import Diffusion
from genaug.generation.lora_training import FineTuning
from genaug.seeding import derive
from genaug.synthesis.finetuning import Adapter, class_token, make_adapter
from genaug.synthesis.image_store import ImageStore
from genaug.synthesis.images import SyntheticImages, candidates_of
from genaug.synthesis.jobs import Job, Stage
from genaug.synthesis.per_source import read_shrunk, shrunk_size
from genaug.synthesis.runner import Runner
from genaug.synthesis.store import content_key
from genaug.synthesis.text_images import json_values

#: Raise it with every change of how an image comes about: stores of another version are not used.
VERSION = "diff-mix-1"

Task = Literal["mix", "aug", "gen"]


@dataclass(frozen=True)
class Draw:
    """What a synthetic image is made from.

    Attributes:
        copy: From 1 to the scale.
        number: Which of its copy, below the number of training images.
        source: An image of a random class.
        target: Class it becomes.
        strength: Noise level of the edit; 1 where nothing of the source is kept.
    """

    copy: int
    number: int
    source: Sample
    target: int
    strength: float


class DiffMix:
    """Offline part of Diff-Mix: ``scale`` times as many synthetic images as there are real ones.

    A source's class, the source among its images, the target's class and the strength are drawn independently and
    uniformly, so one of C images stays in its class. A larger scale contains a smaller one.

    Args:
        generator: Edits images, or makes them from words.
        finetuning: How it learns the classes first; None leaves it as it is.
        task: ``mix`` edits an image with the word of any class, ``aug`` with that of its own; ``gen`` makes an image of
            a class from words.
        scale: Synthetic images of each real one, on average.
        seed: Of all draws and images; not the training's, so that all seeds of a study share the images, if they train
            on the same real ones (protocol=last).
        prompt: What the generator is told; ``{token}`` stands for the word that was learned, ``{name}`` for the class's
            name, ``{superclass}`` for what it is one of.
        strengths: Noise levels in (0, 1], of which each image draws one; not for ``gen``.
        gamma: Exponent of the strength in the label, above 0.
        label_sum: What the label of a synthetic image sums to, in (0, 1].
        filters: Judge the images once they are made, one after the other.

    Raises:
        ValueError: an argument is out of range, or the generator does not offer the call.
    """

    def __init__(
        self,
        generator: Generator,
        finetuning: FineTuning | None = None,
        task: Task = "mix",
        scale: int = 5,
        seed: int = 0,
        prompt: str = "a photo of a {token} {superclass}",
        strengths: Sequence[float] = (0.5, 0.7, 0.9),
        gamma: float = 0.5,
        label_sum: float = 1.0,
        filters: Sequence[Filter] = (),
    ) -> None:
        here = "method.synthesis"
        if not isinstance(scale, int) or scale < 1:
            raise ValueError(f"method.scale={scale} must be a whole number of at least 1.")
        if task not in get_args(Task):
            raise ValueError(f"{here}.task={task!r} is not known: choose one of {', '.join(get_args(Task))}.")
        if not strengths or not all(0 < strength <= 1 for strength in strengths):
            raise ValueError(f"{here}.strengths={list(strengths)} must be noise levels in (0, 1], at least one.")
        if not gamma > 0:
            raise ValueError(f"{here}.gamma={gamma} must be above 0.")
        if not 0 < label_sum <= 1:
            raise ValueError(f"{here}.label_sum={label_sum} must be in (0, 1].")
        self.call: Call = "text_to_image" if task == "gen" else "image_to_image"
        if self.call not in generator.calls:
            raise ValueError(
                f"generator={type(generator).__name__} offers {', '.join(generator.calls)}, and this method needs "
                f"{self.call}: choose another generator."
            )
        known = {"name": "x", "superclass": "y"} | ({} if finetuning is None else {"token": "z"})
        try:
            prompt.format(**known)
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{here}.prompt={prompt!r} cannot be filled in ({error!r}): use {{name}} and {{superclass}}, and with "
                "a finetuning {token}."
            ) from error
        self.generator, self.finetuning, self.task = generator, finetuning, task
        self.scale, self.seed, self.prompt, self.filters = scale, seed, prompt, tuple(filters)
        self.strengths = (1.0,) if task == "gen" else tuple(float(strength) for strength in strengths)
        self.gamma, self.label_sum = float(gamma), float(label_sum)

    # --- what is drawn -----------------------------------------------------------------------------------------------

    def draws(self, samples: Sequence[Sample]) -> list[Draw]:
        """All draws from the training images, copy by copy.

        Each follows from the seed, its copy and its number; the sources are the same for all tasks.
        """
        by_class: dict[int, list[Sample]] = defaultdict(list)
        for sample in sorted(samples, key=lambda sample: sample.id):
            by_class[_label(sample)].append(sample)
        labels = sorted(by_class)
        found = []
        for copy in range(1, self.scale + 1):
            for number in range(len(samples)):
                rng = np.random.default_rng(derive(self.seed, "diff-mix", copy, number))
                label = labels[rng.integers(len(labels))]
                source = by_class[label][rng.integers(len(by_class[label]))]
                other = labels[rng.integers(len(labels))]
                strength = self.strengths[rng.integers(len(self.strengths))]
                found.append(Draw(copy, number, source, other if self.task == "mix" else label, strength))
        return found

    # --- what is made ------------------------------------------------------------------------------------------------

    def plan(self, samples: Sequence[Sample], dataset: Dataset, folder: Path) -> list[Stage]:
        """See :class:`genaug.methods.base.Synthesis`; a step of the fine-tuning counts once for each picture in it.

        Raises:
            ValueError: an image has several labels, or the model cannot be fine-tuned.
        """
        renderer = Translations(self, dataset, samples, dataset.image_size)
        jobs = [renderer.job(draw, (), renderer.square) for draw in self.draws(samples)]
        images = Stage("images", len(jobs), jobs, renderer.speed_key)
        if self.finetuning is None:
            return [images]
        self.finetuning.check(cast(Diffusion, self.generator))
        cost = self.finetuning.steps * self.finetuning.batch_size
        return [Stage("fine-tuning", 1, [Job(renderer.maker, self.finetuning.seed, steps=cost)]), images]

    def make(
        self, samples: Sequence[Sample], dataset: Dataset, folder: Path, side: int, runner: Runner
    ) -> SyntheticImages:
        """See :class:`genaug.methods.base.Synthesis`; sources larger than training needs are made smaller first.

        Raises:
            ValueError: the images are grey, have several labels, or the model cannot be fine-tuned.
        """
        if dataset.channels != 3:
            raise ValueError(
                f"Diff-Mix makes images in RGB, and dataset.channels={dataset.channels}: set dataset.channels=3."
            )
        draws = self.draws(samples)
        renderer = Translations(self, dataset, samples, side)
        if self.finetuning is not None:
            renderer.adapter = make_adapter(
                samples, dataset, self.finetuning, cast(Diffusion, self.generator), folder / "adapters", runner
            )
        jobs = renderer.jobs(draws)
        store = ImageStore(folder / "images" / renderer.store_name, renderer.description)
        ledger = runner.run(jobs, renderer, store, "images").report()
        about = Circumstances(samples, dataset, folder, runner.device)
        filtered = apply_filters(self.filters, candidates_of(store, jobs), about, store.root)
        more = {
            "ledger": {"images": ledger},
            "finetuning": renderer.adapter.report() if renderer.adapter else None,
        }
        label_of = {job.key: self._soft_label(draw) for job, draw in zip(jobs, draws, strict=True)}
        return SyntheticImages(
            store, jobs, dataset.classes, more, renderer.show, filtered=filtered,
            soft_label=lambda job: label_of[job.key],
        )  # fmt: skip

    def _soft_label(self, draw: Draw) -> tuple[tuple[int, float], ...]:
        return soft_label(_label(draw.source), draw.target, draw.strength, self.gamma, self.label_sum)


def soft_label(
    source: int, target: int, strength: float, gamma: float, label_sum: float = 1.0
) -> tuple[tuple[int, float], ...]:
    """Pairs of class and weight of an image; none where it is wholly of one class.

    >>> soft_label(3, 5, strength=0.25, gamma=0.5), soft_label(3, 3, strength=0.25, gamma=0.5)
    (((3, 0.5), (5, 0.5)), ())
    """
    if source == target:
        return () if label_sum == 1 else ((target, label_sum),)
    share = strength**gamma
    return (source, label_sum * (1 - share)), (target, label_sum * share)


def _label(sample: Sample) -> int:
    """The one class of a sample.

    Raises:
        ValueError: it has several, or none.
    """
    if isinstance(sample.label, tuple):
        raise ValueError(
            f"Diff-Mix makes images of one class into those of another, and the images of this data set may show "
            f"several ({sample.id}): choose another method."
        )
    return sample.label


class Translations:
    """Renders the jobs of :class:`DiffMix`.

    Args:
        method: Whose.
        dataset: For the names of classes, and the size of images made from words.
        samples: The sources.
        side: Pixels of a source's short side that are enough.

    Attributes:
        adapter: What the generator was fine-tuned to, once that is done.
    """

    def __init__(self, method: DiffMix, dataset: Dataset, samples: Sequence[Sample], side: int) -> None:
        self.method, self.dataset, self.side = method, dataset, side
        self.classes, self.superclasses = list(dataset.classes), list(dataset.superclasses)
        self.samples = {sample.id: sample for sample in samples}
        self.adapter: Adapter | None = None
        generator = method.generator
        self.batch_size = generator.batch_size
        self.square = generator.size_for(dataset.image_size, dataset.image_size)
        self.steps = {one: generator.denoiser_steps(method.call, one) for one in method.strengths}
        self.starts = {one: generator.start_timestep(method.call, one) for one in method.strengths}
        tuned = None if method.finetuning is None else dict(method.finetuning.settings)
        from_words = method.call == "text_to_image"
        self.description: dict[str, Any] = {
            "made_by": f"{VERSION} {method.task}",
            "generator": json_values({"fingerprint": generator.fingerprint, **generator.settings}),
            "settings": {"prompt": method.prompt, "side": None if from_words else side, "finetuning": tuned},
        }
        self.maker = json.dumps(self.description, sort_keys=True)
        self.description |= {"dataset": dataset.name, "classes": self.classes}
        name = content_key(json.dumps(self.description, sort_keys=True))[:12]
        self.store_name = f"{dataset.name}-diff-{method.task}-{name}"

    @property
    def speed_key(self) -> str:
        """See :class:`genaug.synthesis.runner.Renderer`; the plan, which does not know ``side``, must find it too."""
        method, data = self.method, self.dataset
        strengths = json.dumps(method.strengths)
        return f"{method.generator.fingerprint} {method.call} {strengths} {data.name} {data.image_size}"

    def jobs(self, draws: Sequence[Draw]) -> list[Job]:
        """A job for each draw."""
        adapter = () if self.adapter is None else (self.adapter.key,)
        if self.method.task == "gen":
            return [self.job(draw, adapter, self.square) for draw in draws]
        chosen = {draw.source.id: draw.source for draw in draws}
        keys = {name: content_key(source.path.read_bytes()) for name, source in chosen.items()}
        sizes = {name: shrunk_size(image_size(source.path), self.side) for name, source in chosen.items()}
        return [self.job(draw, (keys[draw.source.id], *adapter), sizes[draw.source.id]) for draw in draws]

    def job(self, draw: Draw, inputs: tuple[str, ...], size: tuple[int, int]) -> Job:
        """The job of a draw: an image of ``size`` (height, width), made from files of the content keys ``inputs``."""
        method, classes, edits = self.method, self.classes, self.method.task != "gen"
        return Job(
            maker=self.maker,
            seed=derive(method.seed, "diff-mix", method.task, draw.copy, draw.number),
            copy=draw.copy,
            label=draw.target,
            sources=(draw.source.id,) if edits else (),
            inputs=inputs,
            prompt=self._prompt(draw.target),
            shape=(method.call, draw.strength, *size),
            steps=self.steps[draw.strength],
            facts={
                "class": classes[draw.target],
                **({"source_class": classes[_label(draw.source)]} if edits else {}),
                "number": draw.number,
                "strength": draw.strength,
                "start_timestep": self.starts[draw.strength],
            },
        )

    def _prompt(self, label: int) -> str:
        """What the generator is told of a class."""
        name, superclass = self.classes[label].lower(), self.superclasses[label]
        return self.method.prompt.format(token=class_token(label), name=name, superclass=superclass)

    def load(self, device: str) -> None:
        """See :class:`genaug.synthesis.runner.Renderer`."""
        self.method.generator.load(device)
        if self.adapter is not None:
            self.adapter.add_to(self.method.generator)

    def unload(self) -> None:
        """See :class:`genaug.synthesis.runner.Renderer`."""
        self.method.generator.unload()

    def render(self, jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """See :class:`genaug.synthesis.runner.Renderer`; the strength is that of their shape."""
        generator, prompts = self.method.generator, [job.prompt for job in jobs]
        if self.method.task == "gen":
            return generator.text_to_image(prompts, list(seeds), self.square)
        sources = [read_shrunk(self.samples[job.sources[0]].path, self.side) for job in jobs]
        return generator.image_to_image(sources, prompts, list(seeds), jobs[0].facts["strength"])

    def verdict(self, job: Job, image: np.ndarray) -> str:
        """The size must be the one asked for."""
        return "ok" if image.shape[:2] == job.shape[2:] else f"size {image.shape[1]}x{image.shape[0]}"

    def show(self, job: Job) -> Mapping[str, np.ndarray]:
        """The source, under the names of the classes; of an image made from words there is nothing to show."""
        if not job.sources:
            return {}
        title = f"{job.facts['strength']}: {job.facts['source_class']} to {job.facts['class']}"
        return {title: read_shrunk(self.samples[job.sources[0]].path, self.side)}
