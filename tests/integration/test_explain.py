"""Networks explained while they train, at the test, and afterwards, as a person would have it done."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, TinyFolder, run_cli
from hydra import compose, initialize_config_dir

from genaug import experiment
from genaug.explaining.finished import find_finished
from genaug.launch import WrongValue

MEASURES = ("aic", "sic", "insertion", "deletion", "energy")


def run_here(data: TinyFolder, output: Path, *more: str, **changes: object) -> Path:
    """Run an experiment in this process, its files in ``output``."""
    here = {"paths__output": output, "paths__stores": output / "stores", "explain__workers": 1}
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        experiment.run(compose("config", [*data.overrides(**here, **changes), *more]))
    return output


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "final.ckpt", weights_only=True)["state_dict"]


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


@pytest.fixture(scope="module")
def training(tiny_folder: TinyFolder) -> dict[str, object]:
    """Six epochs with everything that draws random numbers: flips, mixing, dropout of order."""
    return {"recipe__epochs": 6, "method": "cutmix", "explain__images": 12, "explain__min_prediction": 0.2}


@pytest.fixture(scope="module")
def explained(tiny_folder, training, tmp_path_factory) -> Path:
    """A run that was explained after every second epoch and at its test."""
    looks = {"callbacks": "explain", "callbacks__explain__every_n_epochs": 2}
    return run_here(tiny_folder, tmp_path_factory.mktemp("explained"), **training, **looks)


@pytest.fixture(scope="module")
def plain(tiny_folder, training, tmp_path_factory) -> Path:
    """The same run without being explained."""
    return run_here(tiny_folder, tmp_path_factory.mktemp("plain"), **training)


def test_training_is_not_touched(explained, plain):
    with_looks, without = weights(explained), weights(plain)
    assert with_looks.keys() == without.keys()
    assert all(torch.equal(with_looks[name], without[name]) for name in without)  # to the last bit
    same = ("config", "scores", "selection", "steps")
    assert {key: results(explained)[key] for key in same} == {key: results(plain)[key] for key in same}


def test_the_clock_of_training_stands_still_while_it_is_explained(explained):
    found = results(explained)
    assert found["cost"]["training_seconds"] < found["stage_seconds"]["train"] - found["explain"]["seconds"]


def test_results_tables_and_pictures_agree(explained):
    found = results(explained)["explain"]
    assert found["settings"]["explainer"] == "GradCAM"
    assert found["settings"]["images"] == 12
    [(split, numbers)] = found["splits"].items()
    assert split == "test"
    folder = explained / "explain" / "final"
    rows = list(csv.DictReader((folder / "test.csv").open()))
    assert len(rows) == numbers["images"] == 12
    assert numbers["right"] == sum(row["right"] == "True" for row in rows)
    for measure in MEASURES:
        values = [float(row[measure]) for row in rows if row[measure]]
        assert len(values) == numbers[measure]["n"]
        assert sum(values) / len(values) == pytest.approx(numbers[measure]["mean"])
    for measure in ("aic", "sic"):
        skipped, degenerate = sum(numbers[measure]["skipped"].values()), sum(numbers["degenerate"].values())
        assert numbers[measure]["n"] + skipped + degenerate == 12
        assert len(numbers["curves"][measure]["mean"]) == 21
        assert numbers["curves"][measure]["mean"][-1] == 1
    for file in ("test.png", "curves.png", "curves.csv"):
        assert (folder / file).stat().st_size > 0
    assert len(list(csv.DictReader((folder / "curves.csv").open()))) == 1001


def test_it_looked_when_it_was_to(explained):
    folders = sorted(path.name for path in (explained / "explain").iterdir())
    assert folders == ["epoch_0002", "epoch_0004", "epoch_0006", "final"]
    [metrics] = explained.glob("metrics/*/metrics.csv")
    rows = [row for row in csv.DictReader(metrics.open()) if row["explain/test/energy"]]
    assert len(rows) == 4
    assert float(rows[-1]["explain/test/energy"]) == pytest.approx(
        results(explained)["explain"]["splits"]["test"]["energy"]["mean"], rel=1e-5
    )


def test_a_finished_run_is_explained_later_without_training_again(plain, explained, tiny_folder, training, tmp_path):
    run = shutil.copytree(plain, tmp_path / "run")
    before = results(run)
    assert "explain" not in before
    run_here(tiny_folder, run, **training, callbacks="explain")
    after = results(run)
    assert after["explain"]["splits"] == results(explained)["explain"]["splits"]
    assert after["cost"] == before["cost"]
    assert after["stage_seconds"]["train"] < before["stage_seconds"]["train"] + 1
    run_here(tiny_folder, run, **training, stage="evaluate")  # and what was found stays
    assert results(run)["explain"] == after["explain"]


def test_images_and_classes_that_are_explained_are_the_same_for_every_run(explained, tiny_folder, training, tmp_path):
    other = run_here(tiny_folder, tmp_path, **training | {"seed": 1}, callbacks="explain")
    ids = [
        [(row["id"], row["explained"]) for row in csv.DictReader((run / "explain/final/test.csv").open())]
        for run in (explained, other)
    ]
    assert ids[0] == ids[1]


@pytest.mark.cli
def test_two_processes_give_the_numbers_of_one(tiny_folder, tmp_path):
    shared = {
        "debug": "fast",
        "recipe__batch_size": 16,
        "callbacks": "explain",
        "explain__images": 17,
        "explain__min_prediction": 0.1,
        "explain__workers": 1,
        "callbacks__explain__every_n_epochs": 1,
    }
    found = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        more = {"trainer__devices": 2, "trainer__strategy": "ddp"} if processes == 2 else {}
        stage = {"stage": "all"}
        if processes == 2:  # the weights of the one process, so that only the explaining differs
            shutil.copytree(tmp_path / "1" / "runs", folder / "trained")
            command = tiny_folder.overrides(**shared, **more, **stage)
            first = run_cli(*command, "stage=train", cwd=folder)
            assert first.rc == 0, first.stderr
            [there] = (folder / "runs").glob("*/*/*/checkpoints/final.ckpt")
            [ours] = (folder / "trained").glob("*/*/*/checkpoints/final.ckpt")
            shutil.copy(ours, there)
        done = run_cli(*tiny_folder.overrides(**shared, **more, **stage), cwd=folder)
        assert done.rc == 0, done.stderr
        [file] = folder.glob("runs/*/*/*/results.json")
        found[processes] = json.loads(file.read_text())
        found[processes]["rows"] = (file.parent / "explain" / "final" / "test.csv").read_text()
    assert found[2]["device"] == "2 x cpu"
    assert found[1]["explain"]["splits"] == found[2]["explain"]["splits"]
    assert found[1]["rows"] == found[2]["rows"]


# --- several runs --------------------------------------------------------------------------------------------------


@pytest.mark.cli
def test_runs_are_compared_on_the_same_images(tiny_folder, tmp_path):
    jobs = tiny_folder.overrides(recipe__epochs=4, protocol="last", method="vanilla,cutmix")
    assert run_cli("-m", *jobs, cwd=tmp_path).rc == 0
    runs = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("runs/*/*/*"))
    done = run_cli(
        "stage=explain", f"runs={','.join(runs)}", "explain.images=12", "explain.min_prediction=0.1", cwd=tmp_path
    )
    assert done.rc == 0, done.stderr
    assert "vanilla - cutmix" in done.stdout
    [file] = tmp_path.glob("runs/comparisons/*/comparison.json")
    record = json.loads(file.read_text())
    assert list(record["runs"]) == ["cutmix", "vanilla"]
    numbers = record["splits"]["test"]
    for measure in MEASURES:
        found = numbers[measure]
        assert found["n"] <= min(one["n"] for one in found["alone"].values())
        if found["differences"]["vanilla"] is not None:
            gap = found["means"]["vanilla"] - found["means"]["cutmix"]
            assert found["differences"]["vanilla"]["mean"] == pytest.approx(gap)
    assert list(file.parent.glob("test_*all_right.png"))
    assert not (tmp_path / "runs" / "toybirds").exists()  # a comparison leaves no folder of a run behind


@pytest.mark.parametrize(
    ("runs", "message"),
    [(None, "stage=explain needs runs=a,b"), (["nowhere"], "nowhere is no finished run"), (["no*"], "is no finished")],
)
def test_runs_that_are_not_there_are_named(runs, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        find_finished(runs)


def test_runs_of_other_data_are_not_compared(plain, tiny_folder, tmp_path):
    other = run_here(tiny_folder, tmp_path / "other", recipe__epochs=1, dataset__image_size=24)
    for run in (plain, other):
        assert (run / "config.yaml").exists()
    with pytest.raises(WrongValue, match="their crop differ"):
        run_here(tiny_folder, tmp_path / "comparison", f"runs=[{plain},{other}]", stage="explain")
