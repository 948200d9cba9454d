"""The prompt generation engine of AGA (section 4.2): what an LLM is asked, and which of its answers are taken.

A question is put together from three sets: an instruction, a place, and a time of day or a season. The names of what
the data set shows are to be avoided: the LLM is told so, and an answer with one of them is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import count, islice
from pathlib import Path

import numpy as np

from genaug.captioning.base import Request
from genaug.seeding import derive

#: Fewer words say nothing; CLIP reads 77 tokens, which is what some 50 words come to.
MIN_WORDS, MAX_WORDS = 3, 50
#: How many of the words to avoid an LLM is told, for a long list drowns the question; all of them are enforced.
MAX_TOLD = 40
#: An answer that begins with so many words of its question repeats it.
ECHO_WORDS = 3
#: Shortest superclass that is also forbidden as a part of a longer word: "songbird", but not "scar".
MIN_COMPOUND = 4

IRREGULAR_PLURALS = {
    "goose": "geese", "mouse": "mice", "louse": "lice", "ox": "oxen", "foot": "feet", "tooth": "teeth",
    "child": "children", "person": "people", "human": "humans", "cactus": "cacti", "fungus": "fungi",
}  # fmt: skip


# --- the three sets ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptSets:
    """What questions are put together from; AGA's sets have 3, 18 and 13 entries.

    Attributes:
        instructions: Beginnings of a question.
        spatial: Places.
        temporal: Times of day and seasons.
    """

    instructions: tuple[str, ...]
    spatial: tuple[str, ...]
    temporal: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, entries in vars(self).items():
            if not entries or len(set(entries)) < len(entries):
                raise ValueError(f"the prompt set {name} needs entries, each once; got {list(entries)}")

    def __len__(self) -> int:
        return len(self.instructions) * len(self.spatial) * len(self.temporal)

    def without(self, forbidden: Sequence[str]) -> PromptSets:
        """The sets without the places and times that name a forbidden word, which a caption could not repeat.

        Raises:
            ValueError: nothing is left of a set.
        """
        pattern = forbidden_pattern(tuple(forbidden))
        spatial, temporal = (
            tuple(entry for entry in entries if not pattern.search(entry)) for entries in (self.spatial, self.temporal)
        )
        for name, kept, entries in (("spatial", spatial, self.spatial), ("temporal", temporal, self.temporal)):
            if not kept:
                raise ValueError(
                    f"every entry of the prompt set {name} ({', '.join(entries[:3])}, …) contains one of the data "
                    "set's class names: give prompt sets of your own"
                )
        return PromptSets(self.instructions, spatial, temporal)


def read_sets(folder: Path | None = None) -> PromptSets:
    """Read ``instructions.txt``, ``spatial.txt`` and ``temporal.txt``, one entry a line.

    Args:
        folder: Where the files are; None for those of the package.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is empty or has an entry twice.

    Example:
        >>> len(read_sets())  # 3 x 18 x 13
        702
    """
    root: Traversable = resources.files("genaug.captioning") / "sets" if folder is None else Path(folder)
    entries = []
    for name in ("instructions", "spatial", "temporal"):
        file = root / f"{name}.txt"
        if not file.is_file():
            raise FileNotFoundError(f"prompt sets are read from {root}, and there is no {name}.txt in it")
        lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
        entries.append(tuple(line for line in lines if line))
    return PromptSets(*entries)


# --- the requests --------------------------------------------------------------------------------------------------


def _one_cycle(sets: PromptSets, rng: np.random.Generator) -> Iterator[tuple[int, int, int]]:
    """Every combination once, each place once before any comes again."""
    times = len(sets.temporal)
    rest = [rng.permutation(len(sets.instructions) * times) for _ in sets.spatial]
    for turn in range(len(rest[0])):
        for place in rng.permutation(len(sets.spatial)):
            instruction, time = divmod(int(rest[place][turn]), times)
            yield instruction, int(place), time


def combinations(sets: PromptSets, n: int, seed: int) -> list[Request]:
    """The first ``n`` requests of an endless list: no combination comes again before all have come.

    Places take turns as well, so that a short list has all of them about equally often.

    Raises:
        ValueError: ``n`` is negative.
    """
    if n < 0:
        raise ValueError(f"the number of captions must be at least 0, got {n}")
    cycles = (_one_cycle(sets, np.random.default_rng(derive(seed, "combinations", cycle))) for cycle in count())
    chosen = islice((entry for cycle in cycles for entry in cycle), n)
    return [
        Request(
            number,
            sets.instructions[instruction],
            instruction,
            sets.spatial[place],
            sets.temporal[time],
            derive(seed, "caption", number),
        )
        for number, (instruction, place, time) in enumerate(chosen)
    ]


def llm_prompt(request: Request, forbidden: Sequence[str]) -> str:
    """What a language model is asked.

    >>> print(llm_prompt(Request(0, "Describe", 0, "a calm lake", "at dusk", seed=0), ["*bird*"]))
    Describe a calm lake at dusk. Name only the place, the light and the weather, no people or animals. Answer in one \
line with one short sentence. Do not use any of these words: bird.
    """
    told = _told(forbidden)
    avoid = f" Do not use any of these words: {', '.join(told)}." if told else ""
    return (
        f"{request.instruction} {request.spatial} {request.temporal}. Name only the place, the light and the weather, "
        f"no people or animals. Answer in one line with one short sentence.{avoid}"
    )


def _told(forbidden: Sequence[str]) -> list[str]:
    """The words to avoid that an LLM is told: no name that ends in a word which is told anyway."""
    words = [word.strip("*") for word in forbidden]
    return [word for word in words if " " not in word or word.split()[-1] not in words][:MAX_TOLD]


# --- words to avoid ------------------------------------------------------------------------------------------------


def plurals(noun: str) -> set[str]:
    """Plurals of an English noun in lower case, by the usual rules; two where usage varies.

    >>> sorted(plurals("finch") | plurals("fly") | plurals("goose") | plurals("wolf"))
    ['finches', 'flies', 'geese', 'wolfs', 'wolves']
    """
    if noun in IRREGULAR_PLURALS:
        return {IRREGULAR_PLURALS[noun]}
    if re.search(r"(?:s|x|z|ch|sh)$", noun):
        return {noun + "es"}
    if re.search(r"[^aeiou]y$", noun):
        return {noun[:-1] + "ies"}
    if re.search(r"[^aeiou]o$", noun):
        return {noun + "s", noun + "es"}
    if re.search(r"(?:[lr]f|eaf|oaf|ife)$", noun):
        return {noun + "s", re.sub(r"fe?$", "ves", noun)}
    if noun.endswith("man") and noun != "human":
        return {noun[:-2] + "en", noun + "s"}  # woodsmen, but talismans
    return {noun + "s"}


def singulars(noun: str) -> set[str]:
    """What ``noun`` may be the plural of: nothing for "grass" or "cactus".

    >>> sorted(singulars("finches")), singulars("grass")
    (['finch', 'finche'], set())
    """
    if noun.endswith("ies"):
        return {noun[:-3] + "y"}
    if re.search(r"(?:s|x|z|ch|sh)es$", noun):
        return {noun[:-2], noun[:-1]}
    return {noun[:-1]} if re.search(r"[^siu]s$", noun) else set()


def forbidden_words(classes: Iterable[str], superclasses: Iterable[str]) -> list[str]:
    """The words that a caption of a background must not use.

    They are the superclasses, the class names and the nouns these end in: "Snowy-winged Jay" forbids "jay" and "snowy
    winged jay", not "snowy". Plurals are left to :func:`forbidden_pattern`.

    Args:
        classes: Names, with blanks, hyphens or underscores; synonyms may be separated by commas.
        superclasses: What the images show; forbidden as a part of longer words too, written ``*bird*``.

    Returns:
        Superclasses, nouns, names, in lower case, each once.

    Example:
        >>> forbidden_words(["Snowy-winged Jay", "Boeing 747"], ["bird", "bird"])
        ['*bird*', 'jay', 'boeing', 'snowy-winged jay', 'boeing 747']
    """
    names = [_plain(part) for name in classes for part in name.split(",")]
    nouns = [_head(name) for name in names]
    first = [_plain(word) for word in superclasses]
    first = [f"*{word}*" if len(word) >= MIN_COMPOUND and word.isalpha() else word for word in first]
    words = dict.fromkeys(word for word in (*first, *nouns, *names) if word)
    return [word for word in words if f"*{word}*" not in words]


def _plain(name: str) -> str:
    """Lower case, underscores and runs of blanks as one blank."""
    return " ".join(name.replace("_", " ").lower().split())


def _head(name: str) -> str:
    """The noun a name is about: its last word without digits, or the one before "of"."""
    words = re.split(r"\s+(?:of|with|in)\s+", name)[0].split()
    return next((word for word in reversed(words) if word[0].isalpha() and not re.search(r"\d", word)), name)


@lru_cache(maxsize=8)
def forbidden_pattern(forbidden: tuple[str, ...]) -> re.Pattern[str]:
    """What finds a forbidden word, singular or plural, in a text: whole words, a hyphen as good as a blank."""
    forms = set()
    for entry in forbidden:
        *before, last = re.split(r"[\s-]+", entry.strip("*"))
        for ending in {last} | plurals(last) | singulars(last):
            phrase = r"[\s-]+".join(re.escape(word) for word in (*before, ending))
            forms.add(rf"\w*{phrase}\w*" if entry.startswith("*") else phrase)
    if not forms:
        return re.compile(r"(?!)")  # matches nothing
    return re.compile(rf"(?<!\w)(?:{'|'.join(sorted(forms, key=len, reverse=True))})(?!\w)", re.IGNORECASE)


# --- answers -------------------------------------------------------------------------------------------------------

_MARKUP = re.compile(r"\*\*|__|`+")
_OPENING = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|here(?:[’']s| is| are))\b[^.!:]*(?::|[.!](?=\s))\s*)+", re.I
)
_NUMBERING = re.compile(r"^(?:#+\s+|[-*•>]\s+|\(?\d{1,2}[.):]\s*)")
_LABEL = re.compile(r"^(?:\w+\s+)?(?:prompt|caption|description|answer|response|sentence)(?:\s+\d+)?\s*:\s*", re.I)
_QUOTES = "\"'“”‘’«» \t"
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)]*(?=\s|$)")
_LOOSE_WORDS = "and or but a an the of in on at by to with from for its as is are where while under over into through"
_LOOSE_END = re.compile(rf"(?:[\s,;:–—-]+(?:{_LOOSE_WORDS.replace(' ', '|')}))*[\s,;:–—-]*$", re.I)
#: An LLM that speaks of itself does not describe a place.
_REFUSAL = re.compile(
    r"\bI\b|(?i:\bas an ai\b|\blanguage model\b|\bsorry\b|\bcan(?:not|[’']t) (?:provide|create|fulfil))"
)


def clean(answer: str) -> str:
    r"""The caption in an LLM's answer: its first usable line, without number, label and quotes; "" if there is none.

    Whole sentences are kept as far as they go: what a limit of tokens cut off is dropped, and so is what goes beyond
    :data:`MAX_WORDS`.

    >>> clean('Sure! Here are two prompts:\n1. "A calm lake at dusk. Mist rises from the"')
    'A calm lake at dusk.'
    """
    for line in answer.splitlines():
        text = " ".join(_MARKUP.sub("", line).split())
        for pattern in (_OPENING, _NUMBERING, _LABEL):
            text = pattern.sub("", text.strip(_QUOTES))
        text = text.strip(_QUOTES)
        if any(letter.isalpha() for letter in text) and not text.endswith(":"):
            return _whole_sentences(text)
    return ""


def _whole_sentences(text: str) -> str:
    """``text`` up to the last end of a sentence within :data:`MAX_WORDS`; without any, less its loose end."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    within = [end for end in ends if len(text[:end].split()) <= MAX_WORDS]
    if within:
        return text[: within[-1]].strip(_QUOTES)
    return text if ends else _LOOSE_END.sub("", text)


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation: two texts with the same words are the same caption.

    >>> words_of("A calm lake, at dusk.")
    ['a', 'calm', 'lake', 'at', 'dusk']
    """
    return re.findall(r"[^\W_]+", text.casefold())


def check(text: str, forbidden: Sequence[str], instruction: str = "") -> str | None:
    """Why a cleaned answer is no caption of a background; None if it is one.

    Args:
        text: See :func:`clean`.
        forbidden: See :func:`forbidden_words`.
        instruction: A text that begins like it repeats the question.

    Returns:
        "empty", "refusal", "echo", "too short", "too long" or "forbidden: " and the word.

    Example:
        >>> check("Geese on a calm lake.", ["goose"])
        'forbidden: geese'
    """
    words, start = words_of(text), words_of(instruction)[:ECHO_WORDS]
    if not words:
        return "empty"
    if _REFUSAL.search(text):
        return "refusal"
    if start and words[: len(start)] == start:
        return "echo"
    if len(text.split()) < MIN_WORDS:
        return "too short"
    if len(text.split()) > MAX_WORDS:
        return "too long"
    found = forbidden_pattern(tuple(forbidden)).search(text)
    return None if found is None else f"forbidden: {found.group().lower()}"
