"""What a person sees while the program works: progress bars in a terminal, lines now and then in a log file."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as ProgressTask
from rich.text import Text

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Seconds between two lines of progress where there is no terminal.
LINE_EVERY = 10.0


#: What libraries warn of although it is meant: our own progress bar, no held-out loader, few steps in an epoch.
_MEANT = (
    ".*does not have many workers.*",
    ".*Total length of `list` across ranks is zero.*",
    ".*smaller than the logging interval.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*predict returned None.*",
    ".*predict returned None.*",
    ".*could not find the monitored key.*",  # a run that ends before its first look is looked at once, at its end
)


def hide_meant_warnings() -> None:
    """Keep the console for what a person should act on."""
    for message in _MEANT:
        warnings.filterwarnings("ignore", message=message)


def hide_loading_bars() -> None:
    """Keep the bars that model libraries draw for each file out of logs; in a terminal they stay."""
    if Console(stderr=True).is_terminal:
        return
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


class SpeedColumn(ProgressColumn):
    """Items per second."""

    def render(self, task: ProgressTask) -> Text:
        """Speed of ``task``, once known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="cyan")


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, transformers reports errors alone: what it would say is meant and helps nobody."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def bar() -> Progress:
    """A progress bar with count, speed and time left."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        SpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


@contextlib.contextmanager
def counting(total: int, description: str) -> Iterator[Callable[[int], None]]:
    """Show how far work has come; the context gives the function that is told how much more is done.

    >>> with counting(2, "letters") as done:
    ...     done(2)
    """
    if Console(stderr=True).is_terminal:
        with bar() as progress:
            task = progress.add_task(description, total=total, note="")
            yield lambda count: progress.advance(task, count)
        return
    started = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done, now = done + count, time.monotonic()
        if count and (now - last >= LINE_EVERY or done == total):
            last, speed = now, done / max(now - started, 1e-9)
            log.info("%s: %d/%d, %.1f/s, %.0f s left", description, done, total, speed, (total - done) / speed)

    yield advance


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Go through ``items`` and show how far it has come; silent when there is nothing to do.

    >>> list(track("ab", total=2, description="letters"))
    ['a', 'b']
    """
    if total == 0:
        return
    with counting(total, description) as advance:
        for item in items:
            yield item
            advance(1)
