"""DiffuseMix: label-preserving augmentation with diffusion models (Islam et al. 2024, arXiv:2405.14881).

Each image is edited into a style, with a prompt that names no class (section 3.2 "Generation"); one half of the image
is put beside the other half of the edit ("Concatenation"); and a fractal is blended into that ("Fractal blending"). The
label stays. Training sees the original images and all others.

A patent covers generating, concatenating and blending together: US 12657783 B1 (Mohamed bin Zayed University of
Artificial Intelligence, granted 2026). Whoever uses this method for more than research should look at it.

The paper's generator is InstructPix2Pix: ``generator=instruct_pix2pix generator.guidance=4 generator.size=256``, with
the published code's numbers. Any other that edits images will do, and takes the prompts for descriptions.

What the published code does differently (``method=diffusemix_published_code``): prompts are the bare styles, the
original is always the left or the upper half, and a strip of 20 pixels in pictures of 256 goes over from one half into
the other, where the paper's masks are of zeros and ones. It also drops pictures of which nine tenths are white, meaning
black ones: here every edit passes the gates that all made images pass. Its pictures are squares of 256 pixels; here an
edit is made of the squeezed image too, but comes back to the image's own size. Left open by the paper: the fractals,
which the authors give away (here: :mod:`genaug.functional.fractals`); and in which order an image gets the prompts
where it gets fewer than all (here: in a random order of its own).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from genaug.data.base import Dataset, Sample
from genaug.data.reading import read_image
from genaug.filtering.base import Filter
from genaug.functional.composite import resize
from genaug.functional.fractals import fractal
from genaug.functional.halves import Half, blend, half_weights
from genaug.generation.base import Generator
from genaug.seeding import derive
from genaug.synthesis.composites import CompositeRenderer
from genaug.synthesis.image_store import ImageStore
from genaug.synthesis.images import SyntheticImages, cost_of
from genaug.synthesis.jobs import Job, Stage
from genaug.synthesis.per_source import PerSource
from genaug.synthesis.runner import Runner
from genaug.synthesis.store import content_key

#: Raise it with every change of how a hybrid comes about: stores of another version are not used.
VERSION = "diffusemix-1"
STYLES = (
    "autumn", "snowy", "watercolor art", "sunset", "rainbow", "aurora", "mosaic", "ukiyo-e", "a sketch with crayon",
)  # fmt: skip
#: Noise level of generators that know one: the subject should stay, as it does with InstructPix2Pix.
STRENGTH = 0.4


class StyledHalves(PerSource):
    """n images of each real one: half of it beside half of an edit in another style, with a fractal over both.

    Edits and what is made of them are kept apart: other halves or fractals take no denoising.

    Args:
        generator: Edits.
        scale: Prompts for each image; see :class:`PerSource`. No prompt comes twice before all have come.
        seed: See :class:`PerSource`.
        styles: What the images are edited into.
        prompt: With ``{style}`` for the style; besides that see :class:`PerSource`.
        strength: See :class:`PerSource`; None for 1 where the generator edits by instruction, else for 0.4.
        halves: The halves that may be the original's, each as likely.
        seam: Width of the strip between the halves, see :func:`genaug.functional.halves.half_weights`.
        fractal: Share of the fractal in every pixel; 0 for none.
        filters: Judge the edits, see :class:`PerSource`; of an edit that is dropped nothing is made.
        workers: Threads that put images together.

    Raises:
        ValueError: see :class:`PerSource`; there are no styles or halves, or a share lies outside [0, 1].
    """

    call = "image_to_image"
    squeezed = True

    def __init__(
        self,
        generator: Generator,
        scale: int = len(STYLES),
        seed: int = 0,
        styles: Sequence[str] = STYLES,
        prompt: str = "A transformed version of image into {style}",
        strength: float | None = None,
        halves: Sequence[Half] = get_args(Half),
        seam: float = 0.0,
        fractal: float = 0.2,
        filters: Sequence[Filter] = (),
        workers: int = 2,
    ) -> None:
        here = "method.synthesis"
        if strength is None:
            strength = 1.0 if generator.by_instruction else STRENGTH
        super().__init__(generator, scale, seed, prompt.replace("{style}", "x"), strength, filters)
        if not styles or "{style}" not in prompt:
            raise ValueError(
                f"{here}.styles={list(styles)} must name one style or more, and {here}.prompt={prompt!r} must have "
                "{style} in their place."
            )
        if not halves or not set(halves) <= set(get_args(Half)):
            raise ValueError(f"{here}.halves={list(halves)} must be some of {', '.join(get_args(Half))}.")
        for name, value in {"seam": seam, "fractal": fractal}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{here}.{name}={value} must be a share in [0, 1].")
        self.prompt, self.styles, self.halves = prompt, tuple(styles), tuple(halves)
        self.seam, self.fractal, self.workers = float(seam), float(fractal), workers

    def style(self, sample_id: str, copy: int) -> str:
        """What a copy is edited into: all styles in a random order, then all again in another."""
        turn, place = divmod(copy - 1, len(self.styles))
        order = np.random.default_rng(derive(self.seed, "styles", sample_id, turn)).permutation(len(self.styles))
        return self.styles[order[place]]

    def half(self, sample_id: str, copy: int) -> Half:
        """The half of a copy that is the original's."""
        return self.halves[derive(self.seed, "half", sample_id, copy) % len(self.halves)]

    def wording(self, sample: Sample, copy: int) -> str:
        """The prompt with the style of a copy."""
        return self.prompt.replace("{style}", self.style(sample.id, copy))

    @property
    def wordings(self) -> Any:
        """The prompts of all styles."""
        return [self.prompt.replace("{style}", style) for style in self.styles]

    def plan(self, samples: Sequence[Sample], dataset: Dataset, folder: Path) -> list[Stage]:
        """See :meth:`PerSource.plan`; an edit that cannot be used leaves no hybrid."""
        (edits,) = super().plan(samples, dataset, folder)
        return [edits, Stage("hybrids", edits.count, speed_key=speed_key(dataset))]

    def make(
        self, samples: Sequence[Sample], dataset: Dataset, folder: Path, side: int, runner: Runner
    ) -> SyntheticImages:
        """See :meth:`PerSource.make`: edits, and then what is made of them."""
        edits = super().make(samples, dataset, folder, side, runner)
        renderer = Hybrids(self, dataset, samples, edits.store)
        kept = {one.id for one in edits.samples}
        jobs = [renderer.job(edit) for edit in edits.jobs if edit.key in kept]
        failed = [edit.label for edit in edits.jobs if edits.store[edit.key]["verdict"] != "ok"]
        store = ImageStore(folder / "images" / renderer.store_name, renderer.description)
        ledger = runner.run(jobs, renderer, store, "hybrids").report()
        more = {
            "cost": {"images": cost_of(edits.store, edits.jobs), "hybrids": cost_of(store, jobs)},
            "ledger": {**edits.more["ledger"], "hybrids": ledger},
        }
        return SyntheticImages(store, jobs, dataset.classes, more, renderer.show, failed, edits.filtered)

    def draw(self, images: Sequence[np.ndarray], jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """See :meth:`PerSource.draw`."""
        return self.generator.image_to_image(images, [job.prompt for job in jobs], seeds, self.strength)


def speed_key(dataset: Dataset) -> str:
    """Hybrids have the size of their sources, which differs from data set to data set."""
    return f"hybrids of {dataset.name}"


class Hybrids(CompositeRenderer):
    """Puts halves together and blends fractals in, several at a time.

    Args:
        settings: How.
        dataset: For the description.
        samples: The originals.
        edits: Store of the edits.
    """

    def __init__(self, settings: StyledHalves, dataset: Dataset, samples: Sequence[Sample], edits: ImageStore) -> None:
        super().__init__(settings.workers)
        self.settings, self.edits, self.speed_key = settings, edits, speed_key(dataset)
        self.samples = {sample.id: sample for sample in samples}
        shares = {"seam": settings.seam, "fractal": settings.fractal}
        self.description: dict[str, Any] = {"made_by": VERSION, "settings": {"halves": list(settings.halves), **shares}}
        self.maker = json.dumps(self.description, sort_keys=True)
        self.description |= {"dataset": dataset.name, "classes": list(dataset.classes)}
        self.store_name = f"{dataset.name}-diffusemix-{content_key(json.dumps(self.description, sort_keys=True))[:12]}"

    def job(self, edit: Job) -> Job:
        """What is made of an edit; its content key stands for the original, too."""
        (source,) = edit.sources
        style, half = self.settings.style(source, edit.copy), self.settings.half(source, edit.copy)
        return Job(
            maker=self.maker,
            seed=derive(self.settings.seed, "hybrid", source, edit.copy),
            copy=edit.copy,
            label=edit.label,
            sources=edit.sources,
            inputs=(edit.key,),
            prompt=edit.prompt,
            facts={**edit.facts, "edit": edit.key, "style": style, "original": half},
        )

    def compose(self, job: Job, seed: int) -> np.ndarray:
        """See :meth:`CompositeRenderer.compose`."""
        original, edit = self._inputs(job)
        height, width = edit.shape[:2]
        hybrid = blend(original, edit, half_weights(height, width, job.facts["original"], self.settings.seam))
        share = self.settings.fractal
        return blend(hybrid, fractal(seed, height, width), share) if share else hybrid

    def _inputs(self, job: Job) -> tuple[np.ndarray, np.ndarray]:
        """The original at the size of its edit, and the edit."""
        edit = self.edits.image(job.facts["edit"])
        original = read_image(self.samples[job.sources[0]].path, channels=3)
        return resize(original, edit.shape[1], edit.shape[0]), edit

    def show(self, job: Job) -> Mapping[str, np.ndarray]:
        """The original, and the edit under its prompt."""
        original, edit = self._inputs(job)
        return {"original": original, job.prompt: edit}
