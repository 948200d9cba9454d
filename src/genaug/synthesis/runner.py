"""Carries out a plan: every job exactly once, on any number of devices, machines and processes.

Each job is claimed with a file lock in the store, which the operating system releases when a process dies. So a killed
run leaves nothing to clean up, a slow device takes fewer jobs, and another command on the same store, whether its plan
is the same or overlaps this one, helps instead of making everything twice. What an image looks like depends on its job
alone.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from genaug.console import counting
from genaug.seeding import derive
from genaug.synthesis.gates import verdict
from genaug.synthesis.image_store import METADATA, ImageStore
from genaug.synthesis.jobs import Job, chunks
from genaug.synthesis.speeds import keep_speed
from genaug.synthesis.store import Claim
from genaug.threads import thread_pool

log = logging.getLogger(__name__)

#: Seconds between two looks at what another process is making, and until a person is told of the wait.
WAIT, LONG_WAIT = 0.5, 30.0
#: Threads that encode and write a batch while the next is made.
WRITERS = 2
#: So many images, the first of all, must fail before a run is broken off.
HOPELESS = 8


class Renderer(Protocol):
    """What a method gives the runner."""

    @property
    def batch_size(self) -> int:
        """Jobs of one call, at most."""

    @property
    def speed_key(self) -> str:
        """Names the work, so that its speed can be found again when the next plan is shown."""

    def load(self, device: str) -> None:
        """Get ready to work on ``device``; the second time nothing happens."""

    def unload(self) -> None:
        """Give the device's memory back: training comes next."""

    def render(self, jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """Make one image a job, ``(H, W, 3)`` or transparent ``(H, W, 4)`` uint8; the jobs are of one shape.

        Args:
            jobs: What to make.
            seeds: Of each job's random choices: the job's own, or a new one after an image that could not be used.

        Returns:
            The images; None where NaN or infinity came out.
        """

    def verdict(self, job: Job, image: np.ndarray) -> str:
        """Whether an image that is not black, constant or not finite can be used: "ok", or why it cannot."""


@dataclass
class Ledger:
    """What a run of the runner cost, on this process.

    Attributes:
        images: Kept.
        failed: Given up.
        rejected: How often each verdict came, retries included.
        denoiser_steps: Carried out, rejected images included.
        render_seconds: In the renderer.
        wait_seconds: For the writers, or for another process.
        wall_seconds: In all, loading apart.
        load_seconds: Loading the renderer.
    """

    images: int = 0
    failed: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    denoiser_steps: int = 0
    render_seconds: float = 0.0
    wait_seconds: float = 0.0
    wall_seconds: float = 0.0
    load_seconds: float = 0.0

    def report(self) -> dict[str, Any]:
        """As JSON values, with images per second."""
        values = {key: round(value, 3) if isinstance(value, float) else value for key, value in vars(self).items()}
        speed = self.images / self.wall_seconds if self.wall_seconds else None
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
        return {
            **values,
            "rejected": dict(self.rejected),
            "images_per_second": None if speed is None else round(speed, 3),
            "peak_memory_bytes": peak if peak else host,
        }


class Runner:
    """Runs plans on the devices of a Lightning trainer.

    Args:
        trainer: Has the devices and the strategy.
        stores: Folder of all stores; measured speeds are kept in it.
        retries: How many new seeds are tried when an image does not pass the gates.

    Raises:
        ValueError: a negative number of retries.
    """

    def __init__(self, trainer: pl.Trainer, stores: Path, retries: int = 2) -> None:
        if retries < 0:
            raise ValueError(f"retries must be at least 0, got {retries}")
        self.trainer, self.stores, self.retries = trainer, Path(stores), retries

    @property
    def device(self) -> str:
        """This process's device, for work that is not spread out: "cuda:0"."""
        return str(self.trainer.strategy.root_device)

    def run(self, jobs: Sequence[Job], renderer: Renderer, store: ImageStore, name: str) -> Ledger:
        """Make what is missing.

        Args:
            jobs: The whole plan, also what is there already: every process must be given the same.
            renderer: Makes the images.
            store: Keeps them.
            name: Of the work, for people: "backgrounds".

        Returns:
            What it cost, on this process; all zeros when nothing was missing.

        Raises:
            OSError: the store cannot be written to; what was made before is kept.
            RuntimeError: not a single image of a batch could be used; the model or its settings are broken.
        """
        store.refresh()
        ledger, missing = Ledger(), [job for job in jobs if not store.is_done(job)]
        if damaged := sum(job.key in store for job in missing):
            log.warning("%d images of %s are missing or cut short and are made again", damaged, store.root)
        # Processes that belong together take part together, whatever each of them finds still missing.
        if missing or self.trainer.world_size > 1:
            check_writable(store.root)
            work = _Work(jobs, renderer, store, name, ledger, self.retries)
            try:
                self._in_every_process(work)
            finally:
                renderer.unload()
            if ledger.images:
                keep_speed(self.stores, renderer.speed_key, ledger.render_seconds / ledger.images)
        if missing or not (store.root / METADATA).exists():
            store.write_metadata()
        return ledger

    def everywhere(self, task: Callable[[str], None]) -> None:
        """Do ``task(device)`` once in every process of the trainer, in each with its own device ("cuda:1").

        Precision is that of the weights, and gradients can be computed. Every process must call this.
        """
        self._in_every_process(_Everywhere(task))

    def _in_every_process(self, work: pl.LightningModule) -> None:
        once: Any = [0]  # each process is called once and takes its share by itself
        self.trainer.predict(work, DataLoader(once, batch_size=None), return_predictions=False)


class _Everywhere(pl.LightningModule):
    """See :meth:`Runner.everywhere`."""

    def __init__(self, task: Callable[[str], None]) -> None:
        super().__init__()
        self.task = task

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """The task, free of what Lightning has chosen for prediction."""
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            self.task(str(self.device))


class _Work(pl.LightningModule):
    """Lightning starts the processes and says which device this one has; the rest is :meth:`predict_step`."""

    def __init__(
        self, jobs: Sequence[Job], renderer: Renderer, store: ImageStore, name: str, ledger: Ledger, retries: int
    ) -> None:
        super().__init__()
        self.jobs, self.renderer, self.store, self.name_of_work = jobs, renderer, store, name
        self.ledger, self.retries = ledger, retries
        #: Images given up since the start; None once one was kept.
        self._in_vain: int | None = 0
        self._claims: dict[str, Claim] = {}
        self._loaded = False

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """All of this process's share."""
        started = time.monotonic()
        with torch.autocast(self.device.type, enabled=False):  # the training's precision is not the generator's
            self._make_all()
        self.ledger.wall_seconds = time.monotonic() - started - self.ledger.load_seconds

    def _load(self) -> None:
        """Load the renderer when there is something to make; another process may have taken it all."""
        if self._loaded:
            return
        started = time.monotonic()
        with torch.inference_mode(False):  # weights may be trained on later
            self.renderer.load(str(self.device))
        self.ledger.load_seconds, self._loaded = time.monotonic() - started, True

    def _make_all(self) -> None:
        plan = chunks(self.jobs, self.renderer.batch_size)
        missing = sum(not self.store.is_done(job) for job in self.jobs)
        pending: deque[list[Future[bool]]] = deque()
        try:
            with counting(missing, self.name_of_work) as advance, thread_pool(WRITERS) as pool:
                for batch in self._claimed(plan, pending):
                    self._load()
                    pending.append([pool.submit(self._write, *made) for made in self._make(batch)])
                    while len(pending) > 1:  # one batch is written while the next is made; a kill could lose more
                        self._settle(pending)
                    advance(len(batch))
                while pending:
                    self._settle(pending)
        finally:
            for claim in list(self._claims.values()):
                claim.release()

    def _claimed(self, plan: Sequence[list[Job]], pending: deque[list[Future[bool]]]) -> Iterator[list[Job]]:
        """Missing jobs, batch by batch, that are now this process's to make, until all of the plan are done.

        This process's share comes first, then what the others have not got to.
        """
        rank, world = self.global_rank, self.trainer.world_size
        left = [*plan[rank::world], *(chunk for other in range(world) if other != rank for chunk in plan[other::world])]
        waited = 0.0
        while left:
            later = []
            for chunk in left:
                mine, others = self._claim(chunk)
                if mine:
                    yield mine
                if others:
                    later.append(others)
            while pending:  # some of what is left may be our own, not yet written
                self._settle(pending)
            self.store.refresh()
            left = [rest for chunk in later if (rest := [job for job in chunk if not self.store.is_done(job)])]
            if left:
                if waited <= LONG_WAIT < waited + WAIT:
                    log.info("waiting for %d images that another process is making", sum(map(len, left)))
                time.sleep(WAIT)
                waited += WAIT
        self.ledger.wait_seconds += waited

    def _claim(self, chunk: Sequence[Job]) -> tuple[list[Job], list[Job]]:
        """Of a batch: what this process has claimed, and what others are making."""
        missing = [job for job in chunk if not self.store.is_done(job)]
        claims = {job.key: self.store.claim(job.key) for job in missing}
        if not claims:
            return [], []
        self.store.refresh()  # another process may have made some and released them in between
        mine, others = [], []
        for job in missing:
            claim = claims[job.key]
            if claim is None:
                others.append(job)
            elif self.store.is_done(job):
                claim.finish()
            else:
                self._claims[job.key] = claim
                self.store.clear(job)
                mine.append(job)
        return mine, others

    def _make(self, jobs: Sequence[Job]) -> list[tuple[Job, np.ndarray | None, dict[str, Any]]]:
        """Images, retried with new seeds where one cannot be used; None for what is given up."""
        finished: list[tuple[Job, np.ndarray | None, dict[str, Any]]] = []
        trying, spent = list(jobs), 0.0
        for attempt in range(self.retries + 1):
            seeds = [job.seed if attempt == 0 else derive(job.seed, "retry", attempt) for job in trying]
            started = time.monotonic()
            images = self.renderer.render(trying, seeds)
            seconds = time.monotonic() - started
            spent += seconds / len(trying)
            self.ledger.render_seconds += seconds
            self.ledger.denoiser_steps += sum(job.steps for job in trying)
            again = []
            for job, image in zip(trying, images, strict=True):
                said = self._verdict(job, image)
                facts = {"attempts": attempt + 1, "seconds": round(spent, 4), "verdict": said}
                if said == "ok":
                    finished.append((job, image, facts))
                    continue
                self.ledger.rejected[said] += 1
                if attempt == self.retries:
                    finished.append((job, None, facts))
                again.append(job)
            trying = again
            if not trying:
                break
        self._check_hope(finished)
        return finished

    def _verdict(self, job: Job, image: np.ndarray | None) -> str:
        said = verdict(image)
        return self.renderer.verdict(job, image) if said == "ok" and image is not None else said

    def _check_hope(self, finished: Sequence[tuple[Job, np.ndarray | None, Mapping[str, Any]]]) -> None:
        """Stop when nothing at all comes out: hours of broken images help nobody.

        Raises:
            RuntimeError: none of the first images could be used.
        """
        kept = any(image is not None for _, image, _ in finished)
        if kept or self._in_vain is None:
            self._in_vain = None
            return
        self._in_vain += len(finished)
        if self._in_vain >= HOPELESS:
            raise RuntimeError(
                f"None of the first {self._in_vain} images of {self.name_of_work} could be used "
                f"({', '.join(f'{count} x {said}' for said, count in self.ledger.rejected.items())}). The generator or "
                "its settings are broken: look at its dtype (float16 overflows in some decoders), weights and steps."
            )

    def _write(self, job: Job, image: np.ndarray | None, facts: Mapping[str, Any]) -> bool:
        """Record what became of a job; whether it has an image."""
        facts = {**facts, "device": str(self.device)}
        if image is None:
            self.store.give_up(job, facts["verdict"], facts)
        else:
            self.store.keep(job, image, facts)
        self._claims.pop(job.key).finish()
        return image is not None

    def _settle(self, pending: deque[list[Future[bool]]]) -> None:
        """Wait for the oldest batch to be written.

        Raises:
            OSError: it could not be.
        """
        started = time.monotonic()
        try:
            for kept in [one.result() for one in pending.popleft()]:
                self.ledger.images += kept
                self.ledger.failed += not kept
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
            raise OSError(
                error.errno,
                f"images cannot be written to {self.store.root}: {reason}. What was made is kept; "
                "mend it and give the same command again.",
            ) from error
        self.ledger.wait_seconds += time.monotonic() - started


def check_writable(folder: Path) -> None:
    """Refuse a folder that nothing can be written to, before a model is loaded.

    Raises:
        OSError: it cannot be written to.
    """
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        raise OSError(
            error.errno, f"{folder} cannot be written to ({error.strerror}): set paths.stores to a folder that can."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
