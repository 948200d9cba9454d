"""A tokenizer for a small text encoder: CLIP's, with a vocabulary of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

BEGIN, END, END_OF_WORD = "<|startoftext|>", "<|endoftext|>", "</w>"


def train_tokenizer(texts: Iterable[str], max_length: int, vocab_size: int = 8192) -> CLIPTokenizer:
    """Byte-pair encoding in which each word of ``texts`` is one token, as far as ``vocab_size`` allows.

    Unknown words fall apart into known pieces, down to single bytes.

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
    blank = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    blank.normalizer, blank.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=1,
        initial_alphabet=alphabet,
        end_of_word_suffix=END_OF_WORD,
        special_tokens=[BEGIN, END],
        show_progress=False,
    )
    blank.train_from_iterator(texts, trainer)
    model = json.loads(blank.to_str())["model"]
    if not model["merges"]:
        raise ValueError("there is no word to learn a vocabulary from: the captions are empty")
    vocab = dict(model["vocab"])
    for byte in alphabet:
        vocab.setdefault(byte + END_OF_WORD, len(vocab))
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length, bos_token=BEGIN, eos_token=END)
