"""Captions made once, kept, and used by every later run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, overload

from filelock import FileLock

from genaug.captioning.base import Captioner, Request
from genaug.captioning.engine import (
    PromptSets,
    check,
    clean,
    combinations,
    forbidden_words,
    llm_prompt,
    read_sets,
    words_of,
)
from genaug.captioning.template import compose
from genaug.console import track
from genaug.synthesis.store import Store, content_key


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption and where it comes from.

    Attributes:
        text: One line.
        number: Place in the list.
        instruction: What the LLM was asked with.
        spatial: The place.
        temporal: Time of day or season.
        seed: The caption's own; :attr:`Request.sampling_seed` of the last attempt follows from it.
        source: Who wrote it: "llm", "template", or "fallback" for the template in place of an LLM.
        refused: Why each answer before was refused, in order.
    """

    text: str
    number: int
    instruction: str
    spatial: str
    temporal: str
    seed: int
    source: Literal["llm", "template", "fallback"]
    refused: tuple[str, ...] = ()


class Captions(Sequence[Caption]):
    """The captions of a bank, in order.

    Args:
        captions: As :func:`make_captions` gives them.
        seconds: Time the captioner took for them, in this run or an earlier one.
    """

    def __init__(self, captions: Sequence[Caption], seconds: float) -> None:
        self._captions, self.seconds = tuple(captions), seconds

    @overload
    def __getitem__(self, index: int) -> Caption: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Caption]: ...

    def __getitem__(self, index: int | slice) -> Caption | Sequence[Caption]:
        return self._captions[index]

    def __len__(self) -> int:
        return len(self._captions)

    def report(self) -> dict[str, Any]:
        """What was made.

        Returns:
            ``n``; ``distinct`` texts; ``combinations`` of the three sets that occur; ``sources``, captions by who
            wrote them; ``first_try``, captions whose first answer was taken; ``refused``, refused answers by reason;
            ``fallbacks``, captions that the template had to write, by the reason of the last refusal; ``seconds``.
        """
        reasons = [[reason.split(":")[0] for reason in caption.refused] for caption in self]
        fell_back = [why[-1] for caption, why in zip(self, reasons, strict=True) if caption.source == "fallback"]
        return {
            "n": len(self),
            "distinct": len({tuple(words_of(caption.text)) for caption in self}),
            "combinations": len({(caption.instruction, caption.spatial, caption.temporal) for caption in self}),
            "sources": dict(Counter(caption.source for caption in self)),
            "first_try": sum(not why for why in reasons),
            "refused": dict(Counter(reason for why in reasons for reason in why)),
            "fallbacks": dict(Counter(fell_back)),
            "seconds": self.seconds,
        }


class _Bank:
    """One list of captions, endless in principle, of which a store holds the beginning.

    Caption k is the first answer to request k that passes the filter and says what no caption before it says. That
    depends on the captions before it, but on no batch and no length of the list.
    """

    def __init__(
        self, captioner: Captioner, sets: PromptSets, forbidden: Sequence[str], seed: int, retries: int
    ) -> None:
        self.captioner, self.sets, self.forbidden, self.seed = captioner, sets, list(forbidden), seed
        # Where every answer is the same, asking again is in vain.
        self.attempts = 1 + (retries if captioner.samples else 0)
        prompt = llm_prompt(combinations(sets, 1, seed)[0], forbidden)
        parts = [captioner.fingerprint, prompt, list(vars(sets).values()), self.forbidden, seed, retries]
        self._identity = json.dumps(parts)

    def key(self, number: int) -> str:
        """Key of a caption in the store."""
        return content_key(self._identity, str(number))

    def make(self, requests: Sequence[Request], taken: set[tuple[str, ...]]) -> list[Caption]:
        """The captions of ``requests``, which follow those of ``taken``.

        A round asks every caption without an answer to take; what a round has refused is asked again in the next.
        """
        answers: dict[tuple[int, int], str] = {}
        while True:
            captions: list[Caption] = []
            missing: list[Request] = []
            seen = set(taken)
            for request in requests:
                caption = self._choose(request, answers, seen)
                if isinstance(caption, Request):
                    missing.append(caption)
                else:
                    captions.append(caption)
                    seen.add(tuple(words_of(caption.text)))
            if not missing:
                return captions
            written = self.captioner.write(missing, self.forbidden)
            for request, answer in zip(missing, written, strict=True):
                answers[request.number, request.attempt] = answer

    def _choose(
        self, request: Request, answers: dict[tuple[int, int], str], seen: set[tuple[str, ...]]
    ) -> Caption | Request:
        """The caption of ``request``, or the attempt that is to be made next."""
        refused: list[str] = []
        for attempt in range(self.attempts):
            if (request.number, attempt) not in answers:
                return replace(request, attempt=attempt)
            text = clean(answers[request.number, attempt])
            reason = check(text, self.forbidden, request.instruction)
            if reason is None and tuple(words_of(text)) in seen:
                reason = "duplicate"
            if reason is None:
                return self._caption(request, text, self.captioner.source, refused)
            refused.append(reason)
        own = self.captioner.source == "template"
        return self._caption(request, compose(request), "template" if own else "fallback", refused)

    def _caption(
        self,
        request: Request,
        text: str,
        source: Literal["llm", "template", "fallback"],
        refused: Sequence[str],
    ) -> Caption:
        return Caption(
            text, request.number, request.instruction, request.spatial, request.temporal, request.seed, source,
            tuple(refused),
        )  # fmt: skip


def make_captions(
    captioner: Captioner,
    n: int,
    seed: int,
    classes: Sequence[str],
    superclasses: Sequence[str],
    folder: Path,
    *,
    retries: int = 3,
    sets: Path | None = None,
    device: str = "cpu",
) -> Captions:
    """The first ``n`` captions of a bank; those that are not yet there are made.

    The first 100 of 200 captions are the 100 that ``n=100`` gives. An answer that the filter refuses, or that says
    what an earlier caption says, is asked for again with another seed; after the last attempt the template writes
    the caption. Two processes do not ask for the same captions, and one that is killed loses what it was waiting for.

    Args:
        captioner: Who writes; its weights are loaded only if a caption is missing.
        n: How many.
        seed: Seed of the order of the combinations and of every answer.
        classes: Names of the classes, which no caption may name.
        superclasses: What the images show ("bird"), of each class; no caption may name one of them either.
        folder: Folder of all captions; those of this captioner go to ``folder/<fingerprint>/``.
        retries: Further attempts after a refused answer.
        sets: Folder of the three prompt sets, see :func:`read_sets`; None for the package's own.
        device: Where the captioner computes.

    Raises:
        ValueError: an argument is out of range, or a class is named like a whole prompt set or the template's words.
    """
    bank, requests, root = _open(captioner, n, seed, classes, superclasses, folder, retries, sets)
    store = Store(root)
    if any(bank.key(request.number) not in store for request in requests):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock"):
            store.refresh()  # another process may have made them in the meantime
            missing = sum(bank.key(request.number) not in store for request in requests)
            try:
                if missing:
                    captioner.load(device)
                for _ in track(_fill(bank, requests, store), total=missing, description="captions"):
                    pass
            finally:
                captioner.unload()  # the generator comes next, and may need all of the device's memory
    records = [store[bank.key(request.number)] for request in requests]
    return Captions([_from_record(record) for record in records], sum(record["seconds"] for record in records))


def planned_captions(
    captioner: Captioner,
    n: int,
    seed: int,
    classes: Sequence[str],
    superclasses: Sequence[str],
    folder: Path,
    *,
    retries: int = 3,
    sets: Path | None = None,
) -> list[tuple[str, bool]]:
    """What :func:`make_captions` will give, as far as it is known without asking a language model.

    Returns:
        For each caption its text and True; or, in brackets, the place and time it will be about and False.

    Raises:
        ValueError: as in :func:`make_captions`.
    """
    bank, requests, root = _open(captioner, n, seed, classes, superclasses, folder, retries, sets)
    if captioner.source == "template":
        return [(compose(request), True) for request in requests]
    store = Store(root)
    keys = [bank.key(request.number) for request in requests]
    return [
        (store[key]["text"], True) if key in store else (f"({request.spatial} {request.temporal})", False)
        for key, request in zip(keys, requests, strict=True)
    ]


def _open(
    captioner: Captioner,
    n: int,
    seed: int,
    classes: Sequence[str],
    superclasses: Sequence[str],
    folder: Path,
    retries: int,
    sets: Path | None,
) -> tuple[_Bank, list[Request], Path]:
    """The bank, its first ``n`` requests, and the folder of its store."""
    if retries < 0:
        raise ValueError(f"retries must be at least 0, got {retries}")
    forbidden = forbidden_words(classes, superclasses)
    bank = _Bank(captioner, read_sets(sets).without(forbidden), forbidden, seed, retries)
    _check_template(bank.sets, forbidden)
    return bank, combinations(bank.sets, n, seed), Path(folder) / captioner.fingerprint


def _check_template(sets: PromptSets, forbidden: Sequence[str]) -> None:
    """Refuse class names that the template's own words contain: there would be no caption to fall back to."""
    for index, instruction in enumerate(sets.instructions):
        request = Request(0, instruction, index, sets.spatial[0], sets.temporal[0], seed=0)
        reason = check(compose(request), forbidden)
        if reason is not None:
            raise ValueError(f"the template's caption {compose(request)!r} cannot be used for these classes: {reason}")


def _fill(bank: _Bank, requests: Sequence[Request], store: Store) -> Iterator[Caption]:
    """Make the missing captions batch by batch, and store each batch."""
    taken: set[tuple[str, ...]] = set()
    start = 0
    while start < len(requests):
        end = start
        while end < min(len(requests), start + bank.captioner.batch_size) and bank.key(end) not in store:
            end += 1
        if end == start:
            taken.add(tuple(words_of(store[bank.key(start)]["text"])))
            start += 1
            continue
        started = perf_counter()
        captions = bank.make(requests[start:end], taken)
        seconds = (perf_counter() - started) / len(captions)
        for caption in captions:
            store.add(bank.key(caption.number), {}, {**asdict(caption), "seconds": seconds})
            yield caption


def _from_record(record: dict[str, Any]) -> Caption:
    """The caption of a record in the store."""
    fields = {name: record[name] for name in Caption.__dataclass_fields__}
    return Caption(**{**fields, "refused": tuple(fields["refused"])})
