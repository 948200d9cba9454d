"""Captions from a chat model that transformers runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genaug.captioning.base import Captioner, Request
from genaug.captioning.engine import llm_prompt
from genaug.console import hide_loading_bars
from genaug.devices import release_memory
from genaug.segmentation.pretrained import explained, local_model, model_identity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: What a model without a chat template is asked, as in the code published with AGA.
ALPACA = "### Instruction:\n{question}\n\n### Response:\n"

REMEDY = (
    "captioner.model must be the name of a chat model on the Hugging Face hub, in the local cache or to be fetched, or "
    "a local folder or .gguf file that holds one with its tokenizer; captioner=template needs none."
)


class RowSampling:
    """Chooses the next token of each row with the row's own random numbers, so that rows do not depend on each other.

    A logits processor for greedy search: every token but the chosen one gets minus infinity.

    Args:
        seeds: One a row.
        temperature: Above 0.
        top_p: Only the likeliest tokens that together have this probability are chosen from, in (0, 1].
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature, self.top_p = temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores ``(rows, tokens)`` to the same with one finite entry a row."""
        ordered, tokens = (scores.float() / self.temperature).sort(descending=True, stable=True)
        total = ordered.softmax(-1).cumsum(-1)
        # A token belongs to the likeliest ones if those before it have not reached top_p.
        last = (torch.cat([torch.zeros_like(total[:, :1]), total[:, :-1]], -1) < self.top_p).sum(-1, keepdim=True) - 1
        draws = torch.stack([torch.rand(1, generator=generator) for generator in self.generators]).to(total)
        place = torch.searchsorted(total, draws * total.gather(-1, last), right=True)
        chosen = tokens.gather(-1, place.minimum(last))
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)


class Llama(Captioner):
    """A chat model by transformers: asked with its own chat template, several questions at once.

    Each answer is sampled with random numbers of its own. What remains of a batch is the rounding of its padding: on
    the CPU in float32 answers were the same in every batch; in half precision a rare word may differ with
    ``batch_size``, and ``batch_size=1`` excludes it.

    Args:
        model: Name on the Hugging Face hub, a local folder with model and tokenizer, or a ``.gguf`` file, which needs
            the package gguf.
        temperature: 0 takes the likeliest word always, and then no second attempt is made.
        top_p: Share of the probability that words are sampled from, likeliest first.
        max_new_tokens: Length at which an answer is cut.
        batch_size: Questions at once.
        dtype: "auto" (as the weights are stored), "float32", "bfloat16" or "float16".

    Raises:
        FileNotFoundError: ``model`` is neither there nor like a name on the hub.
        ValueError: another argument is out of range.
    """

    def __init__(
        self,
        model: str,
        temperature: float = 0.7,
        top_p: float = 0.95,
        max_new_tokens: int = 96,
        batch_size: int = 8,
        dtype: str = "auto",
    ) -> None:
        if temperature < 0 or not 0 < top_p <= 1:
            raise ValueError(f"temperature must be at least 0 and top_p in (0, 1], got {temperature} and {top_p}")
        if max_new_tokens < 1 or batch_size < 1:
            raise ValueError(f"max_new_tokens and batch_size must be at least 1, got {max_new_tokens}, {batch_size}")
        if dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"dtype must be auto, float32, bfloat16 or float16, got {dtype!r}")
        self.model, self.dtype = model, dtype
        self._path = local_model(model, REMEDY)
        self.temperature, self.top_p, self.max_new_tokens = temperature, top_p, max_new_tokens
        self.batch_size, self.samples = batch_size, temperature > 0
        self._loaded: tuple[Any, PreTrainedTokenizerBase] | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The model — a local one by its files, not by where they lie — and how it is sampled."""
        return {
            "model": model_identity(self.model, self._path),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
            "dtype": self.dtype,
        }

    def chat(self, request: Request, forbidden: Sequence[str]) -> list[dict[str, str]]:
        """The messages, each with ``role`` and ``content``, that the model answers."""
        return [{"role": "user", "content": llm_prompt(request, forbidden)}]

    def _source(self) -> tuple[str, dict[str, Any]]:
        """First argument and keywords of ``from_pretrained``, for model and tokenizer."""
        if self._path is None:
            return self.model, {}
        if self._path.is_dir():
            return str(self._path), {}
        return str(self._path.parent), {"gguf_file": self._path.name, "local_files_only": True}

    def load(self, device: str) -> None:
        """See :meth:`Captioner.load`.

        Raises:
            FileNotFoundError: there is no such model, or no network to fetch it over.
            ValueError: it is no language model.
        """
        if self._loaded is not None:
            return
        from transformers import AutoModelForCausalLM, AutoTokenizer

        hide_loading_bars()
        name, options = self._source()
        with explained(self.model, REMEDY):
            tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", **options)
            # Quantised weights cannot be moved once they are loaded.
            model = AutoModelForCausalLM.from_pretrained(name, dtype=self.dtype, device_map={"": device}, **options)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        # Its own sampling would come on top of ours.
        model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
        self._loaded = model.eval(), tokenizer

    def unload(self) -> None:
        """See :meth:`Captioner.unload`."""
        self._loaded = None
        release_memory()

    def write(self, requests: Sequence[Request], forbidden: Sequence[str]) -> list[str]:
        """See :meth:`Captioner.write`.

        Raises:
            RuntimeError: :meth:`load` was not called.
        """
        chats = [self.chat(request, forbidden) for request in requests]
        return self._answers(chats, [request.sampling_seed for request in requests], self.max_new_tokens)

    def ask(self, question: str, seed: int, max_tokens: int) -> str:
        """See :meth:`Captioner.ask`.

        Raises:
            RuntimeError: :meth:`load` was not called.
        """
        return self._answers([[{"role": "user", "content": question}]], [seed], max_tokens)[0]

    def _answers(self, chats: Sequence[list[dict[str, str]]], seeds: Sequence[int], max_tokens: int) -> list[str]:
        if self._loaded is None:
            raise RuntimeError("the language model is not loaded: call load(device) first")
        model, tokenizer = self._loaded
        texts = [_as_text(tokenizer, chat) for chat in chats]
        # A chat template writes the tokens that begin a text itself.
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=tokenizer.chat_template is None)
        inputs = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            output = model.generate(**inputs, **self._generation(seeds, tokenizer, max_tokens))
        answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [answer.split("###")[0] for answer in answers]  # an Alpaca model goes on to the next instruction

    def _generation(self, seeds: Sequence[int], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> dict[str, Any]:
        """Keywords of ``generate``: greedy search, to which the row sampling leaves one token at a time."""
        from transformers import LogitsProcessorList

        keywords: dict[str, Any] = {
            "max_new_tokens": max_tokens,
            "pad_token_id": tokenizer.pad_token_id,
        }
        if self.samples:
            sampling = RowSampling(seeds, self.temperature, self.top_p)
            keywords["logits_processor"] = LogitsProcessorList([sampling])
        return keywords


def _as_text(tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, str]]) -> str:
    """The messages in the form the model was taught, up to where its answer begins."""
    if tokenizer.chat_template is None:
        return ALPACA.format(question=chat[-1]["content"])
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
