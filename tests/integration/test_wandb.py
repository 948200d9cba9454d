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


@pytest.mark.cli
def test_where_the_network_looks_is_kept_as_numbers_pictures_and_curves(tiny_folder, tmp_path):
    looks = {"callbacks": "explain", "explain__images": 6, "explain__workers": 1, "explain__min_prediction": 0.1}
    done = run_cli(*tiny_folder.overrides(protocol="last", logger="wandb", recipe__epochs=5, **looks), cwd=tmp_path)
    assert done.rc == 0, done.stderr
    [media] = tmp_path.glob("runs/*/*/*/wandb/offline-run-*/files/media")
    pictures = {path.name.rsplit("_", 2)[0] for path in media.glob("images/explain/*.png")}
    assert pictures == {"test", "curves"}
    assert len(list(media.glob("images/explain/test_*.png"))) == 2  # after five epochs, and at the test
    assert list(media.glob("table/explain/curves/*.json"))
    [run] = media.parents[1].glob("*.wandb")
    content = run.read_bytes()
    assert all(f"explain/test/{name}".encode() in content for name in ("insertion", "energy", "degenerate"))
