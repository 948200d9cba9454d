"""Domains of a data set in words, as ALIA finds them: an LLM sums up what captions of its images say of the settings.

A domain is what follows the prefix in a caption of the form ``a photo of a bird perched on a fence``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from genaug.captioning.base import Captioner
from genaug.captioning.engine import clean, combinations, forbidden_pattern, forbidden_words, read_sets, words_of
from genaug.seeding import derive
from genaug.synthesis.store import Store, content_key

#: Captions that the LLM is shown, and most domains it is asked for.
SHOWN, MOST = 20, 10
#: Questions that may be asked before the template's domains are taken.
ATTEMPTS = 4
#: Longest answer in tokens.
MAX_TOKENS = 512
#: Most words of a domain.
MAX_WORDS = 30


@dataclass(frozen=True, slots=True)
class Domains:
    """What was found.

    Attributes:
        texts: What follows the prefix in each domain's caption, with the blank or comma it begins with.
        source: Who found them: "llm", "template", or "fallback" for the template in place of an LLM.
        shown: Captions that the LLM was shown.
    """

    texts: tuple[str, ...]
    source: Literal["llm", "template", "fallback"]
    shown: tuple[str, ...] = ()

    def report(self) -> dict[str, Any]:
        """For the results."""
        return {"source": self.source, "domains": list(self.texts), "captions": list(self.shown)}


def question(captions: Sequence[str], prefix: str) -> str:
    """What a language model is asked.

    >>> print(question(["a bird on a twig", "a bird at sea"], "a photo of a bird"))
    These are captions of photographs:
    a bird on a twig
    a bird at sea
    <BLANKLINE>
    Sum up the different settings that they describe: places, actions, light, distance, quality of the picture. Write \
at most 10 captions, one a line, each of another setting, and each of the form "a photo of a bird ...". For example:
    - a photo of a bird on a mossy rock
    - a photo of a bird in front of a harbour at night
    - a photo of a bird seen from below against the clouds
    """
    lines = "\n".join(captions)
    return (
        f"These are captions of photographs:\n{lines}\n\nSum up the different settings that they describe: places, "
        f"actions, light, distance, quality of the picture. Write at most {MOST} captions, one a line, each of another "
        f'setting, and each of the form "{prefix} ...". For example:\n- {prefix} on a mossy rock\n- {prefix} in front '
        f"of a harbour at night\n- {prefix} seen from below against the clouds"
    )


def domains_in(answer: str, prefix: str, forbidden: Sequence[str] = ()) -> list[str]:
    r"""The domains in an LLM's answer, each once, at most :data:`MOST`; lines of another form are passed over.

    Args:
        answer: As it came.
        prefix: What each line must begin with.
        forbidden: Words that no domain may name, see :func:`genaug.captioning.engine.forbidden_words`.

    Example:
        >>> domains_in('Sure:\n1. "A photo of a bird on a fence."\n2. A fence.', "a photo of a bird")
        [' on a fence']
    """
    start = words_of(prefix)
    found: dict[tuple[str, ...], str] = {}
    for line in answer.splitlines():
        text = clean(line)
        if words_of(text)[: len(start)] != start or not text.casefold().startswith(prefix.casefold()):
            continue
        rest = text[len(prefix) :].rstrip(" .!")
        words = tuple(words_of(rest))
        # Braces would be taken for places to fill in.
        if not 0 < len(words) <= MAX_WORDS or set(rest) & set("{}"):
            continue
        if not forbidden_pattern(tuple(forbidden)).search(rest):
            found.setdefault(words, rest)
    return list(found.values())[:MOST]


def template_domains(forbidden: Sequence[str], seed: int) -> list[str]:
    """Domains without a language model: :data:`MOST` different places of AGA's prompt sets, each at some time.

    >>> template_domains([], 0)[0]
    ', a city park in summer'
    """
    requests = combinations(read_sets().without(forbidden), MOST, seed)
    return [f", {request.spatial} {request.temporal}" for request in requests]


def sampled(captions: Sequence[str], seed: int) -> list[str]:
    """At most :data:`SHOWN` of the captions, each once; the order they came in does not matter.

    >>> sampled(["b", "a", "b"], 0) == sampled(["a", "b"], 0)
    True
    """
    different = sorted(set(captions))
    order = np.random.default_rng(derive(seed, "captions")).permutation(len(different))
    return [different[index] for index in order[:SHOWN]]


def known_domains(
    captioner: Captioner, classes: Sequence[str], superclasses: Sequence[str], seed: int
) -> Domains | None:
    """The domains, where no language model has to be asked for them."""
    if captioner.source != "template":
        return None
    return Domains(tuple(template_domains(forbidden_words(classes, superclasses), seed)), "template")


def find_domains(
    captioner: Captioner,
    captions: Sequence[str],
    prefix: str,
    classes: Sequence[str],
    superclasses: Sequence[str],
    seed: int,
    folder: Path,
    device: str = "cpu",
) -> Domains:
    """Ask once what the domains of a data set are; the answer is kept.

    Args:
        captioner: The language model, or the template, which looks at no caption.
        captions: Of the images.
        prefix: "a photo of a bird".
        classes: Names that no domain may name.
        superclasses: Likewise.
        seed: Of the choice of captions and of the answer.
        folder: Of all domains; those of this captioner go to ``folder/<fingerprint>/``.
        device: Where the captioner computes.
    """
    if known := known_domains(captioner, classes, superclasses, seed):
        return known
    shown, forbidden = sampled(captions, seed), forbidden_words(classes, superclasses)
    asked = question(shown, prefix)
    store, key = Store(Path(folder) / captioner.fingerprint), content_key(asked, prefix, *forbidden, str(seed))
    if key not in store:
        store.root.mkdir(parents=True, exist_ok=True)
        with FileLock(store.root / ".lock"):
            store.refresh()  # another process may have asked in the meantime
            if key not in store:
                _ask(captioner, asked, prefix, forbidden, seed, device, store, key)
    return Domains(tuple(store[key]["domains"]), store[key]["source"], tuple(shown))


def _ask(
    captioner: Captioner,
    asked: str,
    prefix: str,
    forbidden: Sequence[str],
    seed: int,
    device: str,
    store: Store,
    key: str,
) -> None:
    """Ask until an answer can be used, and record it with all answers."""
    answers: list[str] = []
    found: list[str] = []
    try:
        captioner.load(device)
        for attempt in range(ATTEMPTS if captioner.samples else 1):
            answers.append(captioner.ask(asked, derive(seed, "domains", attempt), MAX_TOKENS))
            if found := domains_in(answers[-1], prefix, forbidden):
                break
    finally:
        captioner.unload()
    source = "llm" if found else "fallback"
    domains = found or template_domains(forbidden, seed)
    store.record(key, {"domains": domains, "source": source, "question": asked, "answers": answers})
