"""Captions from a server that speaks OpenAI's protocol: vLLM, llama.cpp, Ollama and many more."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from genaug.captioning.base import Captioner, Request
from genaug.captioning.engine import llm_prompt

if TYPE_CHECKING:
    from openai import OpenAI


class OpenAICompatible(Captioner):
    """Asks a server for chat completions, several at a time.

    A request that the server turns away for now (429, 5xx, no connection) is sent again after a pause that doubles
    each time. The request's seed is sent along: whether the same answer comes again is up to the server.

    Args:
        model: Name the server knows the model by.
        base_url: Address up to and with ``/v1``. It says where the model runs, not what it answers, so it is no part
            of the captions' identity.
        key_env: Environment variable that holds the key; None for a server that wants none. The key is never stored.
        temperature: 0 takes the likeliest word always, and then no second attempt is made.
        top_p: Share of the probability that words are sampled from, likeliest first.
        max_tokens: Length at which an answer is cut.
        concurrency: Questions under way at once.
        max_retries: How often a request is sent again.
        timeout: Seconds that an answer may take.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        model: str,
        base_url: str = "http://localhost:8000/v1",
        key_env: str | None = None,
        temperature: float = 0.7,
        top_p: float = 0.95,
        max_tokens: int = 96,
        concurrency: int = 8,
        max_retries: int = 5,
        timeout: float = 120.0,
    ) -> None:
        if not model:
            raise ValueError("model must be the name of a model that the server knows, got an empty one")
        if temperature < 0 or not 0 < top_p <= 1:
            raise ValueError(f"temperature must be at least 0 and top_p in (0, 1], got {temperature} and {top_p}")
        if min(max_tokens, concurrency) < 1 or max_retries < 0 or timeout <= 0:
            raise ValueError(
                "max_tokens and concurrency must be at least 1, max_retries at least 0, timeout above 0, got "
                f"{max_tokens}, {concurrency}, {max_retries} and {timeout}"
            )
        self.model, self.base_url, self.key_env = model, base_url, key_env
        self.temperature, self.top_p, self.max_tokens = temperature, top_p, max_tokens
        self.batch_size, self.samples = concurrency, temperature > 0
        self.max_retries, self.timeout = max_retries, timeout
        self._client: OpenAI | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The model's name, and how it is sampled."""
        return {
            "model": self.model,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
        }

    def load(self, device: str) -> None:
        """Make the client; nothing is sent yet.

        Raises:
            ModuleNotFoundError: the extra ``openai`` is not installed.
            ValueError: the environment variable of the key is not set.
        """
        if self._client is not None:
            return
        try:
            from openai import OpenAI
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "captioner=openai needs the package openai: pip install 'genaug[openai]'"
            ) from error
        key = "none" if self.key_env is None else os.environ.get(self.key_env)
        if not key:
            raise ValueError(f"captioner.key_env names the environment variable {self.key_env}, which is not set")
        self._client = OpenAI(
            base_url=self.base_url, api_key=key, max_retries=self.max_retries, timeout=self.timeout
        )  # fmt: skip

    def write(self, requests: Sequence[Request], forbidden: Sequence[str]) -> list[str]:
        """See :meth:`Captioner.write`.

        Raises:
            RuntimeError: :meth:`load` was not called, or the server did not answer.
        """
        client = self._made()
        with ThreadPoolExecutor(self.batch_size) as pool:
            return list(
                pool.map(
                    lambda request: self._ask(
                        client, llm_prompt(request, forbidden), request.sampling_seed, self.max_tokens
                    ),
                    requests,
                )
            )

    def ask(self, question: str, seed: int, max_tokens: int) -> str:
        """See :meth:`Captioner.ask`.

        Raises:
            RuntimeError: :meth:`load` was not called, or the server did not answer.
        """
        return self._ask(self._made(), question, seed, max_tokens)

    def _made(self) -> OpenAI:
        if self._client is None:
            raise RuntimeError("the client is not made: call load(device) first")
        return self._client

    def _ask(self, client: OpenAI, question: str, seed: int, max_tokens: int) -> str:
        """One answer; "" where the server sent none."""
        from openai import OpenAIError

        try:
            completion = client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": question}],
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=max_tokens,
                seed=seed % 2**31,  # some servers read 32 bits
            )
        except OpenAIError as error:
            raise RuntimeError(
                f"the server at {self.base_url} gave no answer with model {self.model!r} after {self.max_retries} "
                f"retries: {error} Check that it runs, captioner.base_url, captioner.model and captioner.key_env; "
                "the captions so far are kept."
            ) from error
        return (completion.choices[0].message.content or "") if completion.choices else ""
