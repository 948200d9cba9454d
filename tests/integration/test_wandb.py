"""Weights & Biases without a server: one run a job."""

from __future__ import annotations

import pytest
from conftest import run_cli

pytest.importorskip("wandb")


@pytest.mark.cli
def test_each_job_of_a_sweep_has_a_run_of_its_own(tiny_folder, tmp_path):
    """An open run would take the next job's metrics: two jobs would leave one run."""
    jobs = tiny_folder.overrides(method="vanilla,cutmix", protocol="last", logger="wandb", debug="fast")
    done = run_cli("-m", *jobs, cwd=tmp_path)
    assert done.rc == 0, done.stderr
    assert len(list(tmp_path.glob("runs/*/*/*/results.json"))) == 2
    runs = list(tmp_path.glob("runs/*/*/*/wandb/offline-run-*/*.wandb"))
    assert len(runs) == len({run.parents[2] for run in runs}) == 2
