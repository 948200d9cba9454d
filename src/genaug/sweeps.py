"""Hydra callbacks around a sweep: which jobs failed, said at its end; and searches that go on where they stopped."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

log = logging.getLogger(__name__)

#: Folder, under that of the sweep's runs, of notes that are deleted when it ends.
NOTES = ".sweeps"


class JobNotes(Callback):
    """Notes how each job of a sweep ends, in whatever process or on whatever machine.

    Hydra hands this object to the launcher, which sends it along with each job. The launcher's own answer is no help:
    Hydra stops reading it at the first failure, and of a job that was killed there is none.
    """

    #: Where the notes of the sweep lie that this process started.
    folder: ClassVar[Path | None] = None

    def __init__(self) -> None:
        self.notes: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Choose where to note."""
        self.notes = JobNotes.folder = Path(config.hydra.sweep.dir).absolute() / NOTES / uuid.uuid4().hex
        self.notes.mkdir(parents=True)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """A job of which nothing else is noted was killed, or is still at work where the launcher gave up waiting."""
        self._note(config, "has not ended: killed, or still at work")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Note whether it failed; its folder has the reason."""
        self._note(config, None if job_return.status == JobStatus.COMPLETED else "failed")

    def _note(self, config: DictConfig, trouble: str | None) -> None:
        if self.notes is not None and self.notes.exists():  # a single run has none
            folder, overrides = str(config.hydra.runtime.output_dir), list(config.hydra.overrides.task)
            note = {"folder": folder, "overrides": overrides, "trouble": trouble}
            (self.notes / f"{config.hydra.job.num}.json").write_text(json.dumps(note))


def end_of_sweep() -> bool:
    """Say which jobs of the sweep that this process started failed, and where the reason is.

    Returns:
        Whether any did.
    """
    from genaug.privacy import hide_override
    from genaug.reports.failures import FAILED, failures, shown

    if JobNotes.folder is None:
        return False
    files = sorted(JobNotes.folder.glob("*.json"), key=lambda file: int(file.stem))
    jobs = [json.loads(file.read_text()) for file in files]
    shutil.rmtree(JobNotes.folder)
    with contextlib.suppress(OSError):  # another sweep is at work
        JobNotes.folder.parent.rmdir()
    JobNotes.folder = None
    lost = [job for job in jobs if job["trouble"]]
    if lost:
        print(f"{len(lost)} of {len(jobs)} jobs failed; the same command tries them again:", file=sys.stderr)
    shared = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    for job in lost:
        folder = Path(job["folder"])
        reasons = failures([folder])
        what = reasons[0].error if reasons else job["trouble"]
        overrides = " ".join(hide_override(one) for one in job["overrides"] if one not in shared)
        print(f"  {overrides}: {what}\n    {shown(folder / FAILED if reasons else folder)}", file=sys.stderr)
    return bool(lost)


class Search(Callback):
    """Makes Optuna's ``n_trials`` those of a search in all, however often it was started."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Take away the trials that are done; what was interrupted comes first, and goes on from its checkpoint."""
        sweeper = config.hydra.sweeper
        if not sweeper.get("storage"):
            return
        import optuna
        from optuna.trial import TrialState

        Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # sqlite makes files, not folders
        if sweeper.study_name not in [study.study_name for study in optuna.get_all_study_summaries(sweeper.storage)]:
            return
        study = optuna.load_study(study_name=sweeper.study_name, storage=sweeper.storage)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
        done = len(study.get_trials(states=(TrialState.COMPLETE,)))
        sweeper.n_trials = max(0, sweeper.n_trials - done)
        log.info("%d trials of %s are done, %d to go", done, study.study_name, sweeper.n_trials)
