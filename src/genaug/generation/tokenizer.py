"""A tokenizer for a small text encoder: CLIP's, with a vocabulary of its own."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

BEGIN, END, END_OF_WORD = "<|startoftext|>", "<|endoftext|>", "</w>"

Pair = tuple[str, str]


def train_tokenizer(texts: Iterable[str], max_length: int, vocab_size: int = 8192) -> CLIPTokenizer:
    """Byte-pair encoding in which each word of ``texts`` is one token, as far as ``vocab_size`` allows.

    Unknown words fall apart into known pieces, down to single bytes. The same texts give the same vocabulary in every
    process, so that a training can be gone on with; the trainer of the ``tokenizers`` package breaks ties at random.

    Args:
        texts: What the vocabulary is made from; a frequent word is merged before a rare one.
        max_length: Tokens of a prompt, with the two that mark its begin and end.
        vocab_size: Largest size of the vocabulary, the single bytes included.

    Raises:
        ValueError: there is no word in ``texts``.

    >>> tokenizer = train_tokenizer(["a calm lake at dusk"], max_length=12)
    >>> tokenizer.tokenize("A calm lake at dusk, and")
    ['a</w>', 'calm</w>', 'lake</w>', 'at</w>', 'dusk</w>', ',</w>', 'a', 'n', 'd</w>']
    """
    clip = CLIPTokenizer().backend_tokenizer  # splits text into words as the result will
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in clip.pre_tokenizer.pre_tokenize_str(clip.normalizer.normalize_str(text)))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [BEGIN, END, *alphabet, *(byte + END_OF_WORD for byte in alphabet)]
    merges = learn_merges(words, vocab_size - len(tokens))
    if not merges:
        raise ValueError("there is no word to learn a vocabulary from: the captions are empty")
    # Two ways may lead to one token.
    vocab = {token: number for number, token in enumerate(dict.fromkeys([*tokens, *map("".join, merges)]))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length, bos_token=BEGIN, eos_token=END)


def learn_merges(words: Mapping[str, int], most: int) -> list[Pair]:
    """The merges of byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909), the most frequent pair first.

    Of equally frequent pairs the first by alphabet is merged.

    Args:
        words: How often each occurs.
        most: Merges, at most.

    >>> learn_merges({"ab": 2, "abc": 1}, most=9)
    [('a', 'b</w>'), ('a', 'b'), ('ab', 'c</w>')]
    """
    split = {word: [*word[:-1], word[-1] + END_OF_WORD] for word in words}
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[str]] = defaultdict(set)

    def count(word: str, sign: int) -> None:
        for pair in zip(split[word], split[word][1:], strict=False):
            counts[pair] += sign * words[word]
            where[pair].add(word)
            if not counts[pair]:
                del counts[pair]

    for word in words:
        count(word, 1)
    merges: list[Pair] = []
    while len(merges) < most:
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None:
            break
        merges.append(best)
        for word in where.pop(best):
            count(word, -1)
            split[word] = merged(split[word], best)
            count(word, 1)
    return merges


def merged(symbols: list[str], pair: Pair) -> list[str]:
    """The symbols of a word, every ``pair`` of neighbours made one.

    >>> merged(["a", "b", "a", "b", "c</w>"], ("a", "b"))
    ['ab', 'ab', 'c</w>']
    """
    found: list[str] = []
    position = 0
    while position < len(symbols):
        if tuple(symbols[position : position + 2]) == pair:
            found.append("".join(pair))
            position += 2
        else:
            found.append(symbols[position])
            position += 1
    return found
