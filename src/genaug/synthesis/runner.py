"""Carries out a plan: every job exactly once, on any number of devices, machines and processes.

Batches are claimed one by one with a file lock in the store, which the operating system releases when a process dies.
So a killed run leaves nothing to clean up, a slow device takes fewer batches, and a second command that is started on
the same store helps the first. What an image looks like depends on its job alone.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from filelock import FileLock
from torch.utils.data import DataLoader

from genaug.console import counting
from genaug.seeding import derive
from genaug.synthesis.gates import verdict
from genaug.synthesis.image_store import ImageStore
from genaug.synthesis.jobs import Job, chunks
from genaug.synthesis.speeds import keep_speed
from genaug.synthesis.store import content_key
from genaug.threads import thread_pool

log = logging.getLogger(__name__)

#: Seconds between two looks at batches that another process is making.
WAIT = 0.5
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

    def render(self, jobs: Sequence[Job], seeds: Sequence[int]) -> list[np.ndarray | None]:
        """Make one image a job, ``(H, W, 3)`` uint8; the jobs are of one shape.

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
        writers: Threads that encode and write while the next batch is being made.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(self, trainer: pl.Trainer, stores: Path, retries: int = 2, writers: int = 2) -> None:
        if retries < 0 or writers < 1:
            raise ValueError(f"retries must be at least 0 and writers at least 1, got {retries} and {writers}")
        self.trainer, self.stores, self.retries, self.writers = trainer, Path(stores), retries, writers

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
        damaged = [job for job in jobs if job.key in store and not store.is_done(job)]
        if damaged:
            log.warning("%d images of %s are missing or cut short and are made again", len(damaged), store.root)
        ledger = Ledger()
        # Processes that belong together take part together, whatever each of them finds still missing.
        if torch.distributed.is_initialized() or any(not store.is_done(job) for job in jobs):
            check_writable(store.root)
            work = _Work(jobs, renderer, store, name, ledger, self.retries, self.writers)
            once: Any = [0]  # each process is called once and takes its share by itself
            self.trainer.predict(work, DataLoader(once, batch_size=None), return_predictions=False)
            store.refresh()
            if ledger.images:
                keep_speed(self.stores, renderer.speed_key, ledger.wall_seconds / ledger.images)
        store.write_metadata()
        return ledger


class _Work(pl.LightningModule):
    """Lightning starts the processes and says which device this one has; the rest is :meth:`predict_step`."""

    def __init__(
        self,
        jobs: Sequence[Job],
        renderer: Renderer,
        store: ImageStore,
        name: str,
        ledger: Ledger,
        retries: int,
        writers: int,
    ) -> None:
        super().__init__()
        self.jobs, self.renderer, self.store, self.name_of_work = jobs, renderer, store, name
        self.ledger, self.retries, self.writers = ledger, retries, writers
        #: Images given up since the start; None once one was kept.
        self._in_vain: int | None = 0

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """All of this process's share."""
        started = time.monotonic()
        self.renderer.load(str(self.device))
        self.ledger.load_seconds = time.monotonic() - started
        started = time.monotonic()
        with torch.autocast(self.device.type, enabled=False):  # the training's precision is not the generator's
            self._make_all()
        self.ledger.wall_seconds = time.monotonic() - started

    def _make_all(self) -> None:
        plan = chunks(self.jobs, self.renderer.batch_size)
        missing = sum(not self.store.is_done(job) for job in self.jobs)
        pending: deque[Future[None]] = deque()
        with (
            counting(missing, self.name_of_work) as advance,
            thread_pool(self.writers) as pool,
        ):
            for chunk, claim in self._claimed(plan, pending):
                done = self._make(chunk)
                pending.append(pool.submit(self._write, done, claim))
                while len(pending) > 1:  # one batch is written while the next is made; more could be lost to a kill
                    self._settle(pending)
                advance(len(chunk))
            while pending:
                self._settle(pending)

    def _claimed(self, plan: Sequence[list[Job]], pending: deque[Future[None]]) -> Iterator[tuple[list[Job], FileLock]]:
        """Missing jobs of batches that are this process's to make, until all batches of the plan are done.

        This process's share comes first, then what the others have not got to.
        """
        rank, world = self.global_rank, self.trainer.world_size
        left = [*plan[rank::world], *(chunk for other in range(world) if other != rank for chunk in plan[other::world])]
        while left:
            later = []
            for chunk in left:
                missing = [job for job in chunk if not self.store.is_done(job)]
                if not missing:
                    continue
                claim = self.store.claim(content_key(*(job.key for job in chunk)))
                if claim is None:
                    later.append(chunk)
                    continue
                self.store.refresh()  # another process may have made and released it in between
                missing = [job for job in missing if not self.store.is_done(job)]
                for job in missing:
                    self.store.clear(job)
                if missing:
                    yield missing, claim
                else:
                    claim.release()
            while pending:  # some of what is left may be our own, not yet written
                self._settle(pending)
            self.store.refresh()
            left = [chunk for chunk in later if not all(self.store.is_done(job) for job in chunk)]
            if left:
                time.sleep(WAIT)
                self.ledger.wait_seconds += WAIT

    def _make(self, jobs: list[Job]) -> list[tuple[Job, np.ndarray | None, dict[str, Any]]]:
        """Images, retried with new seeds where one cannot be used; None for what is given up."""
        finished: list[tuple[Job, np.ndarray | None, dict[str, Any]]] = []
        trying = jobs
        for attempt in range(self.retries + 1):
            seeds = [job.seed if attempt == 0 else derive(job.seed, "retry", attempt) for job in trying]
            started = time.monotonic()
            images = self.renderer.render(trying, seeds)
            seconds = time.monotonic() - started
            self.ledger.render_seconds += seconds
            self.ledger.denoiser_steps += sum(job.steps for job in trying)
            again = []
            for job, image in zip(trying, images, strict=True):
                said = verdict(image)
                if said == "ok" and image is not None:
                    said = self.renderer.verdict(job, image)
                facts = {"attempts": attempt + 1, "seconds": round(seconds / len(trying), 4), "verdict": said}
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

    def _write(self, made: Sequence[tuple[Job, np.ndarray | None, Mapping[str, Any]]], claim: FileLock) -> None:
        try:
            for job, image, facts in made:
                facts = {**facts, "device": str(self.device)}
                if image is None:
                    self.store.give_up(job, facts["verdict"], facts)
                    self.ledger.failed += 1
                else:
                    self.store.keep(job, image, facts)
                    self.ledger.images += 1
        finally:
            claim.release()

    def _settle(self, pending: deque[Future[None]]) -> None:
        """Wait for the oldest batch to be written.

        Raises:
            OSError: it could not be.
        """
        started = time.monotonic()
        try:
            pending.popleft().result()
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
        probe.unlink(missing_ok=True)
