"""Every study of the papers in conf/experiment: its jobs compose, as published and on toybirds; its numbers add up."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from genaug.launch import TOOLS, check_values, run_folder
from genaug.reports.published import AVERAGE, Published, published_rows

ROOT = Path(__file__).parents[2]
CONF, EXPERIMENTS = ROOT / "conf", ROOT / "experiments"
NAMES = r"(aga|deda)_(table|figure)\d"
#: Those of the papers; other sweeps have no published numbers.
STUDIES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml") if re.match(NAMES, path.stem))
SMALL = ("dataset=toybirds", "debug=fast")


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cache
def axes(study: str) -> dict[str, list[str]]:
    """For each key of a study's sweep its overrides, as Hydra tells them apart."""
    params = OmegaConf.load(CONF / "experiment" / f"{study}.yaml").hydra.sweeper.params
    found = {}
    for key, values in params.items():
        [jobs] = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides([f"{key}={values}"]), None)
        found[key] = [override for [override] in jobs]
    return found


def jobs(study: str) -> list[list[str]]:
    """So many jobs of a sweep that each value of each axis but the seed is in one of them, and no two are the same."""
    values = [found for key, found in axes(study).items() if key != "seed"]
    return [[one[number % len(one)] for one in values] for number in range(max(map(len, values)))]


@cache
def composed(study: str, *overrides: str) -> DictConfig:
    """The configuration of a job, with Hydra's own; nobody may change it."""
    return compose("config", [f"experiment={study}", *overrides], return_hydra_config=True)


def test_there_are_studies_of_both_papers():
    tables = {"aga_table1", "aga_table2", "deda_table2", "deda_table3", "deda_table4", "deda_table5", "deda_table8"}
    figures = {"aga_figure6", "aga_figure8", *(f"deda_figure{name}" for name in ("5a", "5b", "7", "8", "8d", "9"))}
    assert tables | figures <= set(STUDIES)


@pytest.mark.parametrize("study", STUDIES)
def test_jobs_compose_as_published(study, monkeypatch):
    folders = []
    for job in jobs(study):
        cfg = composed(study, *job)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        check_values(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
        folders.append(run_folder(cfg, cfg.hydra.runtime.choices.dataset, cfg.hydra.runtime.choices.method))
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("study", STUDIES)
def test_on_toybirds_nothing_of_it_needs_a_network_or_a_gpu(study):
    tools = compose("config", ["dataset=toybirds"])
    job = [override for override in jobs(study)[-1] if not override.startswith("dataset=")]
    cfg = composed(study, *job, *SMALL)
    assert cfg.dataset == tools.dataset
    assert [tool for tool in TOOLS if cfg[tool] != tools[tool]] == []
    assert not cfg.model.get("pretrained")
    assert cfg.trainer.max_steps == 4


def test_the_command_line_wins_over_the_sweep():
    asked = ["method=vanilla", "seed=7", "dataset=toybirds"]
    params = [f"{key}={values}" for key, values in composed("deda_table2").hydra.sweeper.params.items()]
    [found] = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides([*params, *asked]), None)
    recipes = ("fgvc_scratch", "fgvc_scratch_resnet50", "fgvc_scratch_densenet")
    assert [sorted(job) for job in found] == [
        ["dataset=toybirds", "method=vanilla", f"recipe={recipe}", "seed=7"] for recipe in recipes
    ]


# --- published numbers ---------------------------------------------------------------------------------------------

PUBLISHED = sorted(path.parent.name for path in EXPERIMENTS.glob("*/published.csv"))
#: Averages that are not those of what they are said to be of: as printed, and right.
WRONG = {
    ("deda_table2", "cutmix"): (80.33, 80.22),
    ("deda_table2", "guided_sr"): (82.75, 82.64),
    ("deda_table3", "guided_sr"): (86.70, 89.20),
}


@pytest.mark.parametrize("study", PUBLISHED)
def test_each_published_number_is_one_that_the_study_measures(study):
    models = {composed(study, *job).hydra.runtime.choices.model for job in jobs(study)}
    overrides = {override for values in axes(study).values() for override in values}
    for one in published_rows(study):
        method, *needed = one.method.split()
        assert {f"method={method}", *needed} <= overrides, one
        assert one.model in {*models, AVERAGE}, one


def test_averages_are_those_of_their_parts_but_for_three_that_are_marked():
    wrong = {}
    for study in PUBLISHED:
        numbers = published_rows(study)
        for average in (one for one in numbers if one.is_average):
            parts = [one.value for one in numbers if one.is_part(average)]
            assert len(parts) in (3, 9)
            mean = sum(parts) / len(parts)
            if abs(mean - average.value) > 0.01:
                wrong[study, average.method] = (average.value, round(mean, 2))
                assert average.note == f"wrong in print: the mean of its parts is {mean:.2f}"
            else:
                assert not average.note
    assert wrong == WRONG


def test_averages_of_waterbirds_are_those_of_its_groups_by_size():
    sizes = {"Landbird, Land": 2255, "Landbird, Water": 2255, "Waterbird, Land": 642, "Waterbird, Water": 642}
    numbers: dict[str, dict[str, Published]] = {}
    for one in published_rows("deda_table5"):
        numbers.setdefault(one.method, {})[one.split.removeprefix("ood_waterbirds").removeprefix("/")] = one
    assert len(numbers) == 8
    for method, found in numbers.items():
        mean = sum(found[group].value * size for group, size in sizes.items()) / sum(sizes.values())
        assert (abs(mean - found[""].value) > 0.04) == (method == "vanilla"), method
        assert (f"{mean:.2f}" in found[""].note) == (method == "vanilla"), method


@pytest.mark.parametrize("study", STUDIES)
def test_each_study_is_told_of(study):
    text = (EXPERIMENTS / study / "README.md").read_text()
    assert f"python run.py -m experiment={study}\n" in text
    assert f"experiment={study} dataset=toybirds debug=fast" in text
    assert len(text.splitlines()) <= 40
    assert f"({study}/README.md)" in (EXPERIMENTS / "README.md").read_text()
    count = 1
    for values in axes(study).values():
        count *= len(values)
    listed = re.search(rf"\({study}/README.md\).*\| (?:\d+, )?(\d+) \|$", (EXPERIMENTS / "README.md").read_text(), re.M)
    assert listed
    assert study == "deda_figure8" or int(listed[1]) == count  # which shares its line


def test_published_files_have_the_same_columns():
    for study in PUBLISHED:
        with (EXPERIMENTS / study / "published.csv").open(newline="") as file:
            assert next(csv.reader(file)) == list(Published.__annotations__)
