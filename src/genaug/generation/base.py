"""The contract of everything that makes images from words or from other images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from genaug.synthesis.store import fingerprint

Call = Literal["text_to_image", "image_to_image", "inpaint", "edit_transparent"]


class Generator(ABC):
    """Makes images; one load serves all calls.

    Building one is cheap: arguments are checked and local files looked for. Weights are loaded by :meth:`load`, onto
    the device it names. An image depends on its own prompt, seed and inputs, not on the others of its batch.

    All images are ``(H, W, 3)`` uint8 RGB, unless it is said that they are transparent. An entry of an answer is
    ``None`` where the model gave NaN or infinity.

    Attributes:
        batch_size: How many images are asked for at once, at most.
        calls: Which of the calls it offers; the others raise ``NotImplementedError``.
        by_instruction: Whether a prompt says what to do to an image ("make it snow"), not what it is to show; such a
            generator takes no strength but 1.
    """

    batch_size: int = 1
    by_instruction: bool = False
    calls: tuple[Call, ...] = ("text_to_image", "image_to_image", "inpaint")

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """JSON values of every argument that changes an image, the weights among them; not those of speed alone."""

    @cached_property
    def fingerprint(self) -> str:
        """Class name and a hash of class and settings: part of the name of every image that is made."""
        return fingerprint(self, self.settings)

    @property
    def transparent_settings(self) -> Mapping[str, Any]:
        """As :attr:`settings`, for all that changes transparent images and no others."""
        return {}

    def check_transparent(self) -> None:
        """Find out, without weights, that transparent images cannot be edited.

        Raises:
            NotImplementedError: the generator does not offer it.
            FileNotFoundError: something that it takes can neither be found nor fetched.
            ValueError: the model does not go with what was chosen for transparent images.
        """
        if "edit_transparent" not in self.calls:
            raise NotImplementedError(f"{type(self).__name__} edits no transparent images")

    def load(self, device: str) -> None:  # noqa: B027 - a generator without weights has nothing to load
        """Load the weights onto ``device`` ("cpu", "cuda:1"); the second time nothing happens."""

    def unload(self) -> None:  # noqa: B027 - see load
        """Give up the weights and the memory they take; :meth:`load` gets them again."""

    @abstractmethod
    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels that a picture for a place of ``height`` x ``width`` is made at.

        The nearest size the model takes; the aspect is kept as well as its steps allow.
        """

    def transparent_side(self, side: int) -> int:
        """Side in pixels of the square that a transparent picture for a square of ``side`` pixels is edited at."""
        raise NotImplementedError(f"{type(self).__name__} edits no transparent images")

    @abstractmethod
    def denoiser_steps(self, call: Call, strength: float = 1.0) -> int:
        """Denoiser steps one image costs (a step with guidance counts once); known without loading anything."""

    @abstractmethod
    def start_timestep(self, call: Call, strength: float = 1.0) -> int | None:
        """Training timestep the denoising really starts at, of ``num_train_timesteps``; None where there is none."""

    def text_to_image(
        self, prompts: Sequence[str], seeds: Sequence[int], size: tuple[int, int]
    ) -> list[np.ndarray | None]:
        """Make an image for each prompt.

        Args:
            prompts: One an image.
            seeds: One an image.
            size: Height and width, as :meth:`size_for` gives them.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no images from text")

    def image_to_image(
        self, images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int], strength: float
    ) -> list[np.ndarray | None]:
        """Edit each image (SDEdit): noise it to ``strength`` and denoise it with its prompt.

        Args:
            images: All of one size; each comes back at that size.
            prompts: One an image.
            seeds: One an image.
            strength: Noise level in (0, 1]: the share of the training timesteps at which denoising starts.
        """
        raise NotImplementedError(f"{type(self).__name__} does not edit images")

    def inpaint(
        self,
        images: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        prompts: Sequence[str],
        seeds: Sequence[int],
        strength: float = 1.0,
    ) -> list[np.ndarray | None]:
        """Repaint the part of each image that its mask covers.

        Args:
            images: All of one size; each comes back at that size.
            masks: ``(H, W)`` bool each, True where the image is to be repainted; every other pixel comes back as it
                was.
            prompts: One an image.
            seeds: One an image.
            strength: Noise level in (0, 1], as in :meth:`image_to_image`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not inpaint")

    def edit_transparent(
        self, images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int], strength: float
    ) -> list[np.ndarray | None]:
        """Edit images with an alpha channel, as :meth:`image_to_image` edits those without one.

        Args:
            images: ``(H, W, 4)`` uint8 RGBA each, all of one size, colours not multiplied by alpha; sides as
                :meth:`transparent_side` gives them.
            prompts: One an image.
            seeds: One an image.
            strength: Noise level in (0, 1], as in :meth:`image_to_image`.

        Returns:
            ``(H, W, 4)`` uint8 RGBA each.
        """
        raise NotImplementedError(f"{type(self).__name__} edits no transparent images")

    def add_words(self, words: Mapping[str, Sequence[Tensor]]) -> None:
        """New words for prompts (textual inversion), until :meth:`unload`; those known already are skipped.

        Args:
            words: By word, its vectors ``(n, dim)`` for each text encoder of the model.
        """
        raise NotImplementedError(f"{type(self).__name__} learns no words")

    def add_lora(self, file: Path) -> None:
        """Work a LoRA into the denoiser, for all calls, until :meth:`unload`; the second time nothing happens.

        Args:
            file: In any layout that diffusers reads.
        """
        raise NotImplementedError(f"{type(self).__name__} takes no LoRA")
