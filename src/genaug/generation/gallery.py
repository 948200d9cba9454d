"""Real pictures in place of a model that would make them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genaug.data.folder import IMAGE_SUFFIXES
from genaug.data.reading import read_image
from genaug.generation.base import Call, Generator
from genaug.generation.diffusion import check_counts
from genaug.generation.model_files import files_digest


class Gallery(Generator):
    """Answers a prompt with a picture from a folder: backgrounds without a diffusion model.

    A picture of a kind that the prompt names, by any word of the kind's name, where there is one; otherwise any. Which
    one, and which part of it, follows from the seed alone.

    Args:
        folder: ``folder/<kind>/*.jpg``, where kinds are such as "windmill" or "baseball_field", or ``folder/*.jpg``.

    Raises:
        FileNotFoundError: there is no such folder or no picture in it.
    """

    calls = ("text_to_image",)
    batch_size = 32

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        found = (path.relative_to(folder) for pattern in ("*", "*/*") for path in self.folder.glob(pattern))
        self.pictures = sorted(path for path in found if _is_picture(path))
        if not self.pictures:
            came = "no picture in it" if self.folder.is_dir() else "no such folder"
            raise FileNotFoundError(
                f"generator=gallery expects pictures in {self.folder}/<kind>/*.jpg or {self.folder}/*.jpg, and there "
                f"is {came}: pass generator.folder=/path/to/pictures."
            )
        kinds = {path.parent.name for path in self.pictures} - {""}
        self._kinds_by_word = {
            word: {kind for kind in kinds if word in _words(kind)} for word in _words(" ".join(kinds))
        }

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """A hash of the pictures, wherever the folder is."""
        return {"pictures": files_digest(self.folder, self.pictures, blocks=1)}

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """Any size."""
        return height, width

    def denoiser_steps(self, call: Call, strength: float = 1.0) -> int:
        """None."""
        return 0

    def start_timestep(self, call: Call, strength: float = 1.0) -> int | None:
        """There is none."""
        return None

    def text_to_image(
        self, prompts: Sequence[str], seeds: Sequence[int], size: tuple[int, int]
    ) -> list[np.ndarray | None]:
        """Pick a picture for each prompt, and of it the largest part of the size's aspect, at a random place.

        Raises:
            ImageError: a picture cannot be read; the message names it.
        """
        check_counts(prompts, seeds)
        return [self._pick(prompt, seed, size) for prompt, seed in zip(prompts, seeds, strict=True)]

    def candidates(self, prompt: str) -> list[Path]:
        """The pictures, relative to the folder, of the kinds that a prompt names; all where it names none."""
        kinds = set().union(*(self._kinds_by_word.get(word, set()) for word in _words(prompt)))
        return [path for path in self.pictures if path.parent.name in kinds] or self.pictures

    def _pick(self, prompt: str, seed: int, size: tuple[int, int]) -> np.ndarray:
        rng = np.random.default_rng(seed)
        pictures = self.candidates(prompt)
        picture = read_image(self.folder / pictures[rng.integers(len(pictures))])
        (rows, columns), (height, width) = picture.shape[:2], size
        scale = min(rows / height, columns / width)
        top, left = rng.uniform(size=2) * (rows - height * scale, columns - width * scale)
        box = (left, top, min(left + width * scale, columns), min(top + height * scale, rows))
        return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS, box=box))


def _words(text: str) -> set[str]:
    """Words in lower case.

    >>> sorted(_words("A baseball_field, at noon."))
    ['a', 'at', 'baseball', 'field', 'noon']
    """
    return set(re.findall(r"[^\W_]+", text.lower()))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
