"""Sweeps in which something goes wrong: no job loses another, and each that failed says why."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
from conftest import Finished, TinyFolder, run_cli
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import OmegaConf

import genaug.launch  # noqa: F401 - brings the resolvers
from genaug.reports.__main__ import main
from genaug.reports.failures import failures
from genaug.sweeps import Search

CONF = Path(__file__).parents[2] / "conf"
needs_sweep = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None, reason="needs genaug[sweep]"
)
pytestmark = [pytest.mark.cli, pytest.mark.slow]


def breaker(**arguments: object) -> list[str]:
    """Overrides that put :class:`spies.Breaker` into every job."""
    found = {"_target_": "spies.Breaker", **arguments}
    return [f"+callbacks.breaker.{key}={value}" for key, value in found.items()]


def sweep(data: TinyFolder, cwd: Path, monkeypatch: pytest.MonkeyPatch, *more: str, **changes: object) -> Finished:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    return run_cli("-m", *data.overrides(debug="fast", **changes), *more, cwd=cwd)


def finished(cwd: Path) -> list[int]:
    """Seeds of the jobs that have results."""
    return sorted(json.loads(file.read_text())["seed"] for file in cwd.rglob("results.json"))


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=needs_sweep)])
def test_a_broken_job_loses_no_other(launcher, tiny_folder, tmp_path, monkeypatch):
    """The first job breaks while it trains, by an exception that cannot be sent; the second has a wrong value."""
    broken = breaker(seed=1)
    done = sweep(tiny_folder, tmp_path, monkeypatch, f"hydra/launcher={launcher}", *broken, seed="1,abc,2")
    assert done.rc == 1
    assert finished(tmp_path) == [2]
    found = {failure.overrides.split("seed=")[1].split()[0]: failure for failure in failures([tmp_path])}
    assert {seed: failure.error for seed, failure in found.items()} == {
        "1": "spies.TwoPartsError: the job is broken at seed 1",
        "abc": "genaug.launch.WrongValue: seed=abc is not a whole number.",
    }
    assert "in on_train_start" in found["1"].traceback
    end = done.stderr[done.stderr.index("2 of 3 jobs failed") :]
    assert "  seed=1: spies.TwoPartsError: the job is broken at seed 1\n    runs/folder/vanilla/" in end
    assert "  seed=abc: genaug.launch.WrongValue: seed=abc is not a whole number.\n    runs/folder/vanilla/" in end
    assert not (tmp_path / "runs" / ".sweeps").exists()
    if launcher == "basic":
        assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "report.md")]) == 0
        report = (tmp_path / "report.md").read_text()
        assert "| vanilla |" in report
        assert report.count("Traceback (most recent call last)") == 2
        repaired = sweep(tiny_folder, tmp_path, monkeypatch, seed="1,2")
        assert repaired.rc == 0, repaired.stderr
        assert finished(tmp_path) == [1, 2]
        assert [failure.overrides.split("seed=")[1].split()[0] for failure in failures([tmp_path])] == ["abc"]


def test_a_broken_job_of_two_processes_does_not_end_the_sweep(tiny_folder, tmp_path, monkeypatch):
    """Lightning kills the process whose other ranks have died, seconds later: by then it is at the next job."""
    two = {"trainer__devices": 2, "trainer__strategy": "ddp", "recipe__batch_size": 16}
    done = sweep(tiny_folder, tmp_path, monkeypatch, *breaker(seed=1), seed="1,0", protocol="last", **two)
    assert done.rc == 1, done.stderr
    assert finished(tmp_path) == [0]
    [failure] = failures([tmp_path])
    assert failure.error == "spies.TwoPartsError: the job is broken at seed 1"


@needs_sweep
def test_a_killed_search_goes_on(tiny_folder, tmp_path, monkeypatch):
    """Of three trials the first is killed; started again it is made first, with the values that it had."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    import optuna

    drawn = ("hydra/sweeper=search", "hydra.sweeper.n_trials=3", "recipe.optimizer.lr=interval(0.001,0.1)")
    kill = {"_target_": "spies.Killer", "folder": tmp_path / "marks", "steps": "[4]"}
    fatal = [f"+callbacks.killer.{key}={value}" for key, value in kill.items()]
    (tmp_path / "marks").mkdir()
    assert sweep(tiny_folder, tmp_path, monkeypatch, *drawn, *fatal).rc == -9
    storage = f"sqlite:///{tmp_path}/runs/searches.db"
    [name] = [study.study_name for study in optuna.get_all_study_summaries(storage)]
    assert name.startswith("folder/vanilla/")
    [first] = optuna.load_study(study_name=name, storage=storage).trials
    done = sweep(tiny_folder, tmp_path, monkeypatch, *drawn, *fatal)
    assert done.rc == 0, done.stderr
    trials = optuna.load_study(study_name=name, storage=storage).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials[1].params == first.params
    assert len({trial.params["recipe.optimizer.lr"] for trial in trials}) == len(finished(tmp_path)) == 3
    best = OmegaConf.load(tmp_path / "runs" / "optimization_results.yaml")
    assert best.best_value == max(trial.value for trial in trials[1:])
    sweeper = {"storage": storage, "study_name": name, "n_trials": 3}
    again = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "sweeper": sweeper}})
    Search().on_multirun_start(again)
    assert again.hydra.sweeper.n_trials == 0  # nothing is left to do


@needs_sweep
def test_another_fixed_value_is_another_search():
    setup_globals()
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))

    def study(*overrides: str) -> str:
        search = ["experiment=deda_search", *overrides]
        cfg = loader.load_configuration("config", search, run_mode=RunMode.MULTIRUN, validate_sweep_overrides=False)
        for key in cfg.hydra.sweeper.params:
            assert OmegaConf.select(cfg, key) is not None
        return cfg.hydra.sweeper.study_name

    assert study() == study("logger=none")
    assert len({study(), study("dataset=cub"), study("seed=3"), study("method.view.p_aug=0.25")}) == 4


@needs_sweep
def test_slurm_queues_again_what_ran_out_of_time(monkeypatch, tmp_path):
    """What sbatch is told; there is no SLURM here."""
    from submitit.slurm.slurm import _make_sbatch_string

    setup_globals()
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    asked = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu"]
    cfg = loader.load_configuration("config", asked, run_mode=RunMode.MULTIRUN)
    assert cfg.hydra.launcher.max_num_timeout == 100
    base = ("timeout_min", "signal_delay_s", "array_parallelism", "partition", "gpus_per_node", "cpus_per_task")
    told = {name: cfg.hydra.launcher[name] for name in base if name != "timeout_min"}
    text = _make_sbatch_string("python", str(tmp_path), time=cfg.hydra.launcher.timeout_min, map_count=40, **told)
    for line in ("--array=0-39%16", "--signal=USR2@120", "--time=240", "--open-mode=append", "--partition=gpu"):
        assert f"#SBATCH {line}" in text
