"""A row of numbers for each image, which several processes put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class RowMetric(Metric):
    """Keeps what was measured of each image, in the order of the images' numbers whatever process saw which.

    Subclasses declare what they keep with :meth:`add_rows`, put it in with :meth:`append`, and compute from
    :meth:`rows`. A process may have seen any number of images, or none.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self._empty: dict[str, Tensor] = {}
        self.add_rows("index", (), torch.long)

    def add_rows(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Declare what is kept of each image: an array of ``shape``."""
        self._empty[name] = torch.empty((0, *shape), dtype=dtype)
        self.add_state(name, default=[], dist_reduce_fx="cat")

    def numbers(self, index: Sequence[int] | None, count: int, left_out: Tensor | None = None) -> Tensor:
        """The numbers of ``count`` new images: those given, or counted on from all images before, left out or not."""
        if index is None:
            there = sum(len(part) for part in self._parts("index")) + (0 if left_out is None else int(left_out.sum()))
            return torch.arange(there, there + count)
        if len(index) != count:
            raise ValueError(f"index: expected {count} numbers, one an image, came {len(index)}")
        return torch.as_tensor(list(index), dtype=torch.long)

    def append(self, index: Tensor, **rows: Tensor) -> None:
        """Keep what was measured of the images called ``index`` ``(B,)``; every row has B first."""
        for name, values in {"index": index, **rows}.items():
            getattr(self, name).append(values.to(self.device, self._empty[name].dtype))

    def rows(self, name: str) -> Tensor:
        """What was kept of all images, in the order of their numbers, on the CPU."""
        order = torch.cat(self._parts("index")).argsort(stable=True)
        return torch.cat(self._parts(name))[order]

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Exchange rows; a process without images takes part with none of the right kind."""
        for name, empty in self._empty.items():
            if isinstance(getattr(self, name), list) and not getattr(self, name):
                getattr(self, name).append(empty.to(self.device))
        super().sync(*args, **kwargs)

    def _parts(self, name: str) -> list[Tensor]:
        """What there is: a list, or after an exchange one tensor."""
        there = getattr(self, name)
        parts = there if isinstance(there, list) else [there]
        return [self._empty[name], *(part.cpu() for part in parts)]
