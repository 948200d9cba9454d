"""Pictures made from words alone: jobs and their renderer, for every method that needs scenes or images from text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genaug.generation.base import Generator
from genaug.synthesis.jobs import Job, Label
from genaug.synthesis.store import content_key


class TextImages:
    """Renders jobs whose prompt is all there is.

    Args:
        generator: Makes the pictures.
        size: Height and width of a picture, as the generator takes them.
    """

    def __init__(self, generator: Generator, size: tuple[int, int]) -> None:
        self.generator, self.size, self.batch_size = generator, size, generator.batch_size

    @property
    def speed_key(self) -> str:
        """See :class:`genaug.synthesis.runner.Renderer`."""
        return f"{self.generator.fingerprint} text_to_image {self.size[0]}x{self.size[1]}"

    @property
    def description(self) -> dict[str, Any]:
        """For a store of these pictures."""
        size = f"{self.size[1]}x{self.size[0]}"
        return {
            "made_by": self.generator.fingerprint,
            "generator": json_values(self.generator.settings),
            "size": size,
        }

    @property
    def store_name(self) -> str:
        """Of a folder shared by all methods that ask this generator for pictures of this size."""
        return content_key(json.dumps(self.description, sort_keys=True))[:16]

    def job(
        self,
        prompt: str,
        seed: int,
        *,
        copy: int = 1,
        label: Label = 0,
        sources: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> Job:
        """A job for a picture of ``prompt``; see :class:`Job` for the rest."""
        return Job(
            maker=self.generator.fingerprint,
            seed=seed,
            copy=copy,
            label=label,
            sources=tuple(sources),
            prompt=prompt,
            shape=("text_to_image", *self.size),
            steps=self.generator.denoiser_steps("text_to_image"),
            facts=facts or {},
        )

    def load(self, device: str) -> None:
        """See :class:`genaug.synthesis.runner.Renderer`."""
        self.generator.load(device)

    def unload(self) -> None:
        """See :class:`genaug.synthesis.runner.Renderer`."""
        self.generator.unload()

    def render(self, jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """See :class:`genaug.synthesis.runner.Renderer`."""
        return self.generator.text_to_image([job.prompt for job in jobs], list(seeds), self.size)

    def verdict(self, job: Job, image: np.ndarray) -> str:
        """The size must be the one asked for."""
        return "ok" if image.shape[:2] == self.size else f"size {image.shape[1]}x{image.shape[0]}"


def json_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` as they come back from a JSON file."""
    return json.loads(json.dumps(dict(settings)))
