"""Fine-tuning on a data set of several classes: a LoRA of the denoiser and a new word for each class, in one run.

Diff-Mix (Wang et al. 2024, arXiv:2403.19600) joins what DreamBooth and textual inversion do: low-rank
factors beside the weights of all attention (Hu et al. 2022), and the vectors of the words, are learned together from
all classes at once, without images that keep what the model knew before.

What the published code does differently: it starts all words from one rare token (number 42170 of CLIP's vocabulary),
crops pictures at random instead of in their middle, samples latents instead of taking their means, and draws each
timestep by itself instead of one from each of ``batch_size`` equal parts.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genaug.console import track
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
from genaug.seeding import derive, lent_generator
from genaug.synthesis.store import write_atomically

#: Layers that get a LoRA: all of a denoiser's attention.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
#: Largest norm of the LoRA's gradient, as in Diff-Mix's code; that of the words is not clipped.
LARGEST_NORM = 1.0
#: How often a checkpoint is written.
CHECKPOINTS = 20


@dataclass(frozen=True)
class NewWord:
    """A word that is wanted.

    Attributes:
        token: Its name in prompts: in angle brackets, without capitals.
        superclass: What its class is one of, such as "bird"; its learning starts from that.
    """

    token: str
    superclass: str


@dataclass(frozen=True)
class FineTuned:
    """What was learned.

    Attributes:
        lora: Factors by name, as diffusers saves them.
        vectors: Of each token ``(1, dim)`` float32 for each text encoder of the model.
        first_loss: Mean over the first tenth of the steps.
        last_loss: Mean over the last tenth.
    """

    lora: Mapping[str, Tensor]
    vectors: Mapping[str, tuple[Tensor, ...]]
    first_loss: float
    last_loss: float


class FineTuning:
    """Settings of a fine-tuning, and its run.

    Args:
        rank: Of the LoRA's factors.
        steps: Optimizer steps.
        batch_size: Latents in a step.
        learning_rate: Of the LoRA.
        word_learning_rate: Of the words' vectors.
        weight_decay: Of both, AdamW's.
        prompt: Text of a picture, with ``{token}`` for the word and ``{superclass}``.
        mirror: Learn from the mirrored pictures, too.
        size: Pictures have as many pixels as a square of this side; None for as many as the generator makes.
        micro_batch_size: Latents that go through the denoiser at once; None for all of the batch. Takes less memory,
            and gives the same up to rounding.
        bfloat16: Compute a float32 denoiser in bfloat16 where that is safe; its weights stay as they are.
        seed: Of everything random.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        rank: int = 10,
        steps: int = 35_000,
        batch_size: int = 8,
        learning_rate: float = 5e-5,
        word_learning_rate: float = 5e-5,
        weight_decay: float = 1e-2,
        prompt: str = "a photo of a {token} {superclass}",
        mirror: bool = True,
        size: int | None = None,
        micro_batch_size: int | None = None,
        bfloat16: bool = False,
        seed: int = 0,
    ) -> None:
        counts = {
            "rank": rank,
            "steps": steps,
            "batch_size": batch_size,
            "size": size,
            "micro_batch_size": micro_batch_size,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"finetuning.{name} must be at least 1, got {count}")
        for name, rate in {"learning_rate": learning_rate, "word_learning_rate": word_learning_rate}.items():
            if not rate > 0:
                raise ValueError(f"finetuning.{name} must be above 0, got {rate}")
        if weight_decay < 0:
            raise ValueError(f"finetuning.weight_decay must not be negative, got {weight_decay}")
        if prompt.count("{token}") != 1 or "{" in prompt.replace("{token}", "").replace("{superclass}", ""):
            raise ValueError(
                f"finetuning.prompt={prompt!r} must have one {{token}}, and nothing else to fill in but {{superclass}}"
            )
        self.rank, self.steps, self.batch_size = rank, steps, batch_size
        self.learning_rate, self.word_learning_rate = learning_rate, word_learning_rate
        self.weight_decay, self.prompt, self.mirror, self.size = weight_decay, prompt, mirror, size
        self.micro_batch_size, self.bfloat16, self.seed = micro_batch_size, bfloat16, seed

    @property
    def settings(self) -> Mapping[str, Any]:
        """JSON values of every argument that changes what is learned."""
        names = (
            "rank", "steps", "batch_size", "learning_rate", "word_learning_rate", "weight_decay", "prompt", "mirror",
            "size", "bfloat16", "seed",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def check(self, generator: Diffusion) -> None:
        """Refuse a model that this is not made for, by its configuration; nothing is loaded.

        Raises:
            ValueError: says why not.
        """
        check_learnable(generator)

    def learn(
        self,
        generator: Diffusion,
        words: Sequence[NewWord],
        latents: Tensor,
        word_of: Tensor,
        checkpoint: Path | None = None,
    ) -> FineTuned:
        """Learn from latents; the generator is afterwards what it was, and knows neither LoRA nor words.

        Args:
            generator: Loaded.
            words: One a class.
            latents: ``(N, C, h, w)`` as the denoiser takes them, of one size.
            word_of: ``(N,)`` int64: the number of each latent's word.
            checkpoint: File that is written now and then, and gone on from if it is there.

        Raises:
            FloatingPointError: the loss is not finite.
            ValueError: the model or an argument is not fit for it.
            RuntimeError: the generator is not loaded.
        """
        self.check(generator)
        if not len(latents) or len(latents) != len(word_of):
            raise ValueError(f"{len(latents)} latents of {len(word_of)} words: one each is needed, and at least one")
        tokens = [word.token for word in words]
        prompts = [self.prompt.format(token=word.token, superclass=word.superclass) for word in words]
        # Gradients are needed wherever this is called: Lightning predicts in inference mode.
        with torch.inference_mode(False), torch.enable_grad(), contextlib.ExitStack() as stack:
            pipeline = generator.pipeline("image_to_image")
            check_weights(pipeline)
            encoders = [encoder for _, encoder in text_encoders(pipeline)]
            for module in (pipeline.unet, *encoders):
                stack.enter_context(frozen(module))
            for encoder in encoders:
                stack.enter_context(in_float32(encoder))
            begun = [first_vectors(pipeline, word.superclass, 1) for word in words]
            start = [torch.cat(rows) for rows in zip(*begun, strict=True)]
            vectors = stack.enter_context(trainable_words(pipeline, tokens, start))
            for token, prompt in zip(tokens, prompts, strict=True):
                check_length(pipeline, token, [prompt], 1)
            factors = stack.enter_context(trainable_lora(pipeline.unet, self.rank, derive(self.seed, "lora")))
            last = len(pipeline.scheduler.alphas_cumprod) - 1
            lesson = Lesson(pipeline, latents, prompts, last, self.batch_size, self.seed, word_of)
            losses = self._minimise(lesson, factors, vectors, checkpoint)
            rows = [table.detach().cpu().split(1) for table in vectors]
            return FineTuned(
                lora_factors(pipeline.unet), dict(zip(tokens, zip(*rows, strict=True), strict=True)), *ends(losses)
            )

    def _minimise(
        self,
        lesson: Lesson,
        factors: Sequence[nn.Parameter],
        vectors: Sequence[nn.Parameter],
        checkpoint: Path | None,
    ) -> list[float]:
        """Change factors and vectors step by step; the loss before each."""
        groups = [
            {"params": list(factors), "lr": self.learning_rate},
            {"params": list(vectors), "lr": self.word_learning_rate},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        # Gradients of a float16 denoiser would be rounded to 0.
        scaler = torch.amp.GradScaler(lesson.device.type, enabled=lesson.unet.dtype == torch.float16)
        training = _Training([*factors, *vectors], optimizer, scaler)
        if checkpoint is not None and checkpoint.exists():
            training.load(checkpoint)
        begun = len(training.losses)
        for step in track(range(begun, self.steps), self.steps - begun, "fine-tuning"):
            optimizer.zero_grad(set_to_none=True)
            loss = lesson.backward(step, self.micro_batch_size or self.batch_size, self.bfloat16, scaler)
            if not torch.tensor(loss).isfinite():
                raise FloatingPointError(
                    f"the loss of fine-tuning is {loss} at step {step}: lower finetuning.learning_rate, or compute in "
                    "another way (generator.dtype=bfloat16 or float32, finetuning.bfloat16=false)"
                )
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(factors, LARGEST_NORM)
            scaler.step(optimizer)
            scaler.update()
            training.losses.append(loss)
            if checkpoint is not None and (step + 1) % max(1, self.steps // CHECKPOINTS) == 0:
                training.save(checkpoint)
        return training.losses


class _Training:
    """How far a training has come; what it draws follows from the step alone.

    Args:
        parameters: All that change.
        optimizer: Of these.
        scaler: Of the loss.

    Attributes:
        losses: Of all steps that were made.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> None:
        self.parameters, self.optimizer, self.scaler = parameters, optimizer, scaler
        self.losses: list[float] = []

    def save(self, path: Path) -> None:
        """Write it down; a file that is there stays until the new one is whole."""
        buffer = io.BytesIO()
        tools = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        torch.save({"parameters": list(self.parameters), "losses": self.losses, **tools}, buffer)
        write_atomically(path, buffer.getvalue())

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Go on from what was written down."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
            parameter.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.losses = state["losses"]


@contextlib.contextmanager
def trainable_lora(unet: Any, rank: int, seed: int) -> Iterator[list[nn.Parameter]]:
    """Inside, the denoiser has a LoRA, which changes nothing yet, and whose factors are the parameters that are given.

    Args:
        unet: Its weights are frozen.
        rank: Of the factors, which are float32.
        seed: Of their first values.
    """
    from peft import LoraConfig

    # With an alpha that is the rank, the factors are all there is to know: the file needs no other numbers.
    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(TARGETS))
    with lent_generator(seed):
        unet.add_adapter(config)
    factors = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in factors:
        parameter.data = parameter.data.float()
    try:
        yield factors
    finally:
        unet.unload_lora()


def lora_factors(unet: Any) -> dict[str, Tensor]:
    """The factors of a denoiser's LoRA by name, on the CPU."""
    from peft.utils import get_peft_model_state_dict

    return {name: value.detach().cpu().contiguous() for name, value in get_peft_model_state_dict(unet).items()}
