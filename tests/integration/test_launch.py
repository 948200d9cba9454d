"""Sweeps and DDP: two processes at work on the same thing, and nothing left behind for the next job."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest
from conftest import TinyFolder, run_cli
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from genaug.launch import WrongValue, check_values, explain, one_job

CONF = Path(__file__).parents[2] / "conf"
RIGHT = OmegaConf.create(
    {"seed": 0, "stage": "all", "protocol": "heldout", "budget": "steps", "val_fraction": 0.1}
    | {"subset": {"shots": None, "imbalance": None, "seed": 0}, "paths": {"output": "/nowhere"}}
)
DDP = {"trainer__devices": 2, "trainer__strategy": "ddp", "debug": "fast", "recipe__batch_size": 16}


def sweep(data: TinyFolder, cwd: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[dict]:
    """Run a sweep of two-process jobs in ``cwd``, and return what its processes noted."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    spy = ("+callbacks.spy._target_=spies.Spy", "+callbacks.spy.folder=notes", "+callbacks.spy.config=${run_id:}")
    done = run_cli("-m", *data.overrides(**DDP), *spy, *overrides, cwd=cwd)
    assert done.rc == 0, done.stderr
    return [json.loads(file.read_text()) for file in (cwd / "notes").iterdir()]


def check_ranks(notes: list[dict]) -> dict[str, tuple[dict, dict]]:
    """Assert that each job was trained by two processes that agree; return the notes by configuration."""
    jobs = {note["config"]: note for note in notes if note["rank"] == 0}
    others = {note["config"]: note for note in notes if note["rank"] == 1}
    assert len(notes) == 4
    assert len(jobs) == len(others) == 2
    assert {note["world"] for note in notes} == {2}
    for config, note in jobs.items():
        other = others[config]
        assert (note["mode"], other["mode"]) == ("MULTIRUN", "RUN")  # a rank runs its job and no sweep of its own
        assert [note[key] for key in ("folder", "seed", "lr")] == [other[key] for key in ("folder", "seed", "lr")]
    assert len({note["process"] for note in jobs.values()}) == 1
    assert len({note["process"] for note in others.values()}) == 2
    return {config: (jobs[config], others[config]) for config in jobs}


def results(cwd: Path) -> dict[str, dict]:
    """All ``results.json`` below ``cwd`` by the folder they lie in."""
    return {str(file.parent): json.loads(file.read_text()) for file in cwd.rglob("results.json")}


def test_ranks_of_a_sweep_train_the_same_job(tiny_folder, tmp_path, monkeypatch):
    jobs = check_ranks(sweep(tiny_folder, tmp_path, monkeypatch, "seed=0,1", "protocol=last"))
    assert {job["seed"] for job, _ in jobs.values()} == {0, 1}
    found = results(tmp_path)
    assert set(found) == {job["folder"] for job, _ in jobs.values()}
    assert len(list((tmp_path / "runs" / "folder" / "vanilla").iterdir())) == 2
    for folder, result in found.items():
        assert result["config"] == Path(folder).name
        assert result["device"] == "2 x cpu"
        # 17 images on two processes: the one that evens them out is not counted
        assert result["scores"]["test"]["n"] == tiny_folder.test == 17
        with (Path(folder) / "predictions.csv").open(newline="") as file:
            answers = list(csv.DictReader(file))
        assert [row["id"] for row in answers] == sorted(
            str(path.relative_to(tiny_folder.root)) for path in (tiny_folder.root / "test").rglob("*.png")
        )
        right = sum(row["label"] == row["predicted"] for row in answers)
        assert right / 17 == pytest.approx(result["scores"]["test"]["accuracy"])
        assert {row["split"] for row in answers} == {"test"}
        assert all(1 / 3 <= float(row["confidence"]) <= 1 for row in answers)


HAS_OPTUNA = importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is not None


@pytest.mark.skipif(not HAS_OPTUNA, reason="needs genaug[sweep]")
def test_ranks_train_with_the_values_an_unseeded_sampler_drew(tiny_folder, tmp_path, monkeypatch):
    sweeper = ("hydra/sweeper=optuna", "hydra/sweeper/sampler=random")
    optuna = (*sweeper, "hydra.sweeper.n_trials=2", "hydra.sweeper.direction=maximize")
    drawn = ("recipe.optimizer.lr=interval(0.001,0.1)", "protocol=heldout")
    jobs = check_ranks(sweep(tiny_folder, tmp_path, monkeypatch, *optuna, *drawn))
    rates = {job["lr"] for job, _ in jobs.values()}
    assert len(rates) == 2
    assert all(0.001 <= rate <= 0.1 for rate in rates)
    scores = [result["selection"]["score"] for result in results(tmp_path).values()]
    best = OmegaConf.load(tmp_path / "runs" / "optimization_results.yaml")
    assert best.best_value == max(scores)


def test_a_job_leaves_the_process_as_it_was(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(sys, "argv", ["run.py", "-m", "seed=0,1"])
    spec = sys.modules["__main__"].__spec__
    with pytest.raises(RuntimeError, match="of the job"), one_job(RIGHT):
        os.environ.update(MASTER_PORT="12345", LOCAL_RANK="0")
        sys.argv = ["something else"]
        raise RuntimeError("of the job")
    assert os.environ["MASTER_PORT"] == "29500"
    assert "LOCAL_RANK" not in os.environ
    assert sys.argv == ["run.py", "-m", "seed=0,1"]
    assert sys.modules["__main__"].__spec__ is spec


def hydra_of_a_job(mode: RunMode) -> DictConfig:
    """What Hydra says of itself in a job that was started from elsewhere, with a folder of configurations more."""
    sources = [{"provider": "main", "path": str(CONF)}, {"provider": "command-line", "path": "/own/conf"}]
    overrides = {"hydra": ["hydra.searchpath=[file:///more]", "hydra.mode=MULTIRUN"], "task": ["seed=1", "method=deda"]}
    runtime = {"cwd": "/elsewhere", "output_dir": "/runs/one", "config_sources": sources}
    job = {"name": "renamed"}
    tree = {"mode": mode, "job": job, "run": {"dir": "/runs"}, "runtime": runtime, "overrides": overrides}
    return OmegaConf.create({"hydra": tree})


def test_in_a_sweep_the_command_line_becomes_that_of_the_job(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["worker.py", "-m", "seed=0,1"])
    monkeypatch.setattr(HydraConfig.instance(), "cfg", hydra_of_a_job(RunMode.MULTIRUN))
    with one_job(RIGHT):
        script, more, *overrides = sys.argv
        assert HydraConfig.get().run.dir == "/runs/one"
    assert Path(script) == CONF.parent / "run.py"
    assert more == "--config-dir=/own/conf"
    assert overrides[:2] == ["hydra.searchpath=[file:///more]", "hydra.mode=MULTIRUN"]
    assert overrides[2:] == ["seed=1", "method=deda", "hydra.mode=RUN"]


def test_outside_a_sweep_the_command_line_stays(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "seed=1"])
    monkeypatch.setattr(HydraConfig.instance(), "cfg", hydra_of_a_job(RunMode.RUN))
    with one_job(RIGHT):
        assert sys.argv == ["run.py", "seed=1"]
        assert HydraConfig.get().run.dir == "/runs"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"stage": "foo"},
            "stage=foo is not known: choose one of all, synthesize, train, evaluate, check_data, explain, assess, ",
        ),
        ({"stage": "trian"}, "train_generator. Did you mean 'train'?"),
        ({"budget": "x"}, "budget=x is not known: choose one of steps, epochs."),
        ({"protocol": "x"}, "protocol=x is not known: choose one of heldout, last, paper."),
        ({"val_fraction": 1}, "val_fraction=1 must be a number between 0 and 1."),
        ({"val_fraction": "some"}, "val_fraction=some must be a number between 0 and 1."),
        ({"seed": "abc"}, "seed=abc is not a whole number."),
        ({"subset": {"shots": 0}}, "subset.shots=0 must be a whole number of images per class, 1 or more, or null."),
        ({"subset": {"shots": 2.5}}, "subset.shots=2.5 must be a whole number"),
        ({"subset": {"shots": "ten"}}, "subset.shots=ten must be a whole number"),
        ({"subset": {"shots": True}}, "subset.shots=True must be a whole number"),
        ({"subset": {"imbalance": 0}}, "subset.imbalance=0 must be a number above 0 and at most 1, as 0.01, or null."),
        ({"subset": {"imbalance": 100}}, "subset.imbalance=100 must be a number above 0"),
        ({"subset": {"imbalance": "some"}}, "subset.imbalance=some must be a number above 0"),
        ({"subset": {"seed": None}}, "subset.seed=None is not a whole number."),
        ({"dataset": {"root": "???"}}, "Without a value: dataset.root."),
    ],
)
def test_wrong_values_are_named(change, message):
    check_values(RIGHT)
    with pytest.raises(WrongValue, match=re.escape(message)):
        check_values(OmegaConf.merge(RIGHT, change))


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["method=deda", "method.view.p_agu=0.3"], ["No key 'method.view.p_agu'.", "Did you mean 'p_aug'?"]),
        (["metod=deda"], ["No key 'metod'. There are: assess, budget,", "Did you mean 'method'?"]),
        (["dataset=folder", "dataset.root=x", "+new.key=1", "hydra.mod=RUN", "seed=3"], []),
        (["method=foo", "seeed=1"], []),
    ],
)
def test_explanations_of_misspelt_keys(overrides, lines, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(CONF.parent / "run.py"), *overrides])
    said = explain(overrides)
    assert len(said) == (1 if lines else 0)
    assert all(line in said[0] for line in lines)
