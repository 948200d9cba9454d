"""The contract of everything that writes captions of backgrounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from genaug.seeding import derive
from genaug.synthesis.store import fingerprint


@dataclass(frozen=True, slots=True)
class Request:
    """What one caption is to be about, and the seed it is written with.

    Attributes:
        number: Place in the list of captions.
        instruction: Beginning of the question to an LLM; the place and the time follow it.
        instruction_index: Which of its set the instruction is.
        spatial: The place ("a calm lake").
        temporal: Time of day or season ("at dusk").
        seed: The caption's own.
        attempt: 0 at first, one more each time an answer was refused.
    """

    number: int
    instruction: str
    instruction_index: int
    spatial: str
    temporal: str
    seed: int
    attempt: int = 0

    @property
    def sampling_seed(self) -> int:
        """63-bit seed of this attempt, another one for each."""
        return derive(self.seed, "attempt", self.attempt)


class Captioner(ABC):
    """Answers requests for captions.

    Building one is cheap: arguments are checked and local files looked for; weights are loaded by :meth:`load`. An
    answer depends on its request, the forbidden words and :attr:`settings`, not on the other requests of its batch.

    Attributes:
        source: Who writes: a language model, or the template.
        batch_size: How many answers are asked for at once, at most.
        samples: Whether another attempt can give another answer.
    """

    source: ClassVar[Literal["llm", "template"]] = "llm"
    batch_size: int = 1
    samples: bool = True

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """JSON values of every argument that changes an answer, the weights among them; not those of speed alone."""

    @abstractmethod
    def write(self, requests: Sequence[Request], forbidden: Sequence[str]) -> list[str]:
        """Answer each request, as it comes: neither cleaned nor checked.

        Args:
            requests: At most :attr:`batch_size`.
            forbidden: Words to avoid, see :func:`genaug.captioning.engine.forbidden_words`.

        Returns:
            One answer a request.
        """

    def ask(self, question: str, seed: int, max_tokens: int) -> str:
        """A language model's answer to any question, as it comes.

        Args:
            question: The whole of it.
            seed: Of a model that samples.
            max_tokens: Length at which the answer is cut.

        Raises:
            NotImplementedError: there is no language model.
        """
        raise NotImplementedError(f"{type(self).__name__} is no language model and answers no questions")

    def load(self, device: str) -> None:  # noqa: B027 - a captioner without weights has nothing to load
        """Load the weights onto ``device`` ("cpu", "cuda:1"); the second time nothing happens."""

    def unload(self) -> None:  # noqa: B027 - see load
        """Give up the weights and the memory they take; :meth:`load` gets them again."""

    @cached_property
    def fingerprint(self) -> str:
        """Class name and a hash of class and settings: the name of a folder of captions."""
        return fingerprint(self, self.settings)
