"""Textual inversion (Gal et al. 2022, arXiv:2208.01618): a new word for what some pictures show.

Only the word's own vectors are learned. They are put in the place of the word's tokens where the text encoder looks its
tokens up, so no weight of the model and no row of its vocabulary is touched, and nothing has to be put back.

Truncated timesteps are De-DA's (arXiv:2411.02592, eq. 3): a word that will only be used to edit pictures from timestep
T on is learned at the timesteps 0 to T alone.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from genaug.generation.base import Call
from genaug.generation.diffusion import Diffusion, text_encoders
from genaug.generation.model_files import read_config
from genaug.seeding import derive

#: As diffusers names them, one for each text encoder.
FILES = ("learned_embeds.safetensors", "learned_embeds_2.safetensors")
#: What a word of ours looks like: no such word is a part of another one or of a text.
TOKEN = re.compile(r"<[^<>\sA-Z]+>")
#: Further inputs of a denoiser that it can be given here: none, the text again, the text and the picture's size.
_CONDITIONS = (None, "text", "text_time")
_PREDICTIONS = ("epsilon", "v_prediction")


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
        if not isinstance(generator, Diffusion):
            raise ValueError(f"words are learned for diffusion models; {type(generator).__name__} is none")
        if generator.cpu_offload:
            raise ValueError("words need the whole model on the device to be learned: set generator.cpu_offload=false")
        index = read_config(generator.model, "model_index.json")
        if "unet" not in index:
            raise ValueError(
                f"{generator.model} ({index['_class_name']}) has no U-Net: textual inversion is made for Stable "
                "Diffusion 1, 2 and XL, not for transformers trained with flow matching. Choose such a generator."
            )
        unet, vae = (read_config(generator.model, f"{part}/config.json") for part in ("unet", "vae"))
        if unet["in_channels"] != vae["latent_channels"] or unet.get("addition_embed_type") not in _CONDITIONS:
            raise ValueError(
                f"the denoiser of {generator.model} takes more than noised latents and a text, as those for inpainting "
                "or editing by instruction do: words are learned with the plain text-to-image model."
            )

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
            _check_weights(pipeline)
            if not len(latents) or not 0 <= last_timestep < len(pipeline.scheduler.alphas_cumprod):
                raise ValueError(f"nothing can be learned from {len(latents)} latents up to timestep {last_timestep}")
            encoders = [encoder for _, encoder in text_encoders(pipeline)]
            for module in (pipeline.unet, *encoders):
                stack.enter_context(_frozen(module))
            for encoder in encoders:
                stack.enter_context(_in_float32(encoder))
            vectors = stack.enter_context(trainable_word(pipeline, token, first_vectors(pipeline, word, self.vectors)))
            prompts = [prompt.format(token) for prompt in self.prompts]
            _check_length(pipeline, prompts, token, self.vectors)
            lesson = _Lesson(pipeline, latents, prompts, last_timestep, self.batch_size, seed)
            losses = self._minimise(lesson, vectors)
            return Learned(
                tuple(vector.detach().cpu() for vector in vectors), _mean(losses[: _tenth(losses)]),
                _mean(losses[-_tenth(losses) :]),
            )  # fmt: skip

    def _minimise(self, lesson: _Lesson, vectors: Sequence[nn.Parameter]) -> list[float]:
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


class _Lesson:
    """What is learned from, and the loss of a step.

    Args:
        pipeline: Knows the new word; weights are frozen.
        latents: ``(N, C, h, w)``.
        prompts: Texts with the word.
        last_timestep: The noisiest.
        batch_size: Latents in a step.
        seed: Of everything random.
    """

    def __init__(
        self, pipeline: Any, latents: Tensor, prompts: Sequence[str], last_timestep: int, batch_size: int, seed: int
    ) -> None:
        self.pipeline, self.unet, self.prompts = pipeline, pipeline.unet, list(prompts)
        self.device: torch.device = pipeline.unet.device
        # A copy: latents that were made in inference mode cannot be used where gradients are.
        self.latents = latents.detach().to("cpu", torch.float32, copy=True)
        self.last_timestep, self.batch_size, self.seed = last_timestep, batch_size, seed
        self.signal = pipeline.scheduler.alphas_cumprod.to("cpu", torch.float32)
        self.velocity = pipeline.scheduler.config.prediction_type == "v_prediction"
        self.sized = pipeline.unet.config.addition_embed_type == "text_time"

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents ``(B, C, h, w)``, their noise, timesteps ``(B,)`` and numbers of prompts ``(B,)`` of a step.

        All on the CPU, so that they are the same on every device. There is one timestep in each of ``B`` equal parts of
        the range: the loss varies less than with independent ones.
        """
        generator, size = torch.Generator().manual_seed(derive(self.seed, "step", step)), self.batch_size
        count = len(self.latents)
        orders = [torch.randperm(count, generator=generator) for _ in range(-(-size // count))]
        latents = self.latents[torch.cat(orders)[:size]]
        even = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        timesteps = (even * (self.last_timestep + 1)).long().clamp(max=self.last_timestep)
        prompts = torch.randint(len(self.prompts), (size,), generator=generator)
        return latents, torch.randn(latents.shape, generator=generator), timesteps, prompts

    def backward(self, step: int, at_once: int, bfloat16: bool, scaler: torch.amp.GradScaler) -> float:
        """Add the gradient of a step to the word's vectors; its loss.

        Args:
            step: Number of the step.
            at_once: Latents that go through the denoiser together.
            bfloat16: See :class:`TextualInversion`.
            scaler: Multiplies the loss.
        """
        latents, noise, timesteps, numbers = self.draw(step)
        used, rows = numbers.unique(return_inverse=True)
        # The text encoder runs once for each text, and its graph is gone through once, after all micro batches.
        texts = self.encode([self.prompts[number] for number in used])
        leaves = [text.detach().requires_grad_() for text in texts]
        loss = torch.zeros((), device=self.device)
        for part in torch.arange(len(latents)).split(at_once):
            with self._computing(bfloat16):
                errors = self.errors(latents[part], noise[part], timesteps[part], [leaf[rows[part]] for leaf in leaves])
            share = errors.sum() / len(latents)
            scaler.scale(share).backward()
            loss += share.detach()
        torch.autograd.backward(texts, [leaf.grad for leaf in leaves])
        return float(loss)

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """The text as the denoiser takes it, ``(n, L, D)``; where that takes the picture's size, also ``(n, P)``."""
        encoded = self.pipeline.encode_prompt(
            list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return [encoded[0], encoded[2]] if self.sized else [encoded[0]]

    def errors(self, latents: Tensor, noise: Tensor, timesteps: Tensor, texts: Sequence[Tensor]) -> Tensor:
        """Mean squared error ``(B,)`` of what the denoiser says of noised latents: the noise, or the velocity.

        Args:
            latents: ``(B, C, h, w)``.
            noise: As ``latents``.
            timesteps: ``(B,)``.
            texts: As of :meth:`encode`, a row a latent.
        """
        signal = self.signal[timesteps].view(-1, 1, 1, 1)
        noised = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        target = signal.sqrt() * noise - (1 - signal).sqrt() * latents if self.velocity else noise
        dtype, more = self.unet.dtype, {}
        if self.sized:
            factor = self.pipeline.vae_scale_factor
            height, width = (side * factor for side in latents.shape[2:])
            sizes = torch.tensor([[height, width, 0, 0, height, width]], device=self.device, dtype=dtype)
            more = {"text_embeds": texts[1].to(dtype), "time_ids": sizes.expand(len(latents), -1)}
        found = self.unet(
            noised.to(self.device, dtype),
            timesteps.to(self.device),
            encoder_hidden_states=texts[0].to(dtype),
            added_cond_kwargs=more,
            return_dict=False,
        )[0]
        return (found.float() - target.to(self.device)).square().mean((1, 2, 3))

    @contextlib.contextmanager
    def _computing(self, bfloat16: bool) -> Iterator[None]:
        """How the denoiser is computed."""
        with contextlib.ExitStack() as stack:
            if bfloat16 and self.unet.dtype == torch.float32:
                stack.enter_context(torch.autocast(self.device.type, torch.bfloat16))
                if self.device.type == "cpu":  # in bfloat16 the backward pass of fused attention is slower there
                    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield


# --- a word that can be trained ------------------------------------------------------------------------------------


def first_vectors(pipeline: Any, word: str, count: int) -> list[Tensor]:
    """Vectors ``(count, dim)`` float32 of ``word`` for each text encoder, to start from.

    A tokenizer may cut a word into pieces: a single vector is the mean of theirs, and of several the i-th is that of
    piece i, beginning again after the last.

    Raises:
        ValueError: there is nothing in ``word``.
    """
    found = []
    for tokenizer, encoder in text_encoders(pipeline):
        pieces = tokenizer(word, add_special_tokens=False).input_ids
        if not pieces:
            raise ValueError(f"textual inversion starts from a word such as 'bird', got {word!r}")
        table = encoder.get_input_embeddings().weight.detach()
        rows = table[torch.tensor(pieces, device=table.device)].float()
        found.append(rows.mean(0, keepdim=True) if count == 1 else rows[torch.arange(count) % len(pieces)])
    return found


@contextlib.contextmanager
def trainable_word(pipeline: Any, token: str, start: Sequence[Tensor]) -> Iterator[list[nn.Parameter]]:
    """Inside, prompts of ``pipeline`` know the word ``token``, whose vectors are the parameters that are given.

    Tokenizers are exchanged for copies that know it, and the text encoders get its vectors where they look up rows.

    Args:
        pipeline: Of diffusers.
        token: See :meth:`TextualInversion.learn`.
        start: ``(n, dim)`` for each text encoder.

    Raises:
        ValueError: ``token`` is not a name for a word, or known already.
    """
    if not TOKEN.fullmatch(token):
        raise ValueError(f"a new word is named in angle brackets and without capitals, such as <jay>; got {token!r}")
    parameters = []
    with contextlib.ExitStack() as stack:
        for name, value in pipeline.components.items():
            if name.startswith("tokenizer") and value is not None:
                stack.callback(setattr, pipeline, name, value)
                setattr(pipeline, name, copy.deepcopy(value))
        for (tokenizer, encoder), rows in zip(text_encoders(pipeline), start, strict=True):
            first, names = len(tokenizer), [token, *(f"{token}_{number}" for number in range(1, len(rows)))]
            if tokenizer.add_tokens(names) != len(names):
                raise ValueError(f"{token} is a word that the generator knows already: unload it, or use another name")
            parameters.append(nn.Parameter(rows.detach().clone()))
            found = _Rows(first, parameters[-1])
            embedding = encoder.get_input_embeddings()
            stack.enter_context(embedding.register_forward_pre_hook(found.hide))
            stack.enter_context(embedding.register_forward_hook(found.show))
        yield parameters


class _Rows:
    """Hooks of an embedding: rows beyond its own.

    Args:
        first: Number of the first.
        vectors: ``(n, dim)``.
    """

    def __init__(self, first: int, vectors: nn.Parameter) -> None:
        self.first, self.vectors = first, vectors
        self._places = torch.empty(0)

    def hide(self, embedding: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """Before: any row of the embedding's own in their place."""
        self._places = inputs[0] - self.first
        return (inputs[0].where(self._places < 0, 0),)

    def show(self, embedding: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """After: the vectors where they belong."""
        rows = self.vectors[self._places.clamp(min=0)].to(output.dtype)
        return torch.where((self._places >= 0)[..., None], rows, output)


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no weight of ``module`` gets a gradient."""
    live = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in live:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in live:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _in_float32(module: Any) -> Iterator[None]:
    """Inside, a text encoder of half precision computes in float32; its weights come back to the bit."""
    dtype = module.dtype
    if dtype == torch.float32:
        yield
        return
    module.float()
    try:
        yield
    finally:
        module.to(dtype)


# --- checks --------------------------------------------------------------------------------------------------------


def _check_weights(pipeline: Any) -> None:
    """What only the loaded model tells.

    Raises:
        ValueError: words cannot be learned with it.
    """
    if hasattr(pipeline.unet, "_hf_hook"):
        raise ValueError("words cannot be learned while parts of the model wait elsewhere: generator.cpu_offload=false")
    kind = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if kind not in _PREDICTIONS or not hasattr(pipeline.scheduler, "alphas_cumprod"):
        raise ValueError(
            f"words are learned with models that predict noise or velocity under a schedule of diffusion; "
            f"{type(pipeline.scheduler).__name__} here says {kind!r}"
        )


def _check_length(pipeline: Any, prompts: Sequence[str], token: str, count: int) -> None:
    """Refuse prompts that are cut off before the word has ended.

    Raises:
        ValueError: one is.
    """
    for tokenizer, _ in text_encoders(pipeline):
        for prompt in prompts:
            text = pipeline.maybe_convert_prompt(prompt, tokenizer)
            ids = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids
            if sum(number >= len(tokenizer) - count for number in ids) != count:
                raise ValueError(
                    f"with {count} vectors {token} does not fit into {prompt!r}: a prompt has "
                    f"{tokenizer.model_max_length} tokens. Lower inversion.vectors or shorten inversion.prompts."
                )


def _tenth(values: Sequence[float]) -> int:
    return max(1, len(values) // 10)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


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
