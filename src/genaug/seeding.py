"""Seeds that follow from names, never from the order in which things happen."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive(seed: int, *names: int | str) -> int:
    """A 63-bit seed for the use called ``names``, independent of every other use of ``seed``.

    >>> derive(0, "mix", 1) == derive(0, "mix", 1), derive(0, "mix", 1) == derive(0, "mix", 2)
    (True, False)
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@contextlib.contextmanager
def lent_generator(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator inside the context, and give it back as it was.

    For code that knows no other generator, as torchvision's transforms. ``torch.manual_seed`` would also queue a call
    with a stack trace for every device that is not in use, which costs more than a crop.

    >>> before = torch.get_rng_state()
    >>> with lent_generator(3):
    ...     first = torch.rand(1)
    >>> with lent_generator(3):
    ...     bool(torch.rand(1) == first), bool((torch.get_rng_state() == before).all())
    (True, False)
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
