"""Textual inversion (Gal et al. 2022, arXiv:2208.01618): a new word for what some pictures show.

Only the word's own vectors are learned (:func:`genaug.generation.lesson.trainable_words`).

Truncated timesteps are De-DA's (arXiv:2411.02592, eq. 3): a word that will only be used to edit pictures from timestep
T on is learned at the timesteps 0 to T alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genaug.generation.base import Call
from genaug.generation.diffusion import Diffusion, text_encoders
from genaug.generation.lesson import (
    Lesson,
    check_learnable,
    check_length,
    check_weights,
    ends,
    first_vectors,
    frozen,
    in_float32,
    trainable_words,
)

#: As diffusers names them, one for each text encoder.
FILES = ("learned_embeds.safetensors", "learned_embeds_2.safetensors")


@dataclass(frozen=True)
class Learned:
    """A learned word.

    Attributes:
        vectors: ``(n, dim)`` float32 for each text encoder of the model.
        first_loss: Mean over the first tenth of the steps.
        last_loss: Mean over the last tenth.
    """

    vectors: tuple[Tensor, ...]
    first_loss: float
    last_loss: float


class TextualInversion:
    """Settings of textual inversion, and the learning of one word.

    Args:
        vectors: Of a word, for each text encoder.
        steps: Optimizer steps.
        batch_size: Latents in a step; all different if there are as many.
        learning_rate: Of Adam. The vectors do not decay.
        truncated: Learn at the timesteps that an edit of the wanted strength visits, not at all of them.
        prompts: Texts with ``{}`` for the word, of which each latent gets a random one.
        mirror: Learn from the mirrored pictures, too.
        micro_batch_size: Latents that go through the denoiser at once; None for all of the batch. Takes less memory,
            and gives the same up to rounding.
        bfloat16: Compute a float32 denoiser in bfloat16 where that is safe; its weights stay as they are.
        seed: Of everything random.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        vectors: int = 1,
        steps: int = 400,
        batch_size: int = 32,
        learning_rate: float = 1e-4,
        truncated: bool = True,
        prompts: Sequence[str] = ("a photo of a {}",),
        mirror: bool = True,
        micro_batch_size: int | None = None,
        bfloat16: bool = False,
        seed: int = 0,
    ) -> None:
        counts = (("vectors", vectors), ("steps", steps), ("batch_size", batch_size))
        for name, value in (*counts, ("micro_batch_size", 1 if micro_batch_size is None else micro_batch_size)):
            if value < 1:
                raise ValueError(f"inversion.{name} must be at least 1, got {value}")
        if not learning_rate > 0:
            raise ValueError(f"inversion.learning_rate must be above 0, got {learning_rate}")
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        if wrong := [prompt for prompt in prompts or ("",) if prompt.count("{}") != 1]:
            raise ValueError(f"inversion.prompts must have one {{}} each, in the place of the word; got {wrong}")
        self.vectors, self.steps, self.batch_size, self.learning_rate = vectors, steps, batch_size, learning_rate
        self.truncated, self.prompts, self.mirror = truncated, prompts, mirror
        self.micro_batch_size, self.bfloat16, self.seed = micro_batch_size, bfloat16, seed

    @property
    def settings(self) -> Mapping[str, Any]:
        """JSON values of every argument that changes a word."""
        names = ("vectors", "steps", "batch_size", "learning_rate", "truncated", "mirror", "bfloat16", "seed")
        return {**{name: getattr(self, name) for name in names}, "prompts": list(self.prompts)}

    def check(self, generator: Diffusion) -> None:
        """Refuse a model that words cannot be learned for, by its configuration; nothing is loaded.

        Raises:
            ValueError: says why not.
        """
        check_learnable(generator)

    def last_timestep(self, generator: Diffusion, call: Call, strength: float) -> int:
        """The noisiest timestep that is learned at; all from 0 to it are equally likely.

        Args:
            generator: Whose words are learned.
            call: What they will be used for.
            strength: Of that call; where an edit really starts depends on the scheduler's steps, too.

        Raises:
            NotImplementedError: the generator does not offer the call.
            ValueError: see :meth:`check`, or ``strength`` is out of range.
        """
        self.check(generator)
        last = generator.schedule.train_timesteps - 1
        start = generator.start_timestep(call, strength)
        return last if start is None or not self.truncated else min(start, last)

    def learn(
        self, generator: Diffusion, call: Call, token: str, word: str, latents: Tensor, last_timestep: int, seed: int
    ) -> Learned:
        """Learn a word from latents; the generator is afterwards what it was, and does not know the word.

        Args:
            generator: Loaded.
            call: What the word will be used for: its denoiser is learned with.
            token: Name of the word, such as ``<jay>``: in angle brackets, without capitals.
            word: What the learning starts from, such as "bird".
            latents: ``(N, C, h, w)`` as the denoiser takes them, of one size.
            last_timestep: Noise is added up to this timestep of training.
            seed: Of timesteps, noise, and the choice of latents and prompts.

        Raises:
            FloatingPointError: the loss is not finite.
            ValueError: the model or an argument is not fit for it.
            RuntimeError: the generator is not loaded.
        """
        self.check(generator)
        # Gradients are needed wherever this is called: Lightning predicts in inference mode.
        with torch.inference_mode(False), torch.enable_grad(), contextlib.ExitStack() as stack:
            pipeline = generator.pipeline(call)
            check_weights(pipeline)
            if not len(latents) or not 0 <= last_timestep < len(pipeline.scheduler.alphas_cumprod):
                raise ValueError(f"nothing can be learned from {len(latents)} latents up to timestep {last_timestep}")
            encoders = [encoder for _, encoder in text_encoders(pipeline)]
            for module in (pipeline.unet, *encoders):
                stack.enter_context(frozen(module))
            for encoder in encoders:
                stack.enter_context(in_float32(encoder))
            vectors = stack.enter_context(
                trainable_words(pipeline, [token], first_vectors(pipeline, word, self.vectors))
            )
            prompts = [prompt.format(token) for prompt in self.prompts]
            check_length(pipeline, token, prompts, self.vectors)
            lesson = Lesson(pipeline, latents, prompts, last_timestep, self.batch_size, seed)
            losses = self._minimise(lesson, vectors)
            return Learned(tuple(vector.detach().cpu() for vector in vectors), *ends(losses))

    def _minimise(self, lesson: Lesson, vectors: Sequence[nn.Parameter]) -> list[float]:
        """Change ``vectors`` step by step; the loss before each."""
        optimizer = torch.optim.AdamW(vectors, lr=self.learning_rate, weight_decay=0.0)
        # Gradients of a float16 denoiser would be rounded to 0.
        scaler = torch.amp.GradScaler(lesson.device.type, enabled=lesson.unet.dtype == torch.float16)
        losses = []
        for step in range(self.steps):
            optimizer.zero_grad(set_to_none=True)
            losses.append(lesson.backward(step, self.micro_batch_size or self.batch_size, self.bfloat16, scaler))
            if not torch.tensor(losses[-1]).isfinite():
                raise FloatingPointError(
                    f"the loss of textual inversion is {losses[-1]} at step {step}: lower inversion.learning_rate, or "
                    "compute in another way (generator.dtype=bfloat16 or float32, inversion.bfloat16=false)"
                )
            scaler.step(optimizer)
            scaler.update()
        return losses


# --- files ---------------------------------------------------------------------------------------------------------


def to_files(token: str, vectors: Sequence[Tensor]) -> dict[str, bytes]:
    """Files that diffusers' ``load_textual_inversion`` reads, by name.

    Args:
        token: Name of the word.
        vectors: ``(n, dim)`` for each text encoder, of which there is one file each.

    Example:
        >>> files = to_files("<jay>", [torch.zeros(1, 4), torch.ones(1, 8)])
        >>> sorted(files)
        ['learned_embeds.safetensors', 'learned_embeds_2.safetensors']
    """
    from safetensors.torch import save

    return {name: save({token: rows.detach().cpu().contiguous()}) for name, rows in zip(FILES, vectors, strict=False)}


def from_files(paths: Sequence[Path]) -> tuple[Tensor, ...]:
    """The vectors of a word, ``(n, dim)`` for each text encoder.

    Args:
        paths: As :func:`to_files` names them, in its order.

    Raises:
        ValueError: a file holds something else.
    """
    from safetensors.torch import load_file

    found: list[Tensor] = []
    for path in paths:
        content = load_file(path)
        if len(content) != 1 or next(iter(content.values())).ndim != 2:
            raise ValueError(f"{path} is expected to hold the vectors of one word, it holds {sorted(content)}")
        found.extend(content.values())
    return tuple(found)
