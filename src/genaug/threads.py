"""Work done by several threads that have really ended before anything else goes on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from genaug.console import track

T = TypeVar("T")
R = TypeVar("R")

#: Where Linux lists the threads of this process, one folder each.
_TASKS = Path("/proc/self/task")
#: Seconds after which a thread that does not go away is left alone.
_PATIENCE = 5.0


@contextlib.contextmanager
def thread_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads, when the context ends, are gone from the operating system too.

    Python calls a thread joined while its C libraries still free what they kept for it, under locks of their own
    (OpenCV, the allocator); a loader process forked in that moment inherits such a lock for ever locked, and waits for
    it in its first OpenCV call.

    >>> with thread_pool(2) as pool:
    ...     list(pool.map(len, ["a", "bc"]))
    [1, 2]
    """
    natives: list[int] = []
    pool = ThreadPoolExecutor(workers, initializer=lambda: natives.append(threading.get_native_id()))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted run waits for the items in work only
        _wait_until_gone(natives)


def in_threads(task: Callable[[T], R], items: Sequence[T], workers: int, description: str) -> list[Future[R]]:
    """Do ``task`` for every item in a :func:`thread_pool`, and show how far it has come.

    Args:
        task: What to do.
        items: With what.
        workers: Threads.
        description: What the progress bar says.

    Returns:
        The outcomes in the order of ``items``; what a task raised is inside its outcome.

    >>> [done.result() for done in in_threads(len, ["a", "bc"], workers=2, description="counting")]
    [1, 2]
    """
    with thread_pool(workers) as pool:
        futures = [pool.submit(task, item) for item in items]
        for _ in track(as_completed(futures), total=len(futures), description=description):
            pass
    return futures


def _wait_until_gone(natives: Sequence[int]) -> None:
    """Wait for the end of threads by their native ids, where the system (Linux) lists them."""
    until = time.monotonic() + _PATIENCE
    while any((_TASKS / str(one)).exists() for one in natives) and time.monotonic() < until:
        time.sleep(0.001)
