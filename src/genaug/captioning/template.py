"""Captions without a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from genaug.captioning.base import Captioner, Request

#: One for each instruction, in turn.
SHAPES = (
    "a photo of {spatial} {temporal}",
    "a wide view of {spatial} {temporal}",
    "the scenery of {spatial} {temporal}, with nobody there",
)


def compose(request: Request) -> str:
    """The caption that needs no language model.

    >>> compose(Request(0, "Describe", 1, "a calm lake", "at dusk", seed=0))
    'a wide view of a calm lake at dusk'
    """
    shape = SHAPES[request.instruction_index % len(SHAPES)]
    return shape.format(spatial=request.spatial, temporal=request.temporal)


class Template(Captioner):
    """Puts place and time into a fixed sentence: no weights, no randomness, nothing to wait for."""

    source: ClassVar[Literal["llm", "template"]] = "template"
    batch_size = 1000
    samples = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """The sentences."""
        return {"shapes": list(SHAPES)}

    def write(self, requests: Sequence[Request], forbidden: Sequence[str]) -> list[str]:
        """See :meth:`Captioner.write`; the words to avoid are kept out of the places and times by the engine."""
        return [compose(request) for request in requests]
