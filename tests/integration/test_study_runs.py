"""Every study, small: a cheap job of each is run to its results, and a half-done sweep goes on."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_cli, run_python
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from genaug.experiment import run
from genaug.launch import run_folder

CONF = REPOSITORY / "conf"
SMALL = ("dataset=toybirds", "debug=fast", "dataset.train_per_class=2", "dataset.test_per_class=4")
#: One synthetic object of each real one and no learned words: studies of De-DA share them.
OBJECTS = ("method=deda", "method.synthesis.edit.copies=1", "method.synthesis.edit.inversion=null")
#: A job of each that takes some seconds.
JOBS: dict[str, tuple[str, ...]] = {
    "aga_figure6": ("method=aga", "method.synthesis.backgrounds=4", "generator.batch_size=4", "model=tiny"),
    "aga_figure8": ("method=randaugment",),
    "aga_table1": ("method=vanilla", "model=resnet18"),
    "aga_table2": ("method=vanilla", "model=resnet18"),
    "deda_figure5a": ("method=saliencymix", "recipe=fgvc_scratch"),
    "deda_figure5b": ("method=real_guidance", "method.scale=1"),
    "deda_figure7": ("method=vanilla", "transform=randaugment"),
    "deda_figure8": (*OBJECTS, "method.view={p_syn:1.0}"),
    "deda_figure8d": (*OBJECTS, "method.synthesis.edit.strength=0.4"),
    "deda_figure9": (*OBJECTS, "method.view={cip:own,placement:original,p_aug:0.25,p_syn:1.0,p_mix:0.0}"),
    "deda_table2": ("method=mixup", "recipe=fgvc_scratch"),
    "deda_table3": ("method=cutmix",),
    "deda_table4": ("method=guided_sr", "recipe=demo", "subset.shots=2"),
    "deda_table5": ("method=vanilla",),
    "deda_table8": (*OBJECTS, "method.view.p_aug=0.75"),  # as such they are those of Figure 8d, and done
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of all these runs, and Hydra, started once."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield tmp_path_factory.mktemp("studies")


def job(study: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """The configuration of a job, as Hydra would hand it over."""
    places = [f"paths.{name}={home}/{name}" for name in ("runs", "stores", "cache")]
    plain = ["trainer=cpu", "loader.num_workers=0", *places]
    cfg = compose("config", [f"experiment={study}", *SMALL, *JOBS[study], *plain], return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg.copy())
    folder = run_folder(cfg, "toybirds", cfg.hydra.runtime.choices.method)
    with open_dict(cfg):
        del cfg["hydra"]
        cfg.paths.output = str(home / "runs" / folder)
    return cfg


def test_there_is_a_job_of_each_study():
    named = {path.stem for path in (CONF / "experiment").glob("*.yaml")}
    assert set(JOBS) == {name for name in named if re.match(r"(aga|deda)_(table|figure)\d", name)}


@pytest.mark.slow
@pytest.mark.parametrize("study", sorted(set(JOBS) - {"aga_table2", "deda_figure5b"}))
def test_a_job_runs(study, home, monkeypatch):
    cfg = job(study, home, monkeypatch)
    run(cfg)
    results = json.loads(Path(cfg.paths.output, "results.json").read_text())
    assert (results["experiment"], results["dataset"]) == (study, "toybirds")
    assert JOBS[study][0] == f"method={results['method']}"
    assert results["model"] == HydraConfig.get().runtime.choices.model
    assert (results["steps"], results["images"]["train"]) == (4, 40)
    assert results["selection"]["protocol"] == "paper"
    assert set(results["scores"]) == {"test", "ood_habitat", "ood_sketch"}
    assert {score["n"] for score in results["scores"].values()} == {2 * cfg.recipe.batch_size}


@pytest.mark.slow
def test_images_are_made_and_nothing_is_trained(home, monkeypatch):
    cfg = job("deda_figure5b", home, monkeypatch)
    run(cfg)
    [store] = (home / "stores" / "images").glob("*image_to_image*")
    assert len(list(store.rglob("*.png"))) == 40
    assert not Path(cfg.paths.output, "checkpoints").exists()


@pytest.mark.slow
def test_what_one_study_trained_is_only_looked_at_by_another(home, monkeypatch):
    first = job("aga_table1", home, monkeypatch)
    run(first)  # at once, where it was run above
    weights = Path(first.paths.output, "checkpoints", "final.ckpt")
    trained = weights.stat().st_mtime_ns
    second = job("aga_table2", home, monkeypatch)
    assert second.paths.output == first.paths.output
    run(second)
    looked = json.loads(Path(second.paths.output, "results.json").read_text())["explain"]["splits"]
    assert set(looked) == {"test", "ood_habitat", "ood_sketch"}
    assert {split["images"] for split in looked.values()} == {2}  # of debug=fast
    assert weights.stat().st_mtime_ns == trained


@pytest.mark.slow
@pytest.mark.cli
def test_a_sweep_runs_what_is_missing_and_stands_beside_what_is_published(tmp_path):
    asked = ("-m", "+experiment=deda_table3", *SMALL, "seed=0", "trainer=cpu", "loader.num_workers=0")
    done = run_cli(*asked, "method=vanilla", cwd=tmp_path)
    assert done.rc == 0, done.stderr
    [first] = tmp_path.rglob("results.json")
    written = first.stat().st_mtime_ns
    done = run_cli(*asked, "method=vanilla,mixup", cwd=tmp_path)
    assert done.rc == 0, done.stderr
    assert "This configuration has been run already" in done.stdout + done.stderr
    assert first.stat().st_mtime_ns == written
    found = [json.loads(file.read_text()) for file in tmp_path.rglob("results.json")]
    assert sorted(one["method"] for one in found) == ["mixup", "vanilla"]
    assert {one["experiment"] for one in found} == {"deda_table3"}
    done = run_python("-m", "genaug.reports", "runs", "--csv", "results.csv", cwd=tmp_path)
    assert done.rc == 0, done.stderr
    assert "The published numbers of deda_table3 are of aircraft, cars, cub, not of toybirds." in done.stdout
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if "/" not in line["split"]]  # no groups
    assert {(line["study"], line["dataset"], line["model"], line["n"]) for line in lines} == {
        ("deda_table3", "toybirds", "tiny", "64")
    }
    assert sorted((line["method"], line["split"]) for line in lines) == [
        (method, split) for method in ("mixup", "vanilla") for split in ("ood_habitat", "ood_sketch", "test")
    ]
