"""A list of samples that any number of processes share without copying it."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import overload

import numpy as np

from genaug.data.base import Sample


class PackedSamples(Sequence[Sample]):
    """Samples in one block of bytes, unpacked one by one as they are asked for.

    A loader process is a fork that shares its parent's memory until one of them writes to it; and Python writes to an
    object by merely looking at it (its count of references). Of a list of samples each process would end up with a copy
    of its own. Of the block it looks at none is made.

    Args:
        samples: What to hold.

    Example:
        >>> from pathlib import Path
        >>> packed = PackedSamples([Sample("a.jpg", Path("a.jpg"), 0), Sample("b.jpg", Path("b.jpg"), 1)])
        >>> packed[-1].label, [sample.id for sample in packed]
        (1, ['a.jpg', 'b.jpg'])
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        parts = [pickle.dumps(sample, protocol=pickle.HIGHEST_PROTOCOL) for sample in samples]
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(parts), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """One sample, or a list of some."""
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # refuses what is out of range, and counts from the end
        start = int(self._ends[place - 1]) if place else 0
        sample: Sample = pickle.loads(self._bytes.data[start : int(self._ends[place])])  # our own bytes
        return sample
