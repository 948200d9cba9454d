"""What learning from the noise that a diffusion model predicts takes: lessons, words that can be trained, checks.

Words are put in the place of their tokens where the text encoder looks its tokens up, so no weight of the model and no
row of its vocabulary is touched, and nothing has to be put back.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from genaug.generation.diffusion import Diffusion, text_encoders
from genaug.generation.model_files import read_config
from genaug.seeding import derive

#: What a word of ours looks like: no such word is a part of another one or of a text.
TOKEN = re.compile(r"<[^<>\sA-Z]+>")
#: Further inputs of a denoiser that it can be given here: none, the text again, the text and the picture's size.
_CONDITIONS = (None, "text", "text_time")
_PREDICTIONS = ("epsilon", "v_prediction")


class Lesson:
    """What is learned from, and the loss of a step.

    Args:
        pipeline: Knows the new words; weights are frozen.
        latents: ``(N, C, h, w)``.
        prompts: Texts with words.
        last_timestep: The noisiest.
        batch_size: Latents in a step.
        seed: Of everything random.
        prompt_of: ``(N,)`` int64, the number of each latent's prompt; None draws one for it in each step.
    """

    def __init__(
        self,
        pipeline: Any,
        latents: Tensor,
        prompts: Sequence[str],
        last_timestep: int,
        batch_size: int,
        seed: int,
        prompt_of: Tensor | None = None,
    ) -> None:
        self.pipeline, self.unet, self.prompts = pipeline, pipeline.unet, list(prompts)
        self.device: torch.device = pipeline.unet.device
        # A copy: latents that were made in inference mode cannot be used where gradients are.
        self.latents = latents.detach().to("cpu", torch.float32, copy=True)
        self.last_timestep, self.batch_size, self.seed = last_timestep, batch_size, seed
        self.prompt_of = prompt_of
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
        chosen = torch.cat(orders)[:size]
        latents = self.latents[chosen]
        even = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        timesteps = (even * (self.last_timestep + 1)).long().clamp(max=self.last_timestep)
        drawn = torch.randint(len(self.prompts), (size,), generator=generator)
        prompts = drawn if self.prompt_of is None else self.prompt_of[chosen]
        return latents, torch.randn(latents.shape, generator=generator), timesteps, prompts

    def backward(self, step: int, at_once: int, bfloat16: bool, scaler: torch.amp.GradScaler) -> float:
        """Add the gradient of a step to whatever is learned; its loss.

        Args:
            step: Number of the step.
            at_once: Latents that go through the denoiser together.
            bfloat16: Compute a float32 denoiser in bfloat16 where that is safe.
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


# --- words that can be trained -------------------------------------------------------------------------------------


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
def trainable_words(pipeline: Any, tokens: Sequence[str], start: Sequence[Tensor]) -> Iterator[list[nn.Parameter]]:
    """Inside, prompts of ``pipeline`` know the words ``tokens``, whose vectors are the parameters that are given.

    Tokenizers are exchanged for copies that know them, and the text encoders get their vectors where they look up rows.

    Args:
        pipeline: Of diffusers.
        tokens: Names in angle brackets and without capitals.
        start: For each text encoder ``(N * n, dim)``: the n vectors of the first word, those of the second, ...

    Raises:
        ValueError: a token is not a name for a word, or known already.
    """
    for token in tokens:
        if not TOKEN.fullmatch(token):
            raise ValueError(
                f"a new word is named in angle brackets and without capitals, such as <jay>; got {token!r}"
            )
    parameters = []
    with contextlib.ExitStack() as stack:
        for name, value in pipeline.components.items():
            if name.startswith("tokenizer") and value is not None:
                stack.callback(setattr, pipeline, name, value)
                setattr(pipeline, name, copy.deepcopy(value))
        for (tokenizer, encoder), rows in zip(text_encoders(pipeline), start, strict=True):
            first = len(tokenizer)
            names = [name for token in tokens for name in names_of(token, len(rows) // len(tokens))]
            if known := set(names) & tokenizer.get_vocab().keys():
                raise ValueError(
                    f"{min(known)} is a word that the generator knows already: unload it, or use another name"
                )
            tokenizer.add_tokens(names)
            parameters.append(nn.Parameter(rows.detach().clone()))
            found = _Rows(first, parameters[-1])
            embedding = encoder.get_input_embeddings()
            stack.enter_context(embedding.register_forward_pre_hook(found.hide))
            stack.enter_context(embedding.register_forward_hook(found.show))
        yield parameters


def names_of(token: str, count: int) -> list[str]:
    """The tokens of a word of ``count`` vectors, as diffusers names them.

    >>> names_of("<jay>", 3)
    ['<jay>', '<jay>_1', '<jay>_2']
    """
    return [token, *(f"{token}_{number}" for number in range(1, count))]


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
def frozen(module: nn.Module) -> Iterator[None]:
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
def in_float32(module: Any) -> Iterator[None]:
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


def check_learnable(generator: Diffusion) -> None:
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


def check_weights(pipeline: Any) -> None:
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


def check_length(pipeline: Any, token: str, prompts: Sequence[str], count: int) -> None:
    """Refuse prompts that are cut off before their word of ``count`` vectors has ended.

    Raises:
        ValueError: one is.
    """
    for tokenizer, _ in text_encoders(pipeline):
        wanted = set(tokenizer.convert_tokens_to_ids(names_of(token, count)))
        for prompt in prompts:
            text = pipeline.maybe_convert_prompt(prompt, tokenizer)
            ids = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids
            if sum(number in wanted for number in ids) != count:
                raise ValueError(
                    f"with {count} vectors {token} does not fit into {prompt!r}: a prompt has "
                    f"{tokenizer.model_max_length} tokens. Take fewer vectors or a shorter prompt."
                )


def ends(losses: Sequence[float]) -> tuple[float, float]:
    """Means over the first and over the last tenth.

    >>> ends([4.0, 2.0, *[1.0] * 18])
    (3.0, 1.0)
    """
    tenth = max(1, len(losses) // 10)
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
